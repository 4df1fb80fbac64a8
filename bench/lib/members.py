"""Members without pools: many real processes' links to a supervisor, played by one.

Each member is a real process, because the supervisor identifies members by what the kernel says (pid and start
time, a pidfd to follow). The process does nothing else: it connects to the supervisor, hands its end to the player
(SCM_RIGHTS) and sleeps. The player obeys the protocol's rules for all members: it reports the demand that the bench
sets, acknowledges lower limits at once and answers when asked. No member opens a connection to Redis, so that only
the supervisor works.
"""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import select
import signal
import socket
import termios
import time
from array import array
from collections import deque
from collections.abc import Iterable

from poolmgr import own_tag, wire
from poolmgr.kernel import processes


class Actor:
    """One member, as its player sees it."""

    __slots__ = ("acked", "busy", "decoder", "limit", "pid", "since", "sock", "want")

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.sock = sock
        self.decoder = wire.Decoder(wire.FromSupervisor)
        self.limit = 0
        self.acked = 0
        self.busy = 0
        """Permits in use."""
        self.want = 0
        """Permits wanted; more than ``limit``: it waits."""
        self.since = 0.0
        """When it began to wait."""


class Troupe:
    """This many members of one server. Use it as a context manager, which ends the processes.

    Args:
        socket_path: the supervisor's.
        endpoint: the server's.
    """

    def __init__(self, socket_path: str, endpoint: wire.Endpoint, count: int) -> None:
        self._path = socket_path
        self._endpoint = endpoint
        self._epoll = select.epoll()
        self._by_fd: dict[int, Actor] = {}
        self.actors: list[Actor] = []
        self.server = ""
        self.waits: list[float] = []
        """Seconds from demand to grant, for each that was granted."""
        self._granted: deque[Actor] = deque()
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for _ in range(count):
            self._recruit()

    def __enter__(self) -> Troupe:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self.actors:
            os.kill(actor.pid, signal.SIGKILL)
        for actor in self.actors:
            os.waitpid(actor.pid, 0)
            actor.sock.close()
        self._near.close()
        self._far.close()
        self._epoll.close()

    def _recruit(self) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                link = socket.socket(socket.AF_UNIX)
                link.connect(self._path)
                socket.send_fds(self._far, [b"here"], [link.fileno()])
                link.close()
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        _, fds, _, _ = socket.recv_fds(self._near, 16, 1)
        actor = Actor(pid, socket.socket(fileno=fds[0]))
        start, salt = processes.start_time(pid), secrets.token_hex(3)
        tag = f"pm1.{own_tag.place(self._path)}.{own_tag.boot()}.{pid}.{start}.{salt}"
        hello = wire.Hello(tag=tag, link=1, endpoints=(self._endpoint,), title="bench", descriptors=1000)
        actor.sock.sendall(wire.encode(hello))
        actor.sock.setblocking(False)
        self._epoll.register(actor.sock, select.EPOLLIN)
        self._by_fd[actor.sock.fileno()] = actor
        self.actors.append(actor)

    # ---- what members say ------------------------------------------------------------------------

    def demand(self, actor: Actor, permits: int) -> None:
        """It wants so many from now on; 0: it is idle."""
        actor.want = permits
        actor.busy = min(permits, actor.limit)
        if permits > actor.limit:
            actor.since = time.perf_counter()
        self._report(actor)

    def _report(self, actor: Actor) -> None:
        actor.sock.send(self._frame(actor, actor.busy, max(0, actor.want - actor.limit)))

    def _frame(self, actor: Actor, busy: int, waiting: int = 0) -> bytes:
        report = wire.Report(
            self.server, actor.acked, open=busy, in_use=busy, waiting=waiting, peak=busy + waiting,
            spare=actor.limit - busy,
        )  # fmt: skip
        return wire.encode(report)

    # ---- what they hear ----------------------------------------------------------------------------

    def play(self, timeout: float) -> list[Actor]:
        """Read the messages that have come, or wait for them. Returns the actors whose demand was granted."""
        granted: list[Actor] = []
        for fd, _ in self._epoll.poll(timeout):
            actor = self._by_fd[fd]
            data = actor.sock.recv(65536)
            if not data:
                raise RuntimeError("the supervisor has closed a link")
            self._hear(actor, actor.decoder.feed(data), granted)
        return granted

    def _hear(self, actor: Actor, messages: Iterable[wire.Message], granted: list[Actor]) -> None:
        answer = False
        for message in messages:
            if isinstance(message, wire.Limit):
                waited = actor.want > actor.limit
                actor.limit, actor.acked = message.limit, message.seq
                actor.busy = min(actor.want, actor.limit)
                answer = True
                if waited and actor.want <= actor.limit:
                    self.waits.append(time.perf_counter() - actor.since)
                    granted.append(actor)
            elif isinstance(message, wire.Ask):
                answer = True
            elif isinstance(message, wire.Resolved):
                self.server = message.server
            elif isinstance(message, wire.Refused):
                raise RuntimeError(f"the supervisor refuses: {message.reason}")
        if answer and actor not in granted:
            self._report(actor)

    def settle(self, quiet: float = 0.3, timeout: float = 20.0) -> None:
        """Play until nothing has been said for a while."""
        deadline = time.monotonic() + timeout
        while self._epoll.poll(quiet):
            self.play(0)
            if time.monotonic() > deadline:
                raise RuntimeError("the supervisor does not come to rest")

    # ---- load ----------------------------------------------------------------------------------------

    def saturate(self, seconds: float, outstanding: int, rng: random.Random) -> int:
        """Send demands past the limit, this many at a time. Returns how many were granted. A member whose demand was
        granted is idle from then on, so that the others can have its permits."""
        end = time.perf_counter() + seconds
        idle = [actor for actor in self.actors if not actor.want]
        rng.shuffle(idle)
        queue = deque(idle)
        waiting = 0
        done = 0
        while time.perf_counter() < end:
            while waiting < outstanding and queue:
                actor = queue.popleft()
                self.demand(actor, actor.limit + 1)
                waiting += 1
            for actor in self.play(0.05):
                waiting -= 1
                done += 1
                self.demand(actor, 0)
                queue.append(actor)
        return done

    def trickle(self, seconds: float, rate: float, rng: random.Random) -> int:
        """Demands past the limit at a steady rate, each by a member that is idle; how many were granted."""
        clock = time.perf_counter
        start = due = clock()
        idle = deque(rng.sample(self.actors, len(self.actors)))
        done = 0
        while (now := clock()) < start + seconds:
            if now >= due:
                due += 1 / rate
                if idle:
                    actor = idle.popleft()
                    self.demand(actor, actor.limit + 1)
            for actor in self.play(max(0.0, min(due, start + seconds) - clock())):
                done += 1
                self.demand(actor, 0)
                idle.append(actor)
        return done

    def flood(self, seconds: float) -> int:
        """Send changes of demand within the limit, as many as the supervisor takes. Returns how many it took.

        A member sends the next one when the supervisor has read the last (SIOCOUTQ, unix(7)), so that it never reads
        two at once.
        """
        for actor in self.actors:
            if not actor.limit:
                self.demand(actor, 1)
        self.settle()
        frames = [
            [self._frame(actor, busy) for busy in (0, actor.limit)] for actor in self.actors
        ]  # fmt: skip
        unread = array("i", [0])
        sent, turn = 0, 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            turn += 1
            for actor, both in zip(self.actors, frames, strict=True):
                fcntl.ioctl(actor.sock, termios.TIOCOUTQ, unread)
                if not unread[0]:
                    actor.sock.send(both[turn % 2])
                    sent += 1
            self.play(0)
        return sent

    def rest(self) -> None:
        """End the demand of every member."""
        for actor in self.actors:
            if actor.want:
                self.demand(actor, 0)
        self.settle()
