"""Permits without a supervisor, for tests of the pool alone."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from typing import Any

from poolmgr.exceptions import ConnectionPoolTimeoutError, ServerDownError
from poolmgr.member.core.bounds import Cause
from poolmgr.member.ports import Bell, Outage, PoolPort, Shortage
from poolmgr.wire import Endpoint, Gate


class FakePermit:
    gate = None

    def __init__(self, permits: FakePermits, serial: int) -> None:
        self.permits = permits
        self.serial = serial
        self.socket: socket.socket | None = None
        self.ended = False

    @property
    def name(self) -> str:
        return f"{self.permits.tag}-{self.serial}" if self.permits.tag else ""

    def hold(self, sock: socket.socket, below: int = -1) -> None:
        pass

    def gone(self) -> None:
        if not self.ended and self.socket is None:
            self.ended = True
            self.permits.out.pop(self.serial, None)

    def close(self, sock: socket.socket) -> None:
        if self.ended or self.socket is not None:
            return
        self.socket = sock
        self.permits.closing.append(self)
        if self.permits.prompt:
            self.permits.sweep()

    def __del__(self) -> None:
        self.gone()


class FakePermits:
    """At most ``limit`` permits. Sockets are closed as rule M3 says, by :meth:`sweep`."""

    def __init__(
        self, limit: int = 10**6, tag: str = "", prompt: bool = False, endpoint: Endpoint | None = None
    ) -> None:
        self.endpoint = endpoint or Endpoint("tcp://nowhere:1")
        self.limit = limit
        self.tag = tag
        self.prompt = prompt
        self.surplus = 0
        self.outage: Outage | None = None
        self.pending: Cause = "others"
        self.obstacle = ""
        self.over = False
        self.serves_here = False
        self.unreached = self.left = False
        self.out: dict[int, bool] = {}
        self.closing: list[FakePermit] = []
        self.claimants: set[FakeClaimant] = set()
        self.troubles: list[tuple[str, str]] = []
        self.refused = 0
        self.most = 0
        self._serials = itertools.count(1)
        self._sweeping = threading.RLock()

    def let_in(self, gate: Gate, until: float) -> None: ...

    def shut_out(self, gate: Gate, why: str) -> None: ...

    def take(self, claimant: FakeClaimant | None = None) -> FakePermit | None:
        """As the member's: who waits by itself comes first."""
        before = 0 if claimant is not None else len(self.claimants)
        if len(self.out) + before >= self.limit:
            self.sweep()
        if len(self.out) + before >= self.limit:
            self.refused += 1
            return None
        permit = FakePermit(self, next(self._serials))
        self.out[permit.serial] = True
        self.most = max(self.most, len(self.out))
        return permit

    def attend(self, seconds: float) -> bool:
        return False

    def wait(self, timeout: float | None) -> FakePermit:
        if self.outage is not None:
            raise ServerDownError("down")
        for _ in range(max(1, int(min(60 if timeout is None else timeout, 60) * 500))):
            permit = self.take()
            if permit is not None:
                return permit
            threading.Event().wait(0.002)
        raise ConnectionPoolTimeoutError("no permit", reason="budget")

    def claimant(self, timeout: float | None, bell: Bell) -> FakeClaimant:
        return FakeClaimant(self, timeout)

    def prefer(self) -> None:
        pass

    def leave(self) -> None:
        self.left = True

    def give_up(self) -> bool:
        if self.surplus > 0:
            self.surplus -= 1
            return True
        return False

    def trouble(self, kind: str, detail: str, began: float = 0.0) -> None:
        self.troubles.append((kind, detail))

    def renew(self, endpoint: Endpoint) -> None:
        pass

    def reached(self) -> None:
        pass

    def explain(self) -> Shortage:
        return Shortage("budget", f"all {self.limit} permits are taken")

    def sweep(self) -> None:
        """Close what was handed over, reading to end-of-file."""
        with self._sweeping:
            while self.closing:
                permit = self.closing.pop()
                sock = permit.socket
                assert sock is not None
                try:
                    sock.settimeout(1)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65536):
                        pass
                except OSError:
                    pass
                sock.close()
                permit.ended = True
                self.out.pop(permit.serial, None)


class FakeClaimant:
    def __init__(self, permits: FakePermits, timeout: float | None) -> None:
        self.permits = permits
        self.until = time.monotonic() + min(60 if timeout is None else timeout, 60)
        permits.claimants.add(self)

    def look(self) -> FakePermit | float:
        if self.permits.outage is not None:
            raise ServerDownError("down")
        permit = self.permits.take(self)
        if permit is None and time.monotonic() >= self.until:
            raise ConnectionPoolTimeoutError("no permit", reason="budget")
        return 0.002 if permit is None else permit

    def leave(self) -> None:
        self.permits.claimants.discard(self)


class FakeMember:
    """Hands out :class:`FakePermits`; ``limit`` is for each endpoint. ``prompt``: sockets are closed in the
    caller's way, which the real one never does."""

    def __init__(self, limit: int = 10**6, tag: str = "", prompt: bool = False) -> None:
        self.limit = limit
        self.tag = tag
        self.prompt = prompt
        self.pools: list[PoolPort] = []
        self.all: dict[str, FakePermits] = {}
        self.endpoints: list[Endpoint] = []

    def attach(self, endpoint: Endpoint, pool: Any) -> FakePermits:
        self.endpoints.append(endpoint)
        return self.all.setdefault(endpoint.key, FakePermits(self.limit, self.tag, self.prompt, endpoint))

    @property
    def only(self) -> FakePermits:
        (permits,) = self.all.values()
        return permits
