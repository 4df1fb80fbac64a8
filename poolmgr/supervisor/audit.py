"""Three truths compared: the ledger's, the kernel's and the server's. It reports, and changes nothing.

A process that holds more connections than it is charged uses a pool that bypasses the budget; one
that shows more on the server than in the kernel has left some behind. A difference counts when two
audits in a row have seen it, since the three are never read at the same instant.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from poolmgr import status
from poolmgr.supervisor import kernel
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.thread import Thread

if TYPE_CHECKING:
    from poolmgr.supervisor.book import Book
    from poolmgr.supervisor.site import Site

EVERY = 5.0
"""Seconds between two audits."""

AT_MOST = 64
"""Processes whose descriptors are read in one audit; more take turns."""

FRESH = 12.0
"""Seconds for which a server's list is good enough to compare with."""


class Seen(msgspec.Struct, frozen=True):
    """The three numbers for one process at one server. None: cannot be known, or was not looked at."""

    server: str
    pid: int
    title: str
    ledger: int
    kernel: int | None
    listed: int | None

    def excess(self) -> str:
        """What is wrong, as a sentence; empty if nothing is."""
        who = f"{self.title or 'process'} {self.pid}"
        if self.kernel is not None and self.kernel > self.ledger:
            return (
                f"{who} has {self.kernel} connections to {self.server} and is charged {self.ledger}: "
                "something in it connects past the budget"
            )
        if self.listed is not None and self.listed > self.ledger:
            return f"{self.server} shows {self.listed} connections of {who}, which is charged {self.ledger}"
        if self.listed is not None and self.kernel is not None and self.listed > self.kernel:
            return (
                f"{self.server} shows {self.listed} connections of {who} and the kernel {self.kernel}: "
                "some were left behind, or are held by its children"
            )
        return ""


class Audit:
    """Differences that hold now.

    Attributes:
        count: how many differences have been found since the start.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._thread = Thread("poolmgr-audit")
        self._suspected: dict[tuple[str, int], Seen] = {}
        self._held: dict[tuple[str, int], status.Difference] = {}
        self._next = 0
        self._at = 0.0
        self._busy = False
        self.count = 0

    def differences(self) -> tuple[status.Difference, ...]:
        return tuple(self._held.values())

    async def tick(self, now: float) -> None:
        """Audit if it is time. Called a few times a second."""
        if self._busy or now - self._at < EVERY:
            return
        self._at = now
        self._busy = True
        try:
            await self._audit(now)
        finally:
            self._busy = False

    def _turn(self) -> set[str]:
        """Tags of the members whose descriptors are read this time."""
        tags = list(self._book.members.known)
        if len(tags) <= AT_MOST:
            return set(tags)
        start = self._next % len(tags)
        self._next = start + AT_MOST
        return set((tags + tags)[start : start + AT_MOST])

    async def _audit(self, now: float) -> None:
        members = self._book.members.known
        turn = self._turn()
        sites = [site for site in self._book.sites.values() if site.resolved]
        addresses = {site.address for site in sites if site.address is not None}
        pids = {members[tag].identity.pid for tag in turn}
        counts: dict[tuple[int, kernel.Address], int] = {}
        if addresses and pids:
            counts = await self._thread.run(kernel.connections, pids, addresses)
        found: dict[tuple[str, int], Seen] = {}
        for site in sites:
            if site.id not in self._book.ledger.servers:
                continue
            for seen in self._compare(site, turn, counts, now):
                if seen.excess():
                    found[seen.server, seen.pid] = seen
        self._conclude(found, {members[tag].identity.pid for tag in turn if tag in members})

    def _compare(
        self, site: Site, turn: set[str], counts: dict[tuple[int, kernel.Address], int], now: float
    ) -> list[Seen]:
        listed: Counter[str] | None = None
        if now - site.rows_at < FRESH:
            listed = Counter(row.tag.process for row in site.rows if row.tag is not None)
        accounts = self._book.ledger.servers[site.id].accounts
        result = []
        for tag in turn:
            member = self._book.members.known.get(tag)
            if member is None:
                continue
            pid = member.identity.pid
            charge = accounts[tag].charge if tag in accounts else 0
            shown = counts.get((pid, site.address)) if site.address is not None else None
            on_list = listed[tag] if listed is not None else None
            result.append(Seen(site.id, pid, member.identity.title, charge, shown, on_list))
        return result

    def _conclude(self, found: dict[tuple[str, int], Seen], looked_at: set[int]) -> None:
        """What has been seen twice in a row holds; what is seen no more does not."""
        alive = {member.identity.pid for member in self._book.members.known.values()}
        for key in list(self._held):
            if key[1] not in alive or (key[1] in looked_at and key not in found):
                held = self._held.pop(key)
                log.info("audit.settled", extra={"server": held.server, "member": held.pid})
        for key, seen in found.items():
            if key not in self._suspected and key not in self._held:
                continue
            since = self._held[key].since if key in self._held else time.time()
            if key not in self._held:
                self.count += 1
                log.warning(
                    "audit.difference",
                    extra={
                        "server": seen.server,
                        "member": seen.pid,
                        "ledger": seen.ledger,
                        "kernel": seen.kernel,
                        "listed": seen.listed,
                        "detail": seen.excess(),
                    },
                )
            self._held[key] = status.Difference(
                server=seen.server,
                pid=seen.pid,
                title=seen.title,
                ledger=seen.ledger,
                kernel=seen.kernel,
                server_sees=seen.listed,
                since=since,
                text=seen.excess(),
            )
        kept = {key: seen for key, seen in self._suspected.items() if key[1] not in looked_at and key[1] in alive}
        self._suspected = kept | found
