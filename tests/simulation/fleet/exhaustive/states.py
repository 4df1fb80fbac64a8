"""States as plain values: tuples, alike for all that differs in nothing that matters.

A *place* is a table: 0 the one of the server that hosts are led to, 1 of an old primary that lives on, 2 the copy that
a replica has. A *slot* is one of the few lease names of a host; one of which no trace is left anywhere stands for a new
name. Times are two values, passed and to come: each lease's end passes in a step of its own, in any order.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

CURRENT, OLD, COPY = range(3)

PASSED, TO_COME = 1, 2
"""An end; 0: none was told."""

MARKED, GONE, SHOWN = 1, 2, 3
"""What a fencer knows of a name: its survey has marked it; a list has shown that it is gone; a census has shown it."""

AIR, ACCEPTED, NAMED, PAST, NAMELESS = range(5)
"""The way of a connection. Nameless: past its gate without a name, only where the gate is asked first."""

UNNAMED = (ACCEPTED, NAMELESS)

DEATHS, REBORN, CRASHES, FLUSHES, FAILOVERS, BACK, LOST, LATE, SLOW, LAGS = range(10)
"""Places in ``State.faults``: how many of each are left."""


class World(msgspec.Struct, frozen=True, kw_only=True):
    """How small.

    Attributes:
        budget: there is no slack: what is counted is past its gate, and needs none.
        demands: what a host may say that it could use.
        names: slots of a host.
        fencers: rounds of the duty that may be under way at once.
        reborn: dead hosts that are started again, with an empty disk.
        late: requests that were given up and are executed later. lost: requests or answers that never arrive.
        slow: connections that take their way to the gate in steps.
        old: an old primary lives on after a failover. back: how often names lead back to it.
        lags: how often the replica falls behind.
        ticks: the pass over all records may be older than what it is used for.
        unordered: a connection asks before it has its name: a rule switched off.
    """

    name: str
    hosts: int = 2
    budget: int = 1
    demands: tuple[int, ...] = (0, 1)
    names: int = 2
    fencers: int = 1
    deaths: int = 0
    reborn: int = 0
    crashes: int = 0
    flushes: int = 0
    failovers: int = 0
    back: int = 0
    lost: int = 0
    late: int = 0
    slow: int = 0
    lags: int = 0
    old: bool = False
    ticks: bool = False
    unordered: bool = False

    @property
    def stands(self) -> bool:
        """No host that has connections is fenced before its lease has ended. After two losses, or with a copy, claims
        from two histories of leases can meet, of which not all fit."""
        return self.flushes < 2 and not self.failovers

    @property
    def faults(self) -> tuple[int, ...]:
        """As a state has them."""
        return (
            self.deaths, self.reborn, self.crashes, self.flushes, self.failovers, self.back, self.lost, self.late,
            self.slow, self.lags,
        )  # fmt: skip


class Head(NamedTuple):
    """The table's first record. What only advises (who has the duty, the numbers of hosts and of marked leases, whether
    one is short) is left out: every host may do at any time what it would be asked for."""

    run: int
    number: int
    learning: bool
    used: int
    level: int
    headroom: int
    due: bool
    """Its pass is to come."""
    recent: bool
    """Leases from before the table may not have ended."""


class Record(NamedTuple):
    """A lease in a table."""

    marked: bool
    grant: int
    seq: int
    end: int
    demand: int


class Place(NamedTuple):
    """A server process, or a replica (without a run)."""

    run: int
    head: Head | None


class Heads(NamedTuple):
    """All that hosts share."""

    places: tuple[Place | None, Place | None, Place | None]
    tables: int
    """How many were made."""
    runs: int


class Leased(NamedTuple):
    """What matters of a :class:`poolmgr.fleet.lease.Lease`."""

    slot: int = -1
    table: int = 0
    speaks: int = 0
    end: int = 0
    word: int = 0
    limit: int = 0
    clearing: bool = True
    unsaved: bool = False
    joining: int = -1
    newest: int = 0
    old: int = 0
    unnumbered: bool = False
    link: int = 1
    counted: int = 0


class Request(NamedTuple):
    seq: int
    slot: int
    table: int
    word: int
    demand: int
    until: int
    place: int
    answerable: bool = True
    """The process that sent it still listens."""


class Reply(NamedTuple):
    seq: int
    slot: int
    why: str
    table: int
    grant: int = 0
    end: int = 0
    learning: bool = False
    last: int = 0


class Disk(NamedTuple):
    slot: int = -1
    table: int = 0
    link: int = 0
    word: int = 0
    end: int = 0
    clearing: bool = True


class Client(NamedTuple):
    """Connections that are alike are told apart by nothing; a row has a sorted tuple of them.

    Attributes:
        stage: 0 under way, 1 accepted, 2 named, 3 past its gate.
        told: the table that gave its process its limit.
        before: accepted before the fresh connection of these fencers (bits), and without a name then.
        aged: for so long without a name that no list suspects it any more.
    """

    place: int
    slot: int
    stage: int
    told: int
    ended: bool = False
    before: int = 0
    aged: bool = False


class Row(NamedTuple):
    """One host, and all that tables and fencers have of it."""

    alive: bool
    lease: Leased
    stale: tuple[int, ...]
    """Permits that members have under names that are over, and have not heard of that."""
    told: tuple[int, ...]
    disk: Disk | None
    requests: tuple[Request, ...]
    reply: Reply | None
    place: int
    """Where its name leads; -1: to a process that has ended."""
    clients: tuple[Client, ...]
    records: tuple[tuple[Record | None, ...], ...]
    """By place, by slot."""
    fences: tuple[tuple[int, ...], ...]
    """By fencer, by slot: see :data:`MARKED`."""


class Fencer(NamedTuple):
    """A round of the duty: 1 the table is surveyed, 2 a fresh connection was answered, 3 it has listed."""

    stage: int
    place: int
    table: int
    learning: bool
    complete: bool = False


Faults = tuple[int, ...]


class State(NamedTuple):
    heads: Heads
    fencers: tuple[Fencer | None, ...]
    rows: tuple[Row, ...]
    faults: Faults


def beginning(world: World) -> State:
    """Hosts that have just been started at a server without a table."""
    row = Row(
        alive=True,
        lease=Leased(unsaved=bool(world.crashes)),
        stale=(0,) * world.names,
        told=(0,) * world.names,
        disk=Disk() if world.crashes else None,
        requests=(),
        reply=None,
        place=CURRENT,
        clients=(),
        records=((None,) * world.names,) * 3,
        fences=((0,) * world.names,) * world.fencers,
    )
    return State(Heads((Place(1, None), None, None), 0, 1), (None,) * world.fencers, (row,) * world.hosts, world.faults)


def forget(row: Row) -> Row:
    """Without what no rule reads any more.

    That is: of a marked lease's record all but its grant; the number of the request that a record is from, if only
    newer ones can come; which table a connection past its gate was told; and whether the table of an answer learns.
    Members that had heard of no table have heard of their lease's: they may do so at any time, and connect by it before
    they do.
    """
    lease, reply = row.lease, row.reply
    told = row.told
    if lease.slot >= 0 and not told[lease.slot]:
        told = (*told[: lease.slot], lease.table, *told[lease.slot + 1 :])
    return row._replace(
        told=told,
        reply=reply and reply._replace(learning=False),
        clients=tuple(c._replace(told=0) if c.stage == PAST and c.told else c for c in row.clients),
        records=tuple(
            tuple(
                r
                if r is None
                else r._replace(seq=0, end=PASSED, demand=0)
                if r.marked
                else r
                if _may_be_old(row, k, r.seq)
                else r._replace(seq=0)
                for k, r in enumerate(place)
            )
            if any(place)
            else place
            for place in row.records
        ),
    )


def _may_be_old(row: Row, slot: int, seq: int) -> bool:
    """A request of this lease that is under way, or is still to be made, may have no larger number than this."""
    lease, disk = row.lease, row.disk
    return (
        any(r.slot == slot and r.seq <= seq for r in row.requests)
        or lease.unnumbered
        or (slot in (lease.slot, lease.joining) and lease.link * LINKS + lease.counted < seq)
        or (disk is not None and disk.slot == slot and seq // LINKS > disk.link)
    )


def canonical(row: Row) -> Row:
    """Requests renumbered within each link; slots in an order that depends on what they have only."""
    row = forget(row)
    lease, reply = row.lease, row.reply
    seqs = {r.seq for r in row.requests}
    for place in row.records:
        if any(place):
            seqs.update(r.seq for r in place if r is not None and r.seq)
    if reply is not None:
        seqs.add(reply.seq)
        if reply.last:
            seqs.add(reply.last)
    if lease.newest:
        seqs.add(lease.newest)
    if row.alive:
        seqs.add(lease.link * LINKS + lease.counted)
    number: dict[int, int] = {0: 0}
    link, count = -1, 0
    for seq in sorted(seqs):
        if seq // LINKS != link:
            link, count = seq // LINKS, 0
            if seq % LINKS == 0:
                count = -1
        count += 1
        number[seq] = link * LINKS + count
    order = _order(row)
    new = {k: at for at, k in enumerate(order)}
    new[-1] = -1
    return Row(
        row.alive,
        lease._replace(
            slot=new[lease.slot],
            joining=new[lease.joining],
            newest=number[lease.newest] if lease.newest else 0,
            counted=number[lease.link * LINKS + lease.counted] % LINKS if row.alive else 0,
        ),
        tuple(row.stale[k] for k in order),
        tuple(row.told[k] if k == lease.slot or row.stale[k] else 0 for k in order),
        None if row.disk is None else row.disk._replace(slot=new[row.disk.slot]),
        tuple(sorted(r._replace(seq=number[r.seq], slot=new[r.slot]) for r in row.requests)),
        None
        if reply is None
        else reply._replace(seq=number[reply.seq], slot=new[reply.slot], last=number[reply.last] if reply.last else 0),
        row.place,
        tuple(sorted(c if new[c.slot] == c.slot else c._replace(slot=new[c.slot]) for c in row.clients)),
        tuple(
            tuple(None if (r := place[k]) is None else r._replace(seq=number[r.seq]) for k in order)
            if any(place)
            else place
            for place in row.records
        ),
        tuple(tuple(f[k] for k in order) for f in row.fences),
    )


def _order(row: Row) -> list[int]:
    """The lease's slot, the one it joins by, and then by what else is there of each."""
    lease, reply = row.lease, row.reply
    first = [slot for slot in dict.fromkeys((lease.slot, lease.joining)) if slot >= 0]
    rest = [k for k in range(len(row.stale)) if k not in first]
    if len(rest) > 1:
        rest.sort(
            key=lambda k: (
                repr([place[k] for place in row.records]),
                row.stale[k],
                [c[:1] + c[2:] for c in row.clients if c.slot == k],
                [r[:1] + r[2:] for r in row.requests if r.slot == k],
                reply is not None and reply.slot == k,
                row.disk is not None and row.disk.slot == k,
                [f[k] for f in row.fences],
            ),
        )
    return first + rest


LINKS = 1_000_000_000
"""As :data:`poolmgr.fleet.lease.LINKS`."""
