"""A seeded storm of faults against a service under load, and what must be true of it afterwards.

The server is started with room for the budget and for the observers, and no more: its count of rejected
connections is the oracle, exact to one connection for one microsecond.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.chaos import faults
from tests.helpers import RedisServer, alive, kill, tool, wait_for
from tests.load import Load, Outcome
from tests.service import Service

OBSERVERS = 3
"""Connections of the test's own: at most this many at a time, one of them a stranger's."""


@dataclass
class Report:
    """What came of a storm."""

    seed: int
    seconds: float
    requests: int
    done: list[str]
    failed: list[Outcome]
    rejected: int
    slowest: float
    left: list[str]
    log: str

    @property
    def passed(self) -> bool:
        return not self.failed and self.rejected == 0 and not self.left

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {len(self.done)} faults in {self.seconds:.0f} s, {self.requests} requests, "
            f"slowest {self.slowest:.2f} s",
            f"rejected connections: {self.rejected}",
            f"failed requests: {len(self.failed)}",
            *(f"  {outcome}" for outcome in self.failed[:10]),
            f"left over: {', '.join(self.left) or 'nothing'}",
        ]
        return "\n".join(lines)


@dataclass
class Storm:
    """One run. ``directory`` must be short, private and empty."""

    directory: Path
    seed: int
    seconds: float
    budget: int = 12
    least: int = 0
    """Faults that there are at least: on a busy machine the storm takes longer."""
    every: float = 1.0
    workers_wanted: int = 4
    callers: int = 24
    chosen: dict[faults.Fault, float] = field(default_factory=lambda: dict(faults.FAULTS))
    tell: Callable[[str], None] = lambda _: None
    kills: list[float] = field(default_factory=list)
    hung: list[int] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    guests: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    unlucky: list[str] = field(default_factory=list)
    """Guests whose calls did not all succeed."""
    stranger: redis.Redis | None = None
    _timers: list[threading.Timer] = field(default_factory=list)

    def run(self) -> Report:
        rng = random.Random(self.seed)
        self.server = RedisServer(self.directory, maxclients=self.budget + OBSERVERS).start()
        home = self.directory / "s"
        home.mkdir(mode=0o700)
        self.service = Service(
            home,
            app="tests.apps.load:app",
            workers=self.workers_wanted,
            threads=8,
            redis_url=self.server.url,
            environ={"REDIS_CONNECTION_BUDGET": str(self.budget), "REDIS_POOL_TIMEOUT": "20"},
        )
        begun = time.monotonic()
        self.end = begun + self.seconds
        try:
            self.service.start(path="/get")
            self.master = self.service.pid
            with Load(self.service, "/hold?ms=40", callers=self.callers, timeout=60) as load:
                load.wait_for_answers(20)
                self._rage(rng)
                self._calm()
                load.wait_for_answers(50, timeout=60)
            left = self._close()
            return Report(
                seed=self.seed,
                seconds=time.monotonic() - begun,
                requests=len(load.outcomes),
                done=self.done,
                failed=load.failures(self.kills),
                rejected=self.server.rejected(),
                slowest=load.slowest(),
                left=left,
                log=self.service.log,
            )
        finally:
            for timer in self._timers:
                timer.cancel()
            for _, process in self.guests:
                if process.poll() is None:
                    process.kill()
                process.wait()
            self.service.clean_up()
            self.server.stop()

    # ---- while it lasts --------------------------------------------------------------------------

    def _rage(self, rng: random.Random) -> None:
        kinds, weights = list(self.chosen), list(self.chosen.values())
        following = time.monotonic()
        while self.remaining > 0 or len(self.done) < self.least:
            if len(self.done) < self.least:
                self.end = max(self.end, time.monotonic() + self.every)
            fault = rng.choices(kinds, weights)[0]
            try:
                what = fault(self, rng)
            except (ProcessLookupError, FileNotFoundError, OSError, subprocess.CalledProcessError) as problem:
                # Two faults met: what this one wanted to hit was hit by another meanwhile.
                what = f"{fault.__name__} missed: {problem}"
            if what:
                self.done.append(what)
                self.tell(what)
            following += self.every
            self._until(following)

    def _until(self, at: float) -> None:
        with contextlib.suppress(AssertionError):
            wait_for(lambda: time.monotonic() >= min(at, self.end), max(0.01, at - time.monotonic() + 1), step=0.02)

    def _calm(self) -> None:
        """Nothing is stopped any more, and the budget is what it was."""
        for timer in self._timers:
            timer.join()
        for kind, process in self.guests:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            if process.returncode != 0:
                self.unlucky.append(f"guest {kind} {process.pid} ended with {process.returncode}")
        wait_for(lambda: all(faults.gone(pid) for pid in self.hung), 40, what="the hung supervisor is replaced")
        self.set_budget(self.budget)

    def _close(self) -> list[str]:
        """Stop the service as an operator does; what is left of it afterwards."""
        os.kill(self.master, 15)
        left: list[str] = []
        unlucky = self.unlucky

        def clean() -> bool:
            left[:] = [f"process {pid} {command[:80]}" for pid, command in self.service.processes().items()]
            left.extend(f"file {name}" for name in self.service.files() if name != "token")
            left.extend(f"connection {client['name']}" for client in self.server.clients())
            return not left

        with contextlib.suppress(AssertionError):
            wait_for(clean, 40, step=0.05)
        return left + unlucky

    # ---- for the faults --------------------------------------------------------------------------

    @property
    def remaining(self) -> float:
        """Seconds until the storm is over."""
        return self.end - time.monotonic()

    def workers(self) -> list[int]:
        return [pid for pid in self.service.workers(self.master) if alive(pid)]

    def pause(self, pid: int, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after some time."""
        kill(pid, 19)
        self.later(seconds, lambda: kill(pid, 18))

    def later(self, seconds: float, undo: Callable[[], object]) -> None:
        """The fault is over; at the latest when the storm is."""
        timer = threading.Timer(seconds, undo)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def invite(self, kind: str, seconds: float) -> int:
        """Another program beside the service; its pid."""
        with self.service.log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.guest", kind, f"{seconds:.2f}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.service.environ,
                cwd=self.service.cwd,
            )
        self.guests.append((kind, process))
        return process.pid

    def ended_guests(self) -> int:
        return sum(process.poll() is not None for _, process in self.guests)

    def receive_stranger(self, name: str, seconds: float) -> None:
        """A connection with that name, for some time."""
        self.stranger = client = redis.Redis.from_url(
            self.server.unix_url, single_connection_client=True, client_name=name
        )
        client.ping()

        def leave() -> None:
            client.close()
            self.stranger = None

        self.later(seconds, leave)

    def second_master(self) -> int:
        """USR2; the new master's pid when its workers are there."""
        return self.service.upgrade(60, master=self.master)  # it may have to wait for a hung supervisor

    def await_end(self, pid: int) -> None:
        wait_for(lambda: faults.gone(pid), 60, what=f"process {pid} ends", step=0.02)

    def set_budget(self, budget: int) -> None:
        def done() -> bool:
            with contextlib.suppress(subprocess.SubprocessError):
                server = self.server.path if not self.server.port else f"127.0.0.1:{self.server.port}"
                tool("budget", server, str(budget), environ=self.service.environ)
                return True
            return False

        wait_for(done, 40, what="the budget is set", step=0.1)
