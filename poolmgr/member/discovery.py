"""Finds the supervisor, or has one started, without ever holding up the member's thread.

Looking is cheap (a Unix socket connects at once or not at all) and done on the spot. Starting takes
as long as a Python takes to start, and replacing a hung supervisor longer: a helper thread does that.
:mod:`poolmgr.launch` defines what "found" means and how a supervisor is started.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable

from redis.backoff import ExponentialWithJitterBackoff

from poolmgr import launch, threads
from poolmgr.errors import PoolmgrError
from poolmgr.kernel import lockfile
from poolmgr.kernel.peer import peer
from poolmgr.launch import standing
from poolmgr.logs.journal import Log
from poolmgr.native import monotonic
from poolmgr.settings import Settings

log = Log("poolmgr.member")

COMPLAIN_EVERY = 30.0
"""Seconds between two log lines about an unreachable supervisor."""

HOPELESS = 1.0
"""Seconds for which callers fail at once after a failed attempt to start a supervisor, or until the next attempt if
that is later. Later callers wait for what the next attempt brings."""

SUCCEEDING = 0.25
"""Seconds until the next look while a successor is being started."""

RESTARTING = 3.0
"""Seconds to wait for a supervisor that may not be started from here and has just spoken: its owner may be
restarting it."""

LASTING = 1.0
"""Seconds after which the end of a link says nothing about the next one."""

NOT_YET = "the supervisor that is being started does not serve yet: it is stopped, or this machine is very busy"
"""The trouble of a caller that has waited while a supervisor was started."""

NEVER = float("inf")


class Finder:
    """One process's search for its supervisor. All methods are the member's thread's.

    Args:
        settings: where the supervisor is, and whether it may be started.
        wake: wakes the member's thread when a helper has a result.
    """

    def __init__(self, settings: Settings, wake: Callable[[], None]) -> None:
        self._settings = settings
        self._wake = wake
        self._helper: threads.Thread | None = None
        self._succeeding: threads.Thread | None = None
        self._found: deque[socket.socket | None] = deque()
        self._looking = ExponentialWithJitterBackoff(cap=1.0, base=0.01)
        self._starting = ExponentialWithJitterBackoff(cap=5.0, base=0.1)
        self._looks = self._starts = self._breaks = 0
        self._look_at = self._start_at = 0.0
        self._complained = -NEVER
        self._met = -NEVER
        """When a supervisor last spoke."""
        self.trouble = ""
        """Why the last search found none, with the remedy; empty: one was heard. For any thread to read."""
        self._obstacle = ""
        self._obstacle_until = -NEVER

    @property
    def obstacle(self) -> str:
        """Why there can be no supervisor: the last attempt to start one failed, or the present one refused us, and
        the next attempt is not due yet. Waiting is in vain. For any thread to read."""
        return self._obstacle if monotonic() < max(self._obstacle_until, self._start_at) else ""

    def _hopeless(self, reason: str) -> None:
        self.trouble, self._obstacle = reason, reason
        self._obstacle_until = monotonic() + HOPELESS

    def search(self, now: float, needed: bool) -> socket.socket | None:
        """A connection, if one is possible now. With ``needed``, start a supervisor if there is none."""
        while self._found:
            sock = self._found.popleft()
            self._helper = None
            if sock is not None:
                return sock
            self._starts += 1
            self._start_at = now + self._starting.compute(self._starts)
        if self._helper is not None:
            return None
        if now >= self._look_at or (needed and self._may_start(now)):
            startable = self._settings.autostart
            try:
                return launch.connect(self._settings, start=not startable, timeout=0.0)
            except launch.NoSupervisorError:
                self.trouble = self.trouble or NOT_YET
            except (PoolmgrError, OSError) as error:
                self.trouble = self.trouble or str(error)
                if not startable and now >= self._met + RESTARTING:
                    self._hopeless(str(error))  # none may be started from here, so there is nothing to wait for
            self.failed(now)
        if needed and self._may_start(now):
            self._help(None)
        return None

    def next(self, needed: bool) -> float:
        """When to search again; a helper's result wakes the member's thread itself."""
        if self._helper is not None:
            return NEVER
        return min(self._look_at, self._start_at) if needed and self._settings.autostart else self._look_at

    def replace(self, silent: socket.socket) -> None:
        """The supervisor at the other end of this link has been silent for too long."""
        self._help(silent)

    def succeed(self, sock: socket.socket) -> bool:
        """Have the supervisor at the other end succeeded by one that is placed as this process is, if that is better.

        Returns:
            Whether it is better, or the supervisor has ended by now; a helper does it.
        """
        who = peer(sock) if self._settings.autostart else None
        mine, theirs = standing.of(), standing.of(who.pid) if who is not None else None
        if who is None or mine is None or (theirs is None and os.path.exists(f"/proc/{who.pid}")):
            return False
        if theirs is not None and not mine.exceeds(theirs):
            return False
        self._look_at = self._start_at = monotonic() + SUCCEEDING
        if theirs is None:
            return True  # another process has ended it
        if self._succeeding is None or not self._succeeding.is_alive():
            self._succeeding = threads.make(self._succeed, "poolmgr-finder", who.pid)
            return threads.started(self._succeeding)
        return True

    def _succeed(self, pid: int) -> None:
        try:
            if launch.succeed(self._settings, pid):
                log.info("supervisor.succeeded", extra={"supervisor": pid})
        except Exception as error:
            log.warning("supervisor.unreachable", extra={"error": str(error)})
        finally:
            self._wake()

    def heard(self) -> None:
        """The peer has spoken: it is a supervisor."""
        self._met = monotonic()
        self._looks = self._starts = 0
        self._look_at = self._start_at = 0.0
        self._complained = -NEVER
        self.trouble = self._obstacle = ""

    def broke(self, now: float, lasted: float) -> None:
        """A link has come to its end. One that did not last is followed by the next after a while, even if the
        supervisor had spoken: whatever ended it, a message that is none or a crash, may end the next one too."""
        if lasted >= LASTING:
            self._breaks = 0
            return
        self._breaks += 1
        pause = self._looking.compute(self._breaks)
        self._look_at, self._start_at = max(self._look_at, now + pause), max(self._start_at, now + pause)

    def failed(self, now: float) -> None:
        """The search has found no supervisor."""
        self._looks += 1
        self._look_at = now + self._looking.compute(self._looks)

    def hold_off(self, now: float, seconds: float, reason: str) -> None:
        """The supervisor has refused us: do not come back at once."""
        self._hopeless(reason)
        self._look_at = self._start_at = now + seconds

    def abandon(self) -> None:
        """In a forked child: close the sockets that the parent's helper has brought."""
        while self._found:
            sock = self._found.popleft()
            if sock is not None:
                sock.close()

    def _may_start(self, now: float) -> bool:
        return self._settings.autostart and now >= self._start_at

    def _help(self, silent: socket.socket | None) -> None:
        if self._helper is None:
            self._helper = threads.make(self._work, "poolmgr-finder", silent)
            if not threads.started(self._helper):
                # No thread can be started. This is the only one that works for this process, and without a supervisor
                # it has little else to do.
                self._work(silent)
        elif silent is not None:
            silent.close()

    def _work(self, silent: socket.socket | None) -> None:
        """The helper thread: everything that may take seconds."""
        found = None
        try:
            if silent is not None:
                with silent:
                    if launch.replace_hung(self._settings, silent):
                        log.warning("supervisor.replaced", extra={"reason": "it did not answer"})
            found = self._connect()
        except Exception as error:
            self._hopeless(str(error) or type(error).__name__)
            if monotonic() - self._complained >= COMPLAIN_EVERY:
                self._complained = monotonic()
                log.warning("supervisor.unreachable", extra={"error": self.trouble})
        finally:
            self._found.append(found)
            self._wake()

    def _connect(self) -> socket.socket:
        began, path = monotonic(), self._settings.socket
        try:
            return launch.connect(self._settings)
        except PoolmgrError:
            if monotonic() - began < launch.STARTING and lockfile.silence(path + ".lock") < lockfile.STOPPED:
                raise
            if not lockfile.holder(path + ".lock"):
                raise
        launch.replace_hung(self._settings, None)  # so hung that its queue of connections is full
        return launch.connect(self._settings)
