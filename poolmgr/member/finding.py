"""Finds the supervisor, or has one started, without ever holding up the agent's thread.

Looking is cheap (a Unix socket connects at once or not at all) and done on the spot. Starting takes
as long as a Python takes to start, and replacing a hung one longer: that is a helper thread's. What
"found" means and how it is started is :mod:`poolmgr.launch`'s business.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from redis.backoff import ExponentialWithJitterBackoff

from poolmgr import launch
from poolmgr.errors import PoolmgrError
from poolmgr.settings import Settings

log = logging.getLogger("poolmgr.member")

COMPLAIN_EVERY = 30.0
"""Seconds between two log lines about a supervisor that cannot be had."""

NEVER = float("inf")


class Finder:
    """One process's search for its supervisor. All methods are the agent thread's.

    Args:
        settings: where it is, and whether it may be started.
        wake: wakes the agent when a helper has a result.
    """

    def __init__(self, settings: Settings, wake: Callable[[], None]) -> None:
        self._settings = settings
        self._wake = wake
        self._helper: threading.Thread | None = None
        self._found: deque[socket.socket | None] = deque()
        self._looking = ExponentialWithJitterBackoff(cap=1.0, base=0.01)
        self._starting = ExponentialWithJitterBackoff(cap=5.0, base=0.1)
        self._looks = self._starts = 0
        self._look_at = self._start_at = 0.0
        self._complained = -NEVER
        self.trouble = ""
        """Why the last search found none, with its remedy; empty: it has been heard. For any thread to read."""

    def search(self, now: float, needed: bool) -> socket.socket | None:
        """A connection, if one can be had now. With ``needed`` a supervisor is started if there is none."""
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
            try:
                return launch.connect(self._settings, start=False, timeout=0.0)
            except (PoolmgrError, OSError) as error:
                self.trouble = self.trouble or str(error)
            self.failed(now)
        if needed and self._may_start(now):
            self._help(None)
        return None

    def next(self, needed: bool) -> float:
        """When to search again; a helper's result wakes the agent by itself."""
        if self._helper is not None:
            return NEVER
        return min(self._look_at, self._start_at) if needed and self._settings.autostart else self._look_at

    def replace(self, silent: socket.socket) -> None:
        """The supervisor at the other end of this link has been silent for too long."""
        self._help(silent)

    def heard(self) -> None:
        """What was found has spoken: it is one."""
        self._looks = self._starts = 0
        self._look_at = self._start_at = 0.0
        self._complained = -NEVER
        self.trouble = ""

    def failed(self, now: float) -> None:
        """There is none, or it has closed the link without a word."""
        self._looks += 1
        self._look_at = now + self._looking.compute(self._looks)

    def hold_off(self, now: float, seconds: float, reason: str) -> None:
        """We have been refused: it makes no sense to be back at once."""
        self.trouble = reason
        self._look_at = self._start_at = now + seconds

    def abandon(self) -> None:
        """In a forked child: close what the parent's helper has brought."""
        while self._found:
            sock = self._found.popleft()
            if sock is not None:
                sock.close()

    def _may_start(self, now: float) -> bool:
        return self._settings.autostart and now >= self._start_at

    def _help(self, silent: socket.socket | None) -> None:
        if self._helper is None:
            self._helper = threading.Thread(target=self._work, args=(silent,), name="poolmgr-finder", daemon=True)
            try:
                self._helper.start()
            except RuntimeError:  # no thread can be had: at the interpreter's end, or by a limit of the system
                self._helper = None
                self._starts += 1
                self._start_at = time.monotonic() + self._starting.compute(self._starts)
        elif silent is not None:
            silent.close()

    def _work(self, silent: socket.socket | None) -> None:
        """The helper thread: everything that may take seconds."""
        found = None
        try:
            if silent is not None:
                with silent:
                    if launch.replace_hung(self._settings, silent):
                        log.warning("supervisor.replaced", extra={"reason": "it had been silent"})
            found = self._connect()
        except Exception as error:
            self.trouble = str(error) or type(error).__name__
            if time.monotonic() - self._complained >= COMPLAIN_EVERY:
                self._complained = time.monotonic()
                log.warning("supervisor.unreachable", extra={"error": self.trouble})
        finally:
            self._found.append(found)
            self._wake()

    def _connect(self) -> socket.socket:
        began = time.monotonic()
        try:
            return launch.connect(self._settings)
        except PoolmgrError:
            if time.monotonic() - began < launch.SILENT:
                raise
        launch.replace_hung(self._settings, None)  # so hung that its queue of connections is full
        return launch.connect(self._settings)
