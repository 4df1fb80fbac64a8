"""Lists of a server's clients, over a connection of the supervisor's own, and what they prove (rule S3).

:mod:`poolmgr.supervisor.upstreams.proof` says what a list means. Here it is asked for, leftovers are killed, and what
is still open is looked at again. It blocks: for a probe's thread, which is the only one that uses it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from poolmgr.supervisor.upstreams.admin import Admin
from poolmgr.supervisor.upstreams.findings import Findings, Work
from poolmgr.supervisor.upstreams.proof import Row, UnreadableError, Verdict, judge, merged, parse
from poolmgr.supervisor.upstreams.resp import ReplyError

PAUSES = (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Seconds before each look at the list in one pass; the rest is tried again later."""


class Lists:
    """One server's.

    Attributes:
        rows: the newest list of this go. It stays in this thread; its summary goes to the event loop.
    """

    def __init__(self) -> None:
        self.rows: list[Row] | None = None
        self._anchors: dict[tuple[str, str], int] = {}
        """By way and target: the number of the first fresh connection answered after the target's end."""
        self._hosts: dict[str, str] = {}
        """By way: our address as the server sees it. Connections from other addresses are never killed."""
        self._trips: dict[str, float] = {}
        """By key: seconds of the quickest exchange, which is the round trip."""

    def opened(self, admin: Admin) -> None:
        """A connection was opened, which took a round trip."""
        key = admin.endpoint.key
        self._trips[key] = min(admin.took, self._trips.get(key, admin.took))

    def forget_anchors(self) -> None:
        """A client may yet come out of a queue."""
        self._anchors.clear()

    def ask(self, kept: Admin, found: Findings, ids: Collection[int] = ()) -> list[Row] | None:
        """The list, or only its rows for these connections and for the asking one.

        Raises:
            ReplyError: the server does not list by number.
        """
        some: tuple[str | int, ...] = ("ID", kept.id, *ids) if ids else ()
        try:
            reply = kept.call("CLIENT", "LIST", *some)
        except ReplyError as error:
            if some and not error.passing:
                raise
            refused(found, "CLIENT LIST", error)
            return None
        took = kept.took
        try:
            rows = parse(reply if isinstance(reply, bytes) else repr(reply).encode())
            if kept.id and all(row.id != kept.id for row in rows):
                raise UnreadableError("CLIENT LIST does not show the connection that asked for it")
        except UnreadableError as error:
            found.forbidden["CLIENT LIST"] = str(error)
            return None
        finally:
            trip = self._trips.get(kept.endpoint.key, took)
            found.lists.append((reply.count(b"\n") if isinstance(reply, bytes) else 1, max(0.0, took - trip)))
        return rows

    def _again(self, kept: Admin, found: Findings, rows: list[Row], verdict: Verdict, paid: float) -> list[Row] | None:
        """Look again at the connections that keep targets from being proven. Only these are asked for, which costs
        hardly anything (Redis 6.2). None: not now."""
        open_questions = (*verdict.leftovers, *verdict.suspects)
        if kept.id:
            try:
                later = self.ask(kept, found, open_questions)
                return None if later is None else merged(rows, open_questions, later)
            except ReplyError:
                pass
        if sum(seconds for _, seconds in found.lists) >= paid:
            return None
        return self.ask(kept, found)

    def prove(self, kept: Admin, work: Work, found: Findings, targets: frozenset[str]) -> None:
        """List, kill what is left of the targets, and list again, until all is proven or this go is over."""
        anchors = self._anchored(kept, targets)
        verdict: Verdict | None = None
        rows: list[Row] | None = None
        for pause in PAUSES:
            if pause:
                time.sleep(pause)
            if rows is None or verdict is None:
                rows = self.ask(kept, found)
            else:
                rows = self._again(kept, found, rows, verdict, work.paid)
            if rows is None:
                return
            self.rows = rows
            here = self._address(kept, rows)
            # By a way that shows no list, our address may differ.
            host = None if found.shut_out else here
            verdict = judge(
                rows,
                targets,
                fresh=kept.id,
                host=host,
                handshake=work.handshake,
                anchors=anchors,
                spare=work.spare,
                ours=frozenset(self._hosts.values()),
            )
            found.gone, found.suspects = verdict.gone, len(verdict.suspects)
            if verdict.leftovers:
                _kill(kept, verdict.leftovers, found)
            elif not verdict.suspects:
                return

    def _address(self, kept: Admin, rows: Iterable[Row]) -> str | None:
        """Our own address, by this way; None if the list does not show it."""
        name, number = kept.shown, kept.id
        here = next(
            (row.host for row in rows if (row.id == number if number else name in (row.name, row.library))), None
        )
        self._hosts.pop(kept.endpoint.key, None)
        if here is not None:
            self._hosts[kept.endpoint.key] = here
        return here

    def _anchored(self, kept: Admin, targets: frozenset[str]) -> dict[str, int]:
        """The anchors of these targets, by the way that was just opened. A lower number comes from another server, or
        from the same one after a restart: then nothing older is there."""
        way, fresh = kept.endpoint.key, kept.id
        self._anchors = {
            (key, target): number
            for (key, target), number in self._anchors.items()
            if target in targets and (key != way or number <= fresh)
        }
        return {target: self._anchors.setdefault((way, target), fresh) for target in targets} if fresh else {}


def _kill(admin: Admin, ids: Iterable[int], found: Findings) -> None:
    for reply in admin.pipeline(*(("CLIENT", "KILL", "ID", number) for number in ids)):
        if isinstance(reply, ReplyError):
            refused(found, "CLIENT KILL", reply)
        else:
            found.killed += reply if isinstance(reply, int) else 1


def refused(found: Findings, command: str, error: ReplyError) -> None:
    """Sort an error: not now, or never."""
    if error.passing:
        found.busy = str(error)
    else:
        found.forbidden[command] = str(error)
