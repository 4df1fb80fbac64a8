"""A whole service under test: gunicorn with its workers, its supervisor and what else it starts.

:class:`Service` starts and signals it and knows all its processes. Used by the integration and the chaos tests;
:mod:`tests.load` calls it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import warm
from tests.helpers import ROOT, RedisServer, alive, free_port, kill, status_of, wait_for

CONF = ROOT / "deploy" / "conf.py"
GUNICORN = (str(Path(sys.executable).with_name("gunicorn")),)
LOAD_APP = "tests.apps.load:app"


@dataclass
class Answer:
    """What a request came back with."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def processes_of(socket_path: str, having: str = "") -> dict[int, str]:
    """Every live process that was started with this ``POOLMGR_SOCKET``, with its command line.

    Master, workers, supervisor, keeper and embedded server all inherit it, whatever became of their
    parents; so this finds what a service leaves behind. (A Redis server writes its title over its
    environment, and is known by its socket's path in that.)

    Args:
        having: only those with these words in their command line. Tests ask hundreds of times, of all processes of the
            machine, and then two thirds of the files are not read.
    """
    wanted = f"POOLMGR_SOCKET={socket_path}".encode()
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/cmdline", "rb", buffering=0) as file:
                command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
            if not command or having not in command:  # threads of the kernel and zombies have none
                continue
            ours = f"{socket_path}." in command
            if not ours:
                with open(f"/proc/{name}/environ", "rb", buffering=0) as file:
                    ours = wanted in file.read().split(b"\0")
            if ours and alive(int(name)):
                found[int(name)] = command
    return found


def children_of(pid: int) -> list[int]:
    """The live children of a process, in the order of their pids."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found.update(int(child) for child in (task / "children").read_text().split())
    return sorted(child for child in found if alive(child))


class Service:
    """gunicorn on a free port of 127.0.0.1, with a log file instead of a terminal.

    Args:
        directory: short and private; where the supervisor's socket is to be.
        app: what to serve; None: the worker service.
        workers, threads, worker_class: as environment variables, the way an operator sets them.
        redis_url: None: the embedded server.
        environ: further variables; None removes one.
        arguments: further arguments of gunicorn.
        conf: the configuration file, or ``python:module``; None: ``program`` is another server than gunicorn, and its
            address is among the ``arguments``.
        program: gunicorn's command.
        port: of the service; by default a free one.
        cold: it starts as a real one does, without what :mod:`tests.warm` has loaded. By default so with another
            command, and always where the worker class replaces what is loaded.
    """

    def __init__(
        self,
        directory: Path,
        *,
        app: str | None = None,
        workers: int | None = 2,
        threads: int = 4,
        worker_class: str = "gthread",
        redis_url: str | None = None,
        environ: Mapping[str, str | None] | None = None,
        arguments: tuple[str, ...] = (),
        conf: str | None = str(CONF),
        program: tuple[str, ...] = GUNICORN,
        port: int | None = None,
        cwd: Path = ROOT,
        cold: bool | None = None,
    ) -> None:
        self.directory = directory
        self.socket = str(directory / "s")
        self.port = port or free_port()
        self.log_path = directory.with_name(directory.name + f"-{self.port}.log")
        self.cwd = cwd
        by_default = program != GUNICORN if cold is None else cold
        self.cold = by_default or worker_class in ("gevent", "eventlet")
        wanted: dict[str, str | None] = {
            **os.environ,
            "POOLMGR_SOCKET": self.socket,
            "POOLMGR_METRICS": "off",
            "POOLMGR_LOG_FORMAT": "json",
            "WORKER_CLASS": worker_class,
            "WORKER_THREADS": str(threads),
            "WEB_CONCURRENCY": None if workers is None else str(workers),
            "REDIS_URL": redis_url,
            "PYTHONFAULTHANDLER": "1",
            **(environ or {}),
        }
        self.environ = {name: value for name, value in wanted.items() if value is not None}
        self.command = [*program, *([] if conf is None else ["-c", conf])]
        if conf is not None and "PORT" not in self.environ:
            self.command += ["--bind", f"127.0.0.1:{self.port}"]
        self.command += [*arguments, *([app] if app else [])]
        self.process: subprocess.Popen[bytes] | None = None

    # ---- its life ------------------------------------------------------------------------------

    def spawn(self) -> Service:
        """Start it and do not wait."""
        with self.log_path.open("ab") as log:
            self.process = warm.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environ, cwd=self.cwd,
                cold=self.cold,
            )  # fmt: skip
        return self

    def start(self, *, path: str = "/healthz") -> Service:
        """Start it and wait until it answers and all its workers are there."""
        self.spawn()
        wait_for(lambda: self.answers(path), 60, what=f"the service answers; its log: {self.log[-3000:]}")
        count = int(self.environ.get("WEB_CONCURRENCY") or 1)
        wait_for(lambda: len(self.workers()) >= count, 10, what=f"{count} workers")
        return self

    def answers(self, path: str = "/healthz") -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"gunicorn ended with status {self.process.returncode}:\n{self.log[-5000:]}")
        try:
            return self.get(path, timeout=5).status < 500
        except OSError:
            return False

    def run(self, timeout: float = 60) -> tuple[int, str]:
        """Start one that is expected to end by itself; its exit status and what it printed."""
        self.spawn()
        assert self.process is not None
        return status_of(self.process, timeout), self.log

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGINT, timeout: float = 10) -> int:
        """End the master and wait for it; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return status_of(self.process, timeout)

    def clean_up(self) -> None:
        """Kill whatever is still there, and forget the log; whoever looks into a failure finds its end."""
        for _ in range(50):
            left = processes_of(self.socket)
            for pid in left:
                kill(pid)
            if not left:
                break
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait(10)
        print(f"---- the log of {self.pid}, {self.directory}\n{self.log[-20000:]}" if self.process else "never started")
        self.log_path.unlink(missing_ok=True)

    # ---- what is known of it -------------------------------------------------------------------

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The log's lines that are JSON; with ``name`` those of one event."""
        found = []
        for line in self.log.splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and (not name or event.get("event") == name):
                    found.append(event)
        return found

    def processes(self) -> dict[int, str]:
        return processes_of(self.socket)

    def masters(self) -> list[int]:
        """The oldest first. A master of gunicorn is one that is no other's worker."""
        gunicorns = processes_of(self.socket, "gunicorn")
        fathers = {pid for pid in gunicorns if children_of(pid)}
        if self.process is not None and alive(self.pid):
            fathers.add(self.pid)
        return sorted(fathers)

    def workers(self, master: int | None = None) -> list[int]:
        """The worker processes of a master: of the first one by default."""
        found = []
        for pid in children_of(master or self.pid):
            with contextlib.suppress(OSError):
                environ = Path(f"/proc/{pid}/environ").read_bytes()
                if f"GUNICORN_PID={master or self.pid}".encode() in environ.split(b"\0"):
                    continue  # the next master, started by USR2
                found.append(pid)
        return found

    def supervisor(self) -> int:
        """Its pid, or 0."""
        return next(iter(processes_of(self.socket, "-m poolmgr.supervisor")), 0)

    def files(self) -> list[str]:
        """What is in its directory."""
        return sorted(path.name for path in self.directory.iterdir()) if self.directory.exists() else []

    def upgrade(self, timeout: float = 60, *, master: int | None = None) -> int:
        """USR2 to a master, the first one by default: have a second one start, and wait until its workers
        are there; its pid."""
        first = master or self.pid
        before = set(children_of(first))
        # Workers added by TTIN are the first master's only.
        count = min(len(self.workers(first)), int(self.environ.get("WEB_CONCURRENCY", 1)))
        asked = 0.0

        def second() -> int:
            nonlocal asked
            if (
                time.monotonic() > asked + 2
            ):  # gunicorn ignores it until it has noticed that its own first master is gone
                asked = time.monotonic()
                kill(first, signal.SIGUSR2)
            for pid in children_of(first):
                with contextlib.suppress(OSError):
                    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                    if pid not in before and f"GUNICORN_PID={first}".encode() in variables:
                        return pid
            return 0

        pid = wait_for(second, timeout, what="a second master")
        wait_for(lambda: len(self.workers(pid)) >= count, timeout, what="the second master's workers")
        return pid

    # ---- calling it ----------------------------------------------------------------------------

    @property
    def token(self) -> str:
        """The token in use; waits until it is made."""
        given = self.environ.get("WORKER_TOKEN")
        if given:
            return given
        if file := self.environ.get("WORKER_TOKEN_FILE"):
            return Path(file).read_text().strip()
        path = self.directory / "token"
        wait_for(path.exists, what="the token's file")
        return path.read_text().strip()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 15,
    ) -> Answer:
        """One request on a connection of its own.

        Raises:
            OSError, http.client.HTTPException: there was no answer.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {"Connection": "close", **(headers or {})})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def ask(self, *words: object, path: str = "/", headers: Mapping[str, str] | None = None) -> Answer:
        """One command over HTTP, with the token."""
        return self.post(list(words), path=path, headers=headers)

    def post(self, value: object, *, path: str = "/", headers: Mapping[str, str] | None = None) -> Answer:
        given = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        return self.request("POST", path, json.dumps(value), given)


Serve = Callable[..., Service]
"""The fixture ``serve``."""


# ---- what is waited for ------------------------------------------------------------------------


def renewed(service: Service, before: set[int]) -> set[int]:
    """The workers of a service of two, once none of the earlier ones is there any more."""
    wait_for(lambda: len(service.workers()) == 2 and not before & set(service.workers()), 20, what="new workers")
    return set(service.workers())


def has_workers(service: Service, count: int) -> bool:
    return len(service.workers()) == count


def nothing_is_left(service: Service) -> bool:
    return not service.processes() and not service.files()


@contextlib.contextmanager
def running_service(server: RedisServer, *, workers: int = 2, **environ: str) -> Iterator[Service]:
    """A service for all tests of a file."""
    directory = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    environ["WORKER_TOKEN"] = "the-token"
    made = Service(directory, redis_url=server.url, workers=workers, environ=environ)
    try:
        yield made.start()
    finally:
        made.clean_up()
        shutil.rmtree(directory)
