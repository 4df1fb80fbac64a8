"""Three truths compared: the ledger's, the kernel's and the server's. It reports, and changes nothing.

A process that holds more connections than it is charged uses a pool that bypasses the budget; one that shows more on
the server than in the kernel has left some behind. The three are never read at the same instant. So a difference to the
kernel alone counts after two audits in a row have seen it. Of a server's lists, only the very same connections in two
lists in a row count, compared with what was read between them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from poolmgr import status
from poolmgr.kernel import tcp
from poolmgr.kernel.diag import Address
from poolmgr.supervisor.executor import DaemonExecutor
from poolmgr.supervisor.logs import log

if TYPE_CHECKING:
    from poolmgr.supervisor.upstreams.registry import Registry
    from poolmgr.supervisor.upstreams.upstream import Upstream

EVERY = 5.0
"""Seconds between two audits."""

AT_MOST = 64
"""Processes whose descriptors are read in one audit; more take turns."""


class Seen(msgspec.Struct, frozen=True):
    """The numbers for one process at one server. None: unknown, or not read."""

    server: str
    pid: int
    title: str
    ledger: int
    kernel: int | None
    listed: int | None = None

    def excess(self) -> str:
        """The fault, as a sentence; empty: none."""
        who = f"{self.title or 'process'} {self.pid}"
        if self.listed is None:
            if self.kernel is None or self.kernel <= self.ledger:
                return ""
            return (
                f"{who} has {self.kernel} connections to {self.server} and is charged {self.ledger}: "
                "something in it connects past the budget"
            )
        if self.listed > self.ledger:
            return f"{self.server} shows {self.listed} connections of {who}, which is charged {self.ledger}"
        if self.kernel is not None and self.listed > self.kernel:
            return (
                f"{self.server} shows {self.listed} connections of {who} and the kernel {self.kernel}: "
                "some were left behind, or are held by its children"
            )
        return ""


class Listed:
    """A server's list, and the highest numbers read of its processes since."""

    def __init__(self, upstream: Upstream) -> None:
        self.at = upstream.shown_at
        self.run_id = upstream.run_id
        self.nameless = frozenset(upstream.nameless)
        self.ids = upstream.shown.numbers
        self.read: dict[str, Seen] = {}

    def note(self, tag: str, seen: Seen) -> None:
        before = self.read.get(tag)
        if before is not None:
            kernel = None if seen.kernel is None or before.kernel is None else max(seen.kernel, before.kernel)
            seen = msgspec.structs.replace(seen, ledger=max(seen.ledger, before.ledger), kernel=kernel)
        self.read[tag] = seen

    def suspects(self) -> bool:
        """Whether another list may show a difference: one alone accuses no process."""
        return any(
            msgspec.structs.replace(seen, listed=len(self.ids.get(tag, ()))).excess()
            for tag, seen in self.read.items()
            if tag not in self.nameless
        )

    def and_then(self, later: Listed) -> list[Seen]:
        """What both lists show, compared with what was read between them."""
        if later.run_id != self.run_id:
            return []
        nothing: set[int] = set()
        return [
            msgspec.structs.replace(seen, listed=len(self.ids.get(tag, nothing) & later.ids.get(tag, nothing)))
            for tag, seen in self.read.items()
            if tag not in later.nameless
        ]


Key = tuple[str, int, bool]
"""Server, process, and whether lists show it."""


class Audit:
    """Differences that hold now.

    Attributes:
        count: how many differences were found since the start.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._thread = DaemonExecutor("poolmgr-audit")
        self._lists: dict[str, Listed] = {}
        """By server: the newest list at the time of an audit."""
        self._suspected: set[Key] = set()
        self._held: dict[Key, status.Difference] = {}
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
            await self._audit()
        finally:
            self._busy = False

    def _turn(self) -> set[str]:
        """Tags of the members whose descriptors are read this time."""
        tags = list(self._registry.context.roster.known)
        if len(tags) <= AT_MOST:
            return set(tags)
        start = self._next % len(tags)
        self._next = start + AT_MOST
        return set((tags + tags)[start : start + AT_MOST])

    async def _audit(self) -> None:
        members = self._registry.context.roster.known
        turn = self._turn()
        upstreams = [upstream for upstream in self._registry.upstreams.values() if upstream.resolved]
        addresses = {upstream.address for upstream in upstreams if upstream.address is not None}
        pids = {members[tag].identity.pid for tag in turn}
        counts: dict[tuple[int, Address], int] = {}
        if addresses and pids:
            counts = await self._thread.run(tcp.connections, pids, addresses)
        judged: list[Seen] = []
        for upstream in upstreams:
            if upstream.id in self._registry.ledger.servers:
                judged += self._compare(upstream, turn, counts)
        self._lists = {id: known for id, known in self._lists.items() if id in self._registry.upstreams}
        self._conclude(judged)

    def _compare(self, upstream: Upstream, turn: set[str], counts: dict[tuple[int, Address], int]) -> list[Seen]:
        judged: list[Seen] = []
        before = self._lists.get(upstream.id)
        new = before is None or before.at != upstream.shown_at
        if new:
            now = self._lists[upstream.id] = Listed(upstream)
            judged += before.and_then(now) if before is not None else []
        accounts = self._registry.ledger.servers[upstream.id].accounts
        for tag in turn:
            member = self._registry.context.roster.known.get(tag)
            if member is None:
                continue
            pid = member.identity.pid
            charge = accounts[tag].charge if tag in accounts else 0
            shown = counts.get((pid, upstream.address)) if upstream.address is not None else None
            seen = Seen(upstream.id, pid, member.identity.title, charge, shown)
            self._lists[upstream.id].note(tag, seen)
            judged.append(seen)
        if new and self._lists[upstream.id].suspects():
            self._registry.probes[upstream.id].list_again()
        return judged

    def _conclude(self, judged: list[Seen]) -> None:
        """Hold a difference until an audit no longer finds it, or its process is gone."""
        alive = {member.identity.pid for member in self._registry.context.roster.known.values()}
        found = {_key(seen): seen for seen in judged if seen.excess()}
        cleared = {_key(seen) for seen in judged} - found.keys()
        for key in list(self._held):
            if key[1] not in alive or key in cleared:
                held = self._held.pop(key)
                log.info("audit.settled", extra={"server": held.server, "member": held.pid})
        for key, seen in found.items():
            if key in self._held or seen.listed is not None or key in self._suspected:
                self._hold(key, seen)
        self._suspected = {key for key in self._suspected | found.keys() if key not in cleared and key[1] in alive}

    def _hold(self, key: Key, seen: Seen) -> None:
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


def _key(seen: Seen) -> Key:
    return seen.server, seen.pid, seen.listed is not None
