"""All steps from a state. What a step of one host reads and changes is one row and the heads, so each is made once.

Left open, so that all policies are among them: when a host asks, what it could use, what it gives back, which host does
the duty and when, when a lease ends. A host that is paused or cut off takes no step while others do.

A host hands out all that its limit allows; what its own rules promise is taken for granted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from poolmgr.fleet import script
from tests.simulation.fleet.exhaustive import real
from tests.simulation.fleet.exhaustive.states import (
    ACCEPTED,
    AIR,
    CRASHES,
    CURRENT,
    DEATHS,
    LATE,
    LOST,
    NAMED,
    NAMELESS,
    OLD,
    PASSED,
    PAST,
    REBORN,
    SLOW,
    UNNAMED,
    Client,
    Disk,
    Heads,
    Leased,
    Place,
    Record,
    Reply,
    Request,
    Row,
    World,
    canonical,
)

NO_FAULT = -1
IN_FLIGHT = 2

REMEMBERED = 100_000
"""Rows whose canonical form is kept: two of three steps lead to a row that an earlier step has led to."""


class Step(NamedTuple):
    """One host's.

    Attributes:
        ours: it needs no fault, so it may be counted on. fault: which it uses up.
        heads, row: as they are afterwards.
    """

    what: str
    fault: int
    heads: Heads
    row: Row


def outstanding(row: Row) -> int:
    """What its ledger counts: all is handed out that may be."""
    lease = row.lease
    stale = sum(row.stale)
    if lease.slot < 0:
        return stale
    return max(connected(row, lease.slot), lease.limit - stale, 0) + stale


def connected(row: Row, slot: int) -> int:
    return sum(c.slot == slot and not c.ended for c in row.clients)


def held(row: Row, place: int) -> int:
    """What a server counts past the gate."""
    return sum(c.place == place and c.stage >= PAST for c in row.clients)


def free_slot(row: Row) -> int:
    """One of which no trace is left."""
    lease = row.lease
    taken = {lease.slot, lease.joining} | {r.slot for r in row.requests} | {c.slot for c in row.clients}
    if row.reply is not None:
        taken.add(row.reply.slot)
    if row.disk is not None:
        taken.add(row.disk.slot)
    for k in range(len(row.stale)):
        if (
            k not in taken
            and not row.stale[k]
            and all(place[k] is None for place in row.records)
            and not any(f[k] for f in row.fences)
        ):
            return k
    return -1


def put(items: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return (*items[:at], value, *items[at + 1 :])


def _without(items: tuple[Any, ...], item: Any) -> tuple[Any, ...]:
    at = items.index(item)
    return items[:at] + items[at + 1 :]


def _orphans(row: Row) -> tuple[Request, ...]:
    return tuple(r._replace(answerable=False) for r in row.requests)


class Steps:
    """Those of a world."""

    def __init__(self, world: World, edit: Callable[[str], str] = lambda text: text) -> None:
        self.world = world
        self.hosts = real.Hosts(world)
        self.tables = real.Tables(world, edit)
        self._canonical = functools.lru_cache(REMEMBERED)(canonical)
        self._gate = functools.cache(real.shut)

    # ---- one host, and what servers do for its connections ----------------------------------------

    def local(self, row: Row, heads: Heads) -> list[Step]:
        found: list[Step] = []

        def step(what: str, fault: int, **changes: Any) -> None:
            new = self._canonical(row._replace(**changes))
            if new != row:
                found.append(Step(what, fault, heads, new))

        self._connections(row, heads, step)
        self._ends(row, step)
        for request in row.requests:
            step(f"request {request.seq} is lost", LOST, requests=_without(row.requests, request))
        if row.alive:
            self._host(row, heads, step)
        else:
            lease = self.hosts.start(Disk(), 0)
            step("is started again", REBORN, alive=True, lease=lease, disk=Disk() if row.disk is not None else None)
        return found

    def _connections(self, row: Row, heads: Heads, step: Callable[..., None]) -> None:
        for client in dict.fromkeys(row.clients):
            rest = _without(row.clients, client)

            def becomes(new: Client, rest: tuple[Client, ...] = rest) -> tuple[Client, ...]:
                return (*rest, new)

            mine = f"of .{client.slot}"
            if client.ended and client.stage != AIR:
                step(f"server notices an end {mine}", NO_FAULT, clients=rest)
            if client.stage == AIR:
                step(f"server accepts {mine}", NO_FAULT, clients=becomes(client._replace(stage=ACCEPTED)))
            elif client.stage == ACCEPTED and not self.world.unordered:
                named = client._replace(stage=NAMED, before=0, aged=False)
                step(f"a connection gets its name {mine}", NO_FAULT, clients=becomes(named))
            elif client.stage in (ACCEPTED, NAMED):
                if self._shut(row, heads, client.place, client.slot, client.told):
                    step(f"finds its gate shut {mine}", NO_FAULT, clients=rest)
                else:
                    passed = client._replace(stage=NAMELESS if client.stage == ACCEPTED else PAST)
                    step(f"finds its gate open {mine}", NO_FAULT, clients=becomes(passed))
            elif client.stage == NAMELESS:
                step(
                    f"takes its name late {mine}",
                    NO_FAULT,
                    clients=becomes(client._replace(stage=PAST, before=0, aged=False)),
                )
            if client.stage in UNNAMED and not client.aged:
                aged = client._replace(before=0, aged=True)
                step(f"has been without a name for long {mine}", NO_FAULT, clients=becomes(aged))
            if client.stage == PAST and not client.ended and row.alive:
                step(f"closes one {mine}", NO_FAULT, clients=rest)

    def _shut(self, row: Row, heads: Heads, place: int, slot: int, told: int) -> str:
        there = heads.places[place]
        return self._gate(None if there is None else there.head, row.records[place][slot], told)

    def _ends(self, row: Row, step: Callable[..., None]) -> None:
        lease, reply, disk = row.lease, row.reply, row.disk
        for k in range(len(row.stale)):
            records = tuple(
                put(place, k, place[k]._replace(end=PASSED)) if place[k] is not None else place  # type: ignore[union-attr]
                for place in row.records
            )
            if records != row.records:
                step(f".{k} ends in the copies", NO_FAULT, records=(row.records[CURRENT], *records[1:]))
            step(
                f".{k} ends",
                NO_FAULT,
                records=records,
                lease=lease._replace(end=PASSED) if lease.slot == k and lease.end else lease,
                requests=tuple(r._replace(until=PASSED) if r.slot == k and r.until else r for r in row.requests),
                reply=reply._replace(end=PASSED) if reply is not None and reply.slot == k and reply.end else reply,
                disk=disk._replace(end=PASSED) if disk is not None and disk.slot == k and disk.end else disk,
            )

    def _host(self, row: Row, heads: Heads, step: Callable[..., None]) -> None:
        world, hosts = self.world, self.hosts
        lease, reply = row.lease, row.reply
        if world.deaths:
            step(
                "dies", DEATHS, alive=False, lease=Leased(), stale=(0,) * world.names, told=(0,) * world.names,
                disk=None if row.disk is None else Disk(), reply=None,
                clients=tuple(c._replace(ended=True) for c in row.clients),
                place=CURRENT, requests=_orphans(row),
            )  # fmt: skip
        if row.disk is not None:
            self._disk(row, step)
        if reply is not None:
            step(f"answer {reply.seq} is lost", LOST, reply=None)
            after, fenced = hosts.answered(lease, reply)
            stale = row.stale
            if fenced and lease.slot >= 0 and (most := outstanding(row) - sum(stale)):
                stale = put(stale, lease.slot, most)
            told = row.told
            step(f"reads {reply.why} {reply.seq}", NO_FAULT, reply=None, lease=after, stale=stale, told=told)
        elif lease.newest:
            if not any(r.seq == lease.newest and r.answerable for r in row.requests):
                step("waits for nothing", NO_FAULT, lease=hosts.failed(lease))
            elif len(row.requests) < IN_FLIGHT:
                step("waits no longer", LATE, lease=hosts.failed(lease))
        if row.place < 0 or row.place == OLD:
            clients = row.clients
            step(
                "is led to the new server", NO_FAULT, place=CURRENT, clients=clients, reply=None,
                lease=hosts.failed(lease) if lease.newest else lease,
            )  # fmt: skip
        self._asks(row, step)
        if lease.slot >= 0:
            now = outstanding(row)
            settled = hosts.settle(lease, now)
            step(f"settles at {settled.word}", NO_FAULT, lease=settled)
            if lease.limit:
                step(f"gives back to {lease.limit - 1}", NO_FAULT, lease=hosts.give_back(lease, lease.limit - 1))
            if row.told[lease.slot] != lease.table:
                step("members hear of the table", NO_FAULT, told=put(row.told, lease.slot, lease.table))
        self._connects(row, heads, step)
        for k, count in enumerate(row.stale):
            if count and not connected(row, k):
                step(f"has obeyed the end of .{k}", NO_FAULT, stale=put(row.stale, k, 0))

    def _disk(self, row: Row, step: Callable[..., None]) -> None:
        lease, saved = self.hosts.save(row.lease)
        step("saves", NO_FAULT, lease=lease, disk=saved)
        slot, now, stale = row.lease.slot, outstanding(row), row.stale
        open_now = now - max(0, row.lease.limit - sum(stale)) if slot < 0 else connected(row, slot) + sum(stale)
        assert row.disk is not None
        for most in {now, max(open_now, 0)}:
            after = self.hosts.start(row.disk, most)
            left = stale
            if after.slot != slot and slot >= 0 and (mine := most - sum(stale)) > 0:
                left = put(stale, slot, mine)
            if after.slot >= 0 and left[after.slot]:
                left = put(left, after.slot, 0)
            step(f"supervisor crashes, its successor has {most}", CRASHES, lease=after, stale=left, reply=None,
                requests=_orphans(row))  # fmt: skip

    def _asks(self, row: Row, step: Callable[..., None]) -> None:
        lease, world = row.lease, self.world
        if row.reply is not None or lease.newest or row.place < 0 or len(row.requests) >= IN_FLIGHT:
            return
        free = free_slot(row)
        if lease.slot < 0 and free < 0:
            return
        settled = self.hosts.settle(lease, outstanding(row)) if lease.slot >= 0 else lease
        for demand in world.demands:
            asked = self.hosts.request(settled, free, demand, world.budget, row.place)
            if asked is None:
                return
            after, request = asked
            words = f"sends {request.seq}: {'join' if not request.table else f'word {request.word}'} as .{request.slot}"
            step(f"{words}, demand {demand}", NO_FAULT, lease=after, requests=(*row.requests, request))

    def _connects(self, row: Row, heads: Heads, step: Callable[..., None]) -> None:
        lease = row.lease
        if row.place < 0:
            return
        allowed = list(row.stale)
        if lease.slot >= 0:
            allowed[lease.slot] = max(0, lease.limit - sum(row.stale))
            if row.disk is not None:  # a raise is in the snapshot, with the lease that allows it
                allowed[lease.slot] = min(allowed[lease.slot], row.disk.word if row.disk.slot == lease.slot else 0)
        for k, most in enumerate(allowed):
            told = lease.table if k == lease.slot and not row.told[k] else row.told[k]
            if not told or connected(row, k) >= most:
                continue
            remembered = put(row.told, k, told)
            if not self._shut(row, heads, row.place, k, told):
                new = Client(row.place, k, PAST, told)
                step(f"opens one of .{k}", NO_FAULT, clients=(*row.clients, new), told=remembered)
            new = Client(row.place, k, AIR, told)
            step(f"begins to connect one of .{k}", SLOW, clients=(*row.clients, new), told=remembered)

    # ---- the script ----------------------------------------------------------------------------------

    def execute(self, row: Row, heads: Heads, others: tuple[tuple[Record | None, ...], ...], place: int) -> list[Step]:
        """Its requests that are under way there are executed. ``others``: the other hosts' records there."""
        there = heads.places[place]
        found: list[Step] = []
        if there is None:
            return found
        for request in row.requests:
            if request.place == place and not (request.answerable and row.reply is not None):
                for late in (False, True) if there.head is not None and there.head.due else (False,):
                    found.append(self._execute(row, heads, others, request, there, late=late))
        return found

    def _execute(
        self,
        row: Row,
        heads: Heads,
        others: tuple[tuple[Record | None, ...], ...],
        request: Request,
        there: Place,
        *,
        late: bool,
    ) -> Step:
        head = there.head
        if late and head is not None:
            head = head._replace(due=False)
        records = (row.records[request.place], *others)
        asked = script.Renewal(
            run=f"run{there.run}", table=real.number(request.table), name=real.name(0, request.slot), seq=request.seq,
            word=request.word, demand=request.demand, floor=1, budget=self.world.budget, slack=0, lease=10_000,
            until=real.ENDS[request.until], able=True, host="-",
        )  # fmt: skip
        head, records, raw = self.tables.call(head, records, heads.tables, *asked.arguments())
        answer = script.answer(raw)
        reply = row.reply
        if request.answerable:
            table = int(answer.table[1:])
            if isinstance(answer, script.Renewed):
                ends = real.end(answer.end)
                reply = Reply(request.seq, request.slot, "ok", table, answer.grant, ends, answer.learning)
            else:
                reply = Reply(request.seq, request.slot, answer.why, table, last=answer.last)
        assert head is not None
        new_heads = Heads(
            put(heads.places, request.place, there._replace(head=head)), max(heads.tables, head.number), heads.runs
        )  # fmt: skip
        mine, kept = records[0], records[1:]
        gone = head.number > heads.tables
        assert gone or kept == others, (kept, others)
        new = row._replace(
            requests=_without(row.requests, request), reply=reply, records=put(row.records, request.place, mine)
        )
        words = answer.why if isinstance(answer, script.Refused) else f"granted {answer.grant}"
        what = f"executed {request.seq} of .{request.slot}, word {request.word}: {words}"
        return Step(what, NO_FAULT, new_heads, self._canonical(new))
