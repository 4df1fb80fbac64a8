"""The one background thread of a membership: it carries the core's messages and does its bidding.

It never decides. Each turn: wait for an event, take in the returned permits, look at the
pools that the core wants to know of, let the core decide, do what it says. Nothing in it blocks:
sockets are non-blocking, a helper starts supervisors (:mod:`poolmgr.member.discovery`), and
pools promise not to block either.

If no thread can be started, or none runs any more (the interpreter's end), a waiting caller runs its
turns meanwhile (:meth:`Loop.attend`). The thread ends with the goodbye.

Under gevent's and eventlet's monkey-patching it is a greenlet; everything it uses is made when it starts, so after
the patching. A greenlet goes on in a forked child, and ends there when it next runs.
"""

from __future__ import annotations

import contextlib
import selectors
import sys
import threading
import time
from collections.abc import Iterable
from typing import cast

from poolmgr import threads
from poolmgr.kernel import nofile
from poolmgr.logs.journal import Log
from poolmgr.member.closer import Closer
from poolmgr.member.core.process import Attachment, Effect, Grow, Left, Login, Settled, Shed, Try, Wake
from poolmgr.member.locked import LockedCore
from poolmgr.member.permits import ServerPermits
from poolmgr.member.pools import Pools, call
from poolmgr.member.ports import Usage
from poolmgr.member.session import Session
from poolmgr.member.waker import Waker
from poolmgr.native import monotonic
from poolmgr.taking import taken, tried

log = Log("poolmgr.member")

ending = sys.is_finalizing
"""Whether only the main thread still runs. At the interpreter's end modules are emptied before objects go."""

NEVER = float("inf")

STATS_EVERY = 1.0

COUNT_EVERY = 5.0
"""Seconds between two looks at the process's file descriptors."""

AUDIT_EVERY = 1.0
"""Seconds between two looks for permits without a holder; the second look that finds one acts."""

LOOK_AGAIN = 0.01
"""Seconds between two looks if the runtime does not let us wait."""

AFTER_FAILURE = 0.1
"""Seconds of rest after a defect of ours, so that it does not fill the log."""

ALL = 1 << 30

_CUT_OFF: list[selectors.BaseSelector] = []
"""Kept forever: the garbage collector would close a number that now belongs to another file."""


class Loop:
    """The thread's body."""

    def __init__(self, member: LockedCore) -> None:
        self._member = member
        self._core = member.core
        self.waker = Waker()
        self.pools = Pools(member.locked, again=member.again)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.waker.fileno(), selectors.EVENT_READ, lambda events, at: self.waker.clear())
        self.session = Session(member, self._selector, self.waker)
        self._closer = Closer(self._selector, self._gone, self._lost)
        self._thread: threads.Thread | None = None
        self._starting = threading.RLock()
        self._attending = threading.Lock()
        self._wake = 0.0
        self._counted = self._audited = self._reported = 0.0
        self._granted = self._room = 0
        """Permits at all servers; how many of them the soft limit of open files is known to have room for."""
        self._suspects: set[int] = set()
        self._registration = 0
        self._leaving = self._stopping = False
        self._left = threading.Event()
        self.cut_off = False
        self.serves_in = 0
        """Number of the thread that runs the loop; 0: none."""

    # ---- other threads -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, unless it runs, has done its work, or cannot start: from Python 3.12 on ``atexit``'s
        functions get none, and a limit of the system may forbid it anywhere."""
        if ending():  # a thread would never run, and its starter would wait for that
            return
        for _ in taken(self._starting):
            try:
                if not (self._runs or self._stopping or self._left.is_set()):
                    self._thread = thread = threads.make(self._run, "poolmgr-member")
                    if not threads.started(thread):  # not self._thread: a signal handler may have started another one
                        self._thread = None
            finally:
                self._starting.release()

    @property
    def _runs(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive() and not ending()

    @property
    def over(self) -> bool:
        """Whether this membership has ended: by its goodbye, a cut-off, or the end of the interpreter."""
        return self.cut_off or self._left.is_set() or (self._thread is not None and ending())

    @property
    def holds_nothing(self) -> bool:
        """Whether the membership has ended with nothing open."""
        return self.cut_off or self._left.is_set()

    def notice(self) -> bool:
        """Whether all our descriptors have been closed below us, as when this process becomes a daemon. Other files
        have their numbers by now, or will have: nothing touches them any more."""
        if not self.cut_off and not self._stopping and self.waker.is_cut_off():
            self.cut_off = True
            self.waker.disown()
            _CUT_OFF.append(self._selector)
            self._closer.disown()
        return self.cut_off

    def prefer(self, permits: Attachment) -> None:
        """Callers now wait for the permits of this one of their pool's addresses. Under the lock."""
        self.pools.prefer(cast(ServerPermits, permits))

    def attend(self, seconds: float) -> bool:
        """For a waiting caller: if there is no thread, do its work here for up to so long.

        Returns:
            False at once if there is a thread, or if another caller does its work.
        """
        self.start()
        if self._runs or self._stopping or self.over:
            return False
        for free in tried(self._attending):
            if not free:
                return False
            try:
                self.serves_in = threading.get_ident()
                self._wake = min(self._wake, monotonic() + seconds)
                self._turn()
            except Exception:
                log.exception("agent.failed")
                self._wake = 0.0
            finally:
                self.serves_in = 0
                self._attending.release()
        return True

    def leave(self, timeout: float, *, for_good: bool = True) -> None:
        """Close idle connections and say goodbye.

        Args:
            for_good: if something is still in use then, go on trying.
        """
        self._leaving = True
        self.waker.poke()
        deadline = monotonic() + timeout
        while not self._left.is_set() and monotonic() < deadline:
            if not self.attend(deadline - monotonic()):
                self._left.wait(deadline - monotonic())
        if not for_good:
            self._leaving = False

    def stop(self) -> None:
        """End the thread and close everything it has; no goodbye."""
        self._stopping = True
        self.waker.poke()
        if self._thread is not None:
            self._thread.join()
        self.abandon()

    def abandon(self) -> None:
        """In a forked child: close our copies; touch nothing that the parent also uses."""
        self._stopping = True
        self.waker.close()
        self.session.abandon()
        self._closer.abandon()
        with contextlib.suppress(Exception):  # gevent's refers to an event loop that the fork has changed
            self._selector.close()

    # ---- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        self.serves_in = threading.get_ident()
        while (
            not (self._stopping or self._left.is_set() or self.notice()) and self._thread is threading.current_thread()
        ):
            try:
                self._turn()
            except Exception:
                if self._stopping or self.notice():
                    return
                log.exception("agent.failed")
                time.sleep(AFTER_FAILURE)
                self._wake = 0.0
        self.serves_in = 0

    def _turn(self) -> None:
        pause = max(0.0, self._wake - monotonic())
        for key, events in self._stirred(None if pause == NEVER else pause):
            key.data(events, monotonic())
        self._carry_out(self._member.locked(self._core.serve))
        now = monotonic()
        self._take_back(now)
        settled = self._settle(now)
        self.session.flush()
        self._carry_out(settled.effects)
        self._wake = min(settled.wake, self._closer.expire(now), self.pools.tick(now), self._stats(now))
        if self._leaving:
            self._leave()
        if self._left.is_set():
            return
        if not self._leaving or self._member.locked(lambda: self._core.wanting):
            self._wake = min(self._wake, self.session.mind(now, idle=not self.pools))

    def _stirred(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for sockets that can be read or written."""
        try:
            return self._selector.select(timeout)
        except RuntimeError:
            # eventlet: a greenlet still reads from a socket that is being closed, and two may not wait for the same
            # one. None of our sockets blocks.
            time.sleep(LOOK_AGAIN)
            return [(key, key.events) for key in self._selector.get_map().values()]

    def _take_back(self, now: float) -> None:
        """Begin to close the sockets handed over."""
        closes = self._member.closes
        while closes:
            serial, sock = closes.popleft()
            if self._member.locked(self._core.closing, serial):  # else a repetition: the closer may have it already
                self._closer.add(serial, sock, now)

    def _settle(self, now: float) -> Settled:
        """Show the core what it wants to see, and let it decide."""
        while self._member.vanished:
            self._member.locked(self._forget, cast(ServerPermits, self._member.vanished.popleft()))
        if now >= self._counted + COUNT_EVERY:
            self._counted = now
            self._room = 0  # other code uses descriptors too
            self._core.descriptors = nofile.left(self._open(), self.pools.weight())
        looks = cast("list[ServerPermits]", self._member.locked(self._core.looks, now))
        usages = [(permits, self.pools.usage(permits)) for permits in looks]
        settled = self._member.locked(self._decide, usages, now)
        if self._granted > self._room:
            self._make_room(self._granted)
        return settled

    def _make_room(self, granted: int) -> None:
        """More permits are granted than the soft limit of open files was known to have room for."""
        if nofile.make_room(self._open(), granted, self.pools.weight()):
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
        self.pools.forget(permits)
        self._core.detach(permits)

    def drop(self, permits: ServerPermits) -> None:
        """The pool now uses another address. Under the member's lock."""
        if self.pools.drop(permits):
            self._core.detach(permits)
        else:
            permits.leaving = False

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Shed(attachment, count):
                    call(cast(ServerPermits, attachment), "shed", count)
                case Grow(attachment):
                    call(cast(ServerPermits, attachment), "grow")
                case Left(attachment):
                    self._member.locked(self.drop, cast(ServerPermits, attachment))
                case Login(attachment):
                    call(cast(ServerPermits, attachment), "tell_login", attachment.endpoint.key)
                case Try(attachment):
                    call(cast(ServerPermits, attachment), "attempt")
                case Wake(waiter):
                    bell = self._member.waiters.get(cast(int, waiter))
                    if bell is not None:
                        bell.ring()
                    else:
                        self._member.locked(self._core.unqueue, waiter)

    def _stats(self, now: float) -> float:
        """Send counters that have changed; when to come again."""
        if self.session.link is None or not self.pools:
            return NEVER
        if self._registration != self.session.registrations:
            self._registration = self.session.registrations
            self.pools.tell_again()
        elif now < self._reported + STATS_EVERY:
            return self._reported + STATS_EVERY
        self._reported = now
        for stats in self.pools.stats():
            self._member.locked(self.session.post, stats)
        self.session.flush()
        return now + STATS_EVERY

    def _open(self) -> int:
        return self._member.locked(lambda: self._core.open)

    def _gone(self, serial: int) -> None:
        self._member.sockets.pop(serial, None)
        self._member.locked(self._core.gone, serial)

    def _lost(self, serial: int) -> None:
        self._member.sockets.pop(serial, None)
        self._member.locked(self._core.lost, serial)
        log.warning("permit.lost", extra={"connection": f"{self._member.tag}-{serial}"})

    def _leave(self) -> None:
        """Close idle connections; with nothing open, say goodbye."""
        if self._left.is_set():
            return
        for client in self.pools:
            call(client.permits[0], "shed", ALL)
        if not self._open():
            self._reported = 0.0
            self._stats(monotonic())
            if self._member.locked(self._say_goodbye):
                self.session.end()
                self._left.set()

    def _say_goodbye(self) -> bool:
        """Under the member's lock, so that no daemon thread, which goes on, opens anything between the two."""
        bye = self._core.goodbye()
        if bye is None:
            return False
        self.session.post(bye)
        return True
