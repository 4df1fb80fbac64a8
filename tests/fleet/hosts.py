"""Hosts of a fleet, for tests: each has a supervisor and workers of its own; in one test they share this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from poolmgr import tags
from poolmgr.fleet import records, script
from tests import helpers
from tests.helpers import T, alive, kill
from tests.program import Program
from tests.supervisor_process import SupervisorProcess

FLEET = "web"
LEASE = 2.0


def wait_for(predicate: Callable[[], T], timeout: float = 5.0, *, what: str = "", step: float = 0.1) -> T:
    """As :func:`tests.helpers.wait_for`, for what takes seconds: an answer to each look costs a supervisor and a worker
    more than their own work meanwhile."""
    return helpers.wait_for(predicate, timeout, what=what, step=step)


class Host:
    """One host.

    Args:
        directory: its own; short.
        url: of the server, as its workers reach it.
        before: what runs its programs: ``ip netns exec …``.
        environ: beside the fleet's name.
    """

    def __init__(self, directory: Path, url: str, *, before: Sequence[str] = (), **environ: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.url = url
        self.before = list(before)
        self.environ = {
            "REDIS_FLEET": FLEET,
            "REDIS_FLEET_LEASE": str(LEASE),
            "POOLMGR_AUTOSTART": "0",
            **environ,
        }
        self.supervisor = SupervisorProcess(str(directory / "s"), **self.environ)
        self.supervisor.command = self.before
        self.workers: list[Program] = []

    def start(self, workers: Sequence[str] = ("sync",)) -> Host:
        self.supervisor.start()
        for flavour in workers:
            self.add(flavour)
        return self

    def add(self, flavour: str = "sync", **environ: str) -> Program:
        worker = Program(
            "-m", "tests.fleet.worker", self.url, flavour, before=self.before,
            **{**self.environ, "POOLMGR_SOCKET": self.supervisor.path, **environ},
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    def callers(self, count: int) -> None:
        """So many in each worker."""
        for worker in self.workers:
            assert worker.ask(f"callers {count}") == "ok"

    def stats(self) -> list[dict[str, Any]]:
        return [json.loads(worker.ask("stats")) for worker in self.workers]

    @property
    def good(self) -> int:
        return sum(stats["good"] for stats in self.stats())

    @property
    def errors(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for stats in self.stats():
            for text, count in stats["errors"].items():
                found[text] = found.get(text, 0) + count
        return found

    @property
    def pids(self) -> list[int]:
        return [self.supervisor.pid, *(worker.pid for worker in self.workers)]

    def status(self) -> dict[str, Any]:
        """What its supervisor says of its server; empty: it knows of none yet."""
        return dict(next(iter(self.supervisor.status()["servers"]), {}))

    @property
    def lease(self) -> dict[str, Any]:
        found = self.status().get("lease") or {}
        return {"name": "", "grant": 0, "renewals": {}, "trouble": "", **found}

    def kill(self) -> None:
        """The host is gone, with all that runs on it."""
        for pid in self.pids:
            kill(pid)
        self.supervisor.process.wait(10)  # type: ignore[union-attr]
        for worker in self.workers:
            worker.stop()
        self.workers.clear()

    def signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            os.kill(pid, number)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def end(self) -> None:
        """In good order: its workers end, and then its supervisor by itself."""
        for worker in self.workers:
            worker.ends("end\n")
        self.workers.clear()
        wait_for(lambda: self.supervisor.process.poll() is not None, 20, what="the supervisor ends")  # type: ignore[union-attr]

    def reap(self) -> None:
        """All of it has been killed, or is now."""
        for worker in self.workers:
            worker.stop()
        self.workers.clear()
        if self.supervisor.process is not None:
            self.supervisor.process.kill()
            self.supervisor.process.wait(10)

    def stop(self) -> None:
        """Whatever state it is in."""
        with contextlib.suppress(ProcessLookupError, AssertionError):
            for pid in self.pids:
                if alive(pid):
                    kill(pid, signal.SIGCONT)
                    kill(pid)
        for worker in self.workers:
            worker.stop()
        if self.supervisor.process is not None:
            self.supervisor.process.wait(10)
        with contextlib.suppress(OSError):
            print(f"---- the supervisor's log, {self.supervisor.path}\n{Path(self.supervisor.log).read_text()[-6000:]}")
        if self.supervisor.ear is not None:
            self.supervisor.ear.close()


def table(client: redis.Redis, fleet: str = FLEET) -> records.Fleet | None:
    """The fleet's table now."""
    fields: dict[str, str] = client.hgetall(script.key(fleet))  # type: ignore[assignment]
    seconds, micros = client.time()
    return records.read(fleet, fields, seconds + micros / 1e6)


def connected(client: redis.Redis, fleet: str = FLEET) -> dict[str, int]:
    """How many connections bear each lease of the fleet."""
    found: dict[str, int] = {}
    for row in client.client_list():
        tag = tags.find(row["name"])
        if tag is not None and tag.lease.startswith(script.mark(fleet)):
            found[tag.lease] = found.get(tag.lease, 0) + 1
    return found


def rejected(client: redis.Redis) -> int:
    """Connections that the server has refused for ``maxclients``."""
    return int(client.info("stats")["rejected_connections"])
