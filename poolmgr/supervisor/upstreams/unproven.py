"""Where a proof is impossible: bounded waits replace it, counted and logged (rules S3, S5).

There are four cases. First, the server forbids ``CLIENT LIST``. A fresh connection was answered after the exit, so
nothing of the dead process can still arrive; only the sight of its connections' end is missing. Second, quarantine and
lost connections leave no permit to look with, so even the fresh connection is missing. Third, no process is left whose
credentials could be used or that could open a connection. Fourth, members have lost all their connections at an
unreachable server, so none of them could find out whether it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.upstreams.upstream import Upstream

WAIT = 5.0
"""Seconds after the server last answered."""

ALONE = 1.0
"""Seconds to wait where no process is left that could open anything: enough for another look or two. A longer wait is
not needed, because a search replaces the proof. This supervisor searches before it raises a limit there again, should a
client come after all; its successor searches because it meets the server for the first time."""


@dataclass(eq=False, repr=False)
class Waits:
    """One upstream's bounded waits. Times are monotonic seconds.

    Args:
        release: gives the permit of an own connection back.
        let_go: sends the member the news that its lost connection's permit is free.
        search: has the server searched for our connections before any limit is raised there.
        note: takes the keys of the server at which connections may be left.
    """

    _upstream: Upstream
    _ledger: Ledger
    _release: Callable[[], None]
    _let_go: Callable[[str], None]
    _search: Callable[[], None]
    _note: Callable[[Collection[str]], None]

    def __post_init__(self) -> None:
        self._answered = -1e9
        self._began: dict[str, float] = {}
        self._let_one_go = -1e9
        """When a permit was last freed because members could not look without one."""

    def answered(self, now: float) -> None:
        """The server has answered."""
        self._answered = now

    def looked(
        self, left: Collection[str], now: float, *, fresh: bool, blind: bool, nameless: Collection[str] = ()
    ) -> None:
        """A fresh connection was answered; ``left`` is not proven. ``blind``: there was no list to see. ``nameless``:
        the part of ``left`` that no list shows."""
        if blind and fresh:
            self._wait(
                left,
                now,
                "the supervisor cannot list the connections by at least one of the server's names",
                lost=True,
            )
        elif nameless and fresh:
            self._wait(nameless, now, "the server takes no names from its user", lost=True)
        else:
            self._began.clear()

    def no_permit(self, targets: Collection[str], now: float) -> bool:
        """There was no permit to look with. After the wait one is granted over the budget, to prove the others with.
        Returns whether that is so now. Without a snapshot to record it in, it must not happen."""
        if self._ledger.stuck:
            return False
        server = self._ledger.servers[self._upstream.id]
        since = [server.quarantine[tag].since for tag in targets if tag in server.quarantine]
        for names in (self._upstream.lost, self._upstream.unclosed):
            since += [names[name] for name in targets if name in names]
        if not any(now >= max(at, min(self._answered, now)) + WAIT for at in since):
            return False
        self._upstream.unproven += 1
        reason = "no permit is left to look with"
        log.warning("quarantine.unproven", extra={"server": self._upstream.id, "permits": 1, "reason": reason})
        self._ledger.overdraw_own(self._upstream.id)
        return True

    def none_can_look(self, now: float, replied: float) -> None:
        """The server is unreachable and members have lost all their connections there, so no permit is left to find out
        whether they can reach it. After the wait one permit is freed for that. It can be one too many. So none is freed
        while one of ours exceeds the budget, and no second one before a reply, because a hanging server takes each of
        them.

        Args:
            replied: when the last reply came.
        """
        if replied < self._let_one_go or self._ledger.servers[self._upstream.id].free < 0:
            return
        if self._upstream.lost and now >= max(self._upstream.lost.values()) + WAIT:
            self._let_one_go = now
            oldest = min(self._upstream.lost, key=self._upstream.lost.__getitem__)
            self._free([oldest], now, "no permit is left to test whether the server is there")

    def none_to_ask(self, targets: Collection[str], now: float, *, alone: bool) -> None:
        """No endpoint is known, or the server does not answer, and no process is left that could open a connection. A
        supervisor that meets this server later takes a census first, which finds what may be left. This one would leave
        its own connections out of that census, so they are waited for longer."""
        if alone and self._wait(targets, now, "the server cannot be asked and no member is left", ALONE):
            self._search()

    def _wait(
        self, left: Collection[str], now: float, why: str, others: float | None = None, *, lost: bool = False
    ) -> list[str]:
        """Returns the tags that were freed. ``others``: seconds to wait for connections that are not our own; None: as
        long as for ours. ``lost``: include connections that living members have lost."""
        left = [tag for tag in left if lost or tag not in self._upstream.lost]
        for tag in left:
            self._began.setdefault(tag, now)
        self._began = {tag: at for tag, at in self._began.items() if tag in left}
        own = self._upstream.unclosed
        theirs = WAIT if others is None else others
        over = [tag for tag, at in self._began.items() if now - at >= (WAIT if tag in own else theirs)]
        return self._free(over, now, why)

    def _free(self, tags: Collection[str], now: float, why: str) -> list[str]:
        server = self._ledger.servers[self._upstream.id]
        if tags:
            self._note(server.aliases)
        freed = []
        for tag in tags:
            entry = server.quarantine.get(tag)
            if entry is None and tag not in self._upstream.unclosed and tag not in self._upstream.lost:
                continue
            freed.append(tag)
            permits = entry.charge if entry is not None else 1
            self._upstream.unproven += permits
            log.warning("quarantine.unproven", extra={"server": self._upstream.id, "permits": permits, "reason": why})
            if entry is not None:
                self._ledger.proven(self._upstream.id, tag, now)
            elif self._upstream.unclosed.pop(tag, None) is not None:
                self._release()
            else:
                del self._upstream.lost[tag]
                self._let_go(tag)
        return freed
