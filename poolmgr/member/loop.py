"""The one background thread of a process: it carries the core's messages and does its bidding.

It never decides. Each turn: wait for something to happen, take in what has come back, look at the
pools that the core wants to know of, let the core decide, do what it says. Nothing in it blocks:
sockets are non-blocking, starting a supervisor is a helper's (:mod:`poolmgr.member.finding`), and
pools promise not to block either.

Under gevent's monkey-patching it is a greenlet; everything it uses is made when it starts, so after
the patching.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from poolmgr import descriptors
from poolmgr.member.clients import Clients, call
from poolmgr.member.closing import Closer
from poolmgr.member.contact import Contact
from poolmgr.member.core import Effect, Grow, Settled, Shed, Wake
from poolmgr.member.permits import ServerPermits
from poolmgr.member.ports import Usage
from poolmgr.member.waker import Waker

if TYPE_CHECKING:
    from poolmgr.member.agent import Member

log = logging.getLogger("poolmgr.member")

NEVER = float("inf")

STATS_EVERY = 1.0

COUNT_EVERY = 5.0
"""Seconds between two looks at the process's file descriptors."""

AUDIT_EVERY = 1.0
"""Seconds between two looks for permits that nobody holds; the second that finds it acts."""

AFTER_FAILURE = 0.1
"""Seconds of rest after a defect of ours, so that it does not fill the log."""

ALL = 1 << 30


class Loop:
    """The thread's body."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._core = member.core
        self.waker = Waker()
        self.clients = Clients(member.locked)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.waker.fileno(), selectors.EVENT_READ, lambda events, at: self.waker.clear())
        self.contact = Contact(member, self._selector, self.waker)
        self._closer = Closer(self._selector, self._gone, self._lost)
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()
        self._wake = 0.0
        self._counted = self._audited = self._reported = 0.0
        self._granted = self._room = 0
        """Permits at all servers; how many the soft limit of open files is known to leave room for."""
        self._suspects: set[int] = set()
        self._registration = 0
        self._leaving = self._stopping = False
        self._left = threading.Event()

    # ---- other threads -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = thread = threading.Thread(target=self._run, name="poolmgr-member", daemon=True)
                thread.start()  # not self._thread: a signal handler may have started another one, and this one ends

    def leave(self, timeout: float) -> None:
        """Close what is idle and say goodbye."""
        self._leaving = True
        self.waker.poke()
        self._left.wait(timeout)

    def stop(self) -> None:
        """End the thread and close everything it has; no goodbye."""
        self._stopping = True
        self.waker.poke()
        if self._thread is not None:
            self._thread.join()
        self.abandon()

    def abandon(self) -> None:
        """In a forked child: close our copies, touch nothing that the parent uses too."""
        self.waker.close()
        self.contact.abandon()
        self._closer.abandon()
        with contextlib.suppress(Exception):  # gevent's refers to an event loop that the fork has changed
            self._selector.close()

    # ---- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping and self._thread is threading.current_thread():
            try:
                self._turn()
            except Exception:
                log.exception("agent.failed")
                time.sleep(AFTER_FAILURE)
                self._wake = 0.0

    def _turn(self) -> None:
        pause = max(0.0, self._wake - time.monotonic())
        for key, events in self._selector.select(None if pause == NEVER else pause):
            key.data(events, time.monotonic())
        self._carry_out(self._member.locked(self._core.serve))
        now = time.monotonic()
        self._take_back(now)
        settled = self._settle(now)
        self.contact.flush()
        self._carry_out(settled.effects)
        self._wake = min(settled.wake, self._closer.expire(now), self.clients.tick(now), self._stats(now))
        if self._leaving:
            self._leave()
        else:
            self._wake = min(self._wake, self.contact.mind(now, idle=not self.clients))

    def _take_back(self, now: float) -> None:
        """Begin to close what has been handed over."""
        closes = self._member.closes
        while closes:
            serial, sock = closes.popleft()
            if self._member.locked(self._core.closing, serial):  # else a repetition: the closer may have it already
                self._closer.add(serial, sock, now)

    def _settle(self, now: float) -> Settled:
        """Show the core what it wants to see, and let it decide."""
        while self._member.vanished:
            self._member.locked(self._forget, self._member.vanished.popleft())
        if now >= self._counted + COUNT_EVERY:
            self._counted = now
            self._room = 0  # others use descriptors too
            self._core.descriptors = descriptors.left(self._open())
        looks = cast("list[ServerPermits]", self._member.locked(self._core.looks, now))
        usages = [(permits, self.clients.usage(permits)) for permits in looks]
        settled = self._member.locked(self._decide, usages, now)
        if self._granted > self._room:
            self._make_room(self._granted)
        return settled

    def _make_room(self, granted: int) -> None:
        """More may be opened than the soft limit of open files was known to leave."""
        if descriptors.make_room(self._open(), granted):
            log.info("descriptors.raised", extra={"connections": granted})
        self._room = granted

    def _decide(self, usages: list[tuple[ServerPermits, Usage | None]], now: float) -> Settled:
        """Under the member's lock."""
        self._member.absorb()
        if now >= self._audited + AUDIT_EVERY:
            self._audited = now
            self._suspects = self._member.audit(self._suspects)
        for permits, usage in usages:
            if usage is not None:
                self._core.observe(permits, usage, now)
        self._granted = self._core.granted
        return self._core.settle(now)

    def _forget(self, permits: ServerPermits) -> None:
        """Under the member's lock."""
        self.clients.forget(permits)
        self._core.detach(permits)

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Shed(attachment, count):
                    call(cast(ServerPermits, attachment), "shed", count)
                case Grow(attachment):
                    call(cast(ServerPermits, attachment), "grow")
                case Wake(waiter):
                    bell = self._member.waiters.get(cast(int, waiter))
                    if bell is not None:
                        bell.ring()
                    else:
                        self._member.locked(self._core.unqueue, waiter)

    def _stats(self, now: float) -> float:
        """Send counters that have changed; when to come again."""
        if self.contact.link is None or not self.clients:
            return NEVER
        if self._registration != self.contact.registrations:
            self._registration = self.contact.registrations
            self.clients.tell_anew()
        elif now < self._reported + STATS_EVERY:
            return self._reported + STATS_EVERY
        self._reported = now
        for stats in self.clients.stats():
            self._member.locked(self.contact.post, stats)
        self.contact.flush()
        return now + STATS_EVERY

    def _open(self) -> int:
        return self._member.locked(lambda: self._core.open)

    def _gone(self, serial: int) -> None:
        self._member.locked(self._core.gone, serial)

    def _lost(self, serial: int) -> None:
        self._member.locked(self._core.lost, serial)
        log.warning("permit.lost", extra={"connection": f"{self._member.tag}-{serial}"})

    def _leave(self) -> None:
        """Close what is idle; with nothing open, say goodbye."""
        if self._left.is_set():
            return
        for client in self.clients:
            call(client.permits[0], "shed", ALL)
        if not self._open():
            self._reported = 0.0
            self._stats(time.monotonic())
            if self._member.locked(self._say_goodbye):
                self.contact.end()
                self._left.set()

    def _say_goodbye(self) -> bool:
        """Under the member's lock, so that no thread that goes on (a daemon) opens anything between the two."""
        bye = self._core.goodbye()
        if bye is None:
            return False
        self.contact.post(bye)
        return True
