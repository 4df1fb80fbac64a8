"""The session to the supervisor: found, registered with, listened to, watched, lost and found again.

It carries out rule M4: the old link is closed, or at least never read again, before the next
one is registered. The core's messages go out here and the supervisor's come in; the session decides only
whether there is a supervisor worth talking to.
"""

from __future__ import annotations

import contextlib
import random
import selectors

from poolmgr import launch, wire
from poolmgr.kernel import lockfile
from poolmgr.launch import dial
from poolmgr.logs.journal import Log
from poolmgr.member.closer import watch
from poolmgr.member.discovery import Finder
from poolmgr.member.link import Link
from poolmgr.member.locked import LockedCore
from poolmgr.member.waker import Waker

log = Log("poolmgr.member")

NEVER = float("inf")

PING_AFTER = 0.5
"""Seconds of silence from a supervisor that owes an answer before a ping; as many later it counts
as hung, if its lock file shows no sign of life either."""

LOOK_EVERY = 0.25
"""Seconds between two looks for such a sign."""

REFUSED = 5.0
"""Seconds before the next attempt at a supervisor that has refused us."""

REVIVE = 1.0, 2.0
"""Seconds, from and to, after which a departed supervisor is started again although no caller waits for a permit: it
also watches the limits, proves ends and serves the metrics. Random, so that not all processes do so at once."""

STUCK = 1.0
"""Seconds after which unsent bytes mean that their sender was interrupted while sending."""


class Session:
    """One process's session to its supervisor. Any thread may call :meth:`post` and :meth:`flush`, only the
    member's thread the rest."""

    def __init__(self, member: LockedCore, selector: selectors.BaseSelector, waker: Waker) -> None:
        self.link: Link | None = None
        self.registrations = 0
        self._member = member
        self._core = member.core
        self._selector = selector
        self._waker = waker
        self._finder = Finder(member.settings, waker.poke)
        self._began = 0.0
        """When the link began."""
        self._heard = 0.0
        """When the last message came, or the link began."""
        self._mute = True
        """Whether no message has come on the present link."""
        self._acquainted = False
        """Whether any supervisor has ever answered."""
        self._pinged = 0.0
        """Since when the supervisor owes an answer to a ping; 0: it owes none."""
        self._pending_since = 0.0
        self._writing = False
        self._revive_at = NEVER
        """When a supervisor is needed though no caller waits; until then another process may start one."""
        self._down: set[str] = set()

    # ---- any thread --------------------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        """Why there is no supervisor, if that is known."""
        return self._finder.trouble

    @property
    def obstacle(self) -> str:
        """Why there can be none, until the next attempt to start one; empty: not known."""
        return self._finder.obstacle

    def post(self, message: wire.Message) -> None:
        """Put a message in line. Under the member's lock."""
        link = self.link
        if link is not None:
            link.post((message,))

    def flush(self) -> None:
        """Send what is in line."""
        link = self.link
        if link is not None:
            link.flush()
            if link.blocked:
                self._waker.poke()

    # ---- the member's thread --------------------------------------------------------------------------

    def mind(self, now: float, *, idle: bool) -> float:
        """Look for a supervisor if there is none, else look after it; when to come again.

        Until the first one has answered, a supervisor is needed; later only by callers that wait for a permit, and
        after a while by a process that has connections. A process that ever registered looks for the next supervisor,
        which may charge it and must learn what it holds, even if that is nothing.

        Args:
            idle: there is no pool; then look for the first supervisor only if it is needed.
        """
        link = self.link
        if link is None:
            needed = self._member.locked(self._needs_one, now) or not (idle or self._acquainted)
            if idle and not needed and not self.registrations:
                return NEVER
            sock = self._finder.search(now, needed)
            if sock is None:
                return self._finder.next(needed)
            link = self._begin(Link(sock, 0), now)
        if link.blocked != self._writing:
            self._writing = link.blocked
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.blocked else 0)
            self._selector.modify(link.sock, events, self._selector.get_key(link.sock).data)
        return min(self._mind_sending(link, now), self._mind_silence(link, now))

    def _needs_one(self, now: float) -> bool:
        """Under the member's lock."""
        return self._core.wanting or (now >= self._revive_at and self._core.open > 0)

    def _begin(self, link: Link, now: float) -> Link:
        self._began, self._heard, self._mute, self._pinged, self._pending_since = now, now, True, 0.0, 0.0
        self._writing = False
        self._member.locked(self._register, link, now)
        watch(self._selector, link.sock, lambda events, at: self._stirs(link, events, at))
        self.flush()
        if self.registrations > 1:
            log.info("supervisor.found", extra={"link": link.number})
        return link

    def _register(self, link: Link, now: float) -> None:
        """Rule M4. Under the member's lock, so that nothing else can be on the link before the registration."""
        link.post((self._core.register(now),))
        link.number = self._core.link
        self.link = link
        self.registrations += 1

    def _mind_sending(self, link: Link, now: float) -> float:
        """Unsent bytes that the kernel would take: an exception interrupted their sender between taking
        the link's lock and releasing it. A new link has a new lock."""
        if not link.pending or link.blocked:
            self._pending_since = 0.0
            return NEVER
        self._pending_since = self._pending_since or now
        if now - self._pending_since > STUCK:
            self._lose("a sender was interrupted", now)
            return now
        return self._pending_since + STUCK

    def _mind_silence(self, link: Link, now: float) -> float:
        """Ping a silent supervisor that owes an answer; if it stays silent, replace it."""
        if self.link is None or not self._member.locked(lambda: self._core.wanting or self._core.unanswered):
            self._pinged = 0.0
            return NEVER
        if not self._pinged:
            if now < self._heard + PING_AFTER:
                return self._heard + PING_AFTER
            self._pinged = now
            self._member.locked(self.post, wire.Ping())
            self.flush()
        if now < self._pinged + PING_AFTER:
            return self._pinged + PING_AFTER
        seen_silent = dial.SILENT <= lockfile.silence(self._member.settings.socket + ".lock") < NEVER
        if not seen_silent and now < self._heard + launch.STARTING:
            return now + LOOK_EVERY
        log.warning("supervisor.silent", extra={"seconds": round(now - self._heard, 1)})
        self._drop()
        self._finder.replace(link.sock)
        return NEVER

    def _stirs(self, link: Link, events: int, now: float) -> None:
        """Something happens on the link."""
        if link is not self.link:
            return
        if events & selectors.EVENT_WRITE:
            link.unblock()
        if not events & selectors.EVENT_READ:
            return
        messages: list[wire.Message] = []
        broken = ""
        try:
            received = link.receive()
            if received is None:
                broken = "the supervisor has closed the link"
            else:
                messages.extend(received)
        except wire.WireError as error:
            broken = str(error)
        for message in messages:
            if isinstance(message, wire.Welcome):
                link.guard(f"{self._member.settings.socket}.lock", message.lock)
        if messages:
            self._heard, self._mute, self._acquainted, self._pinged = now, False, True, 0.0
            self._finder.heard()
            self._member.locked(self._receive, link, messages, now)
        for message in messages:
            broken = self._note(link, message, now) or broken
        if broken:
            self._lose(broken, now)

    def _receive(self, link: Link, messages: list[wire.Message], now: float) -> None:
        """Under the member's lock."""
        for message in messages:
            self._core.received(link.number, message, now)

    def _note(self, link: Link, message: wire.Message, now: float) -> str:
        """Messages that do not concern permits; why the link must be dropped, if it must."""
        match message:
            case wire.Refused(reason=reason):
                if not self._finder.succeed(link.sock):
                    self._finder.hold_off(now, REFUSED, reason)
                return f"the supervisor refused this process: {reason}"
            case wire.Welcome():
                self._finder.succeed(link.sock)
                if message.budget and message.budget != self._core.budget:
                    log.info("budget.differs", extra={"here": self._core.budget, "supervisor": message.budget})
            case wire.Health(server=server, up=False, error=error) if not (
                server in self._down or self._core.spares(server)
            ):
                self._down.add(server)
                log.warning("outage.began", extra={"server": server, "error": error})
            case wire.Health(server=server, up=True) if server in self._down:
                self._down.discard(server)
                log.info("outage.ended", extra={"server": server})
        return ""

    # ---- the end of a link ---------------------------------------------------------------------------

    def _lose(self, reason: str, now: float) -> None:
        if self._acquainted or not self._mute:
            log.warning("supervisor.lost", extra={"reason": reason})
        else:  # a first one that never spoke is not a loss yet: it was about to end, or is not a supervisor
            log.info("supervisor.lost", extra={"reason": reason})
        self._revive_at = now + random.uniform(*REVIVE)
        self._finder.broke(now, now - self._began)
        link = self._drop()
        if link is not None:
            link.close()

    def _drop(self) -> Link | None:
        """Rule M4: never read this link again. It stays open."""
        link = self.link
        if link is not None:
            self._member.locked(self._unlink)
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._selector.unregister(link.sock)
        return link

    def _unlink(self) -> None:
        """Under the member's lock."""
        self.link = None
        self._core.unlinked()

    def end(self) -> None:
        """Send what is in line and close."""
        self.flush()
        link = self._drop()
        if link is not None:
            link.close()

    def abandon(self) -> None:
        """In a forked child: close our copies."""
        if self.link is not None:
            self.link.close()
        self._finder.abandon()
