"""The smallest worlds, explored completely: every order of every step, over the real code.

Breadth first, so that the first violation found is a shortest trace. A state is a plain value; for
each step the real objects (:class:`poolmgr.budget.ledger.Ledger`, :class:`poolmgr.member.core.Core` and its
account) are made from it, one method is called, and the new state is read from them. The policy is
left open: anybody may be raised or lowered to anything at any time, if the rules allow.

Two things are shown of each world: the server never counts more than the budget, and from every
state, by steps of ours and of the server alone, one running member can still come to hold everything
(no permit is ever lost). Members that are alike are not told apart, and sequences and links are
renumbered.

``python -m tests.simulation.exhaustive`` explores the larger worlds too.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from poolmgr import wire
from poolmgr.budget.accounts import Account, Identity, Quarantine, Saved, SavedMember, SavedQuarantine, SavedServer
from poolmgr.budget.ledger import Ledger, Member
from poolmgr.budget.turn import Turn
from poolmgr.member.core import Attachment, Core
from poolmgr.supervisor.proof import Row, judge

SERVER = "r"
ENDPOINT = wire.Endpoint(SERVER)
OUTSTANDING = 2
"""Limits told and not acknowledged, and messages under way on a link in each direction, at most."""


class World(msgspec.Struct, frozen=True):
    """What there is and how many faults of each kind may come."""

    name: str
    members: int = 2
    budget: int = 2
    running: int = -1
    crashes: int = 0
    kills: int = 0
    cuts: int = 0
    stops: int = 0
    forks: int = 0
    shrinks: int = 0
    queue: bool = False
    """Connections wait to be accepted, and have no name at first."""


class Link(msgspec.Struct, frozen=True):
    number: int
    member_open: bool = True
    supervisor_open: bool = True
    up: tuple[Any, ...] = ()
    """``("hello", stated)`` and ``("ack", seq)``."""
    down: tuple[tuple[int, int], ...] = ()
    """Limits as (seq, limit)."""


class Process(msgspec.Struct, frozen=True):
    """A member and its sockets. ``state``: absent, running, stopped, dead."""

    state: str = "A"
    limit: int = 0
    seq: int = 0
    acked: int = 0
    live: int = 0
    closing: int = 0
    """Closed here, and still counted by the server."""
    ended: int = 0
    """The server has confirmed; not read yet."""
    left: int = 0
    """Counted by the server, owner dead."""
    links: tuple[Link, ...] = ()
    # The accept queue's world: waiting to be accepted, the same of a dead owner, unnamed among ``live``
    # and among ``left``.
    queued: int = 0
    queued_dead: int = 0
    unnamed: int = 0
    unnamed_left: int = 0


class Record(msgspec.Struct, frozen=True):
    """What the ledger has of a member."""

    told: tuple[tuple[int, int], ...]
    seq: int
    link: int
    linked: bool
    unanswered: bool


class Supervisor(msgspec.Struct, frozen=True):
    records: tuple[Record | None, ...]
    quarantine: tuple[int, ...]
    budget: int
    pending: tuple[int, int, int, int] | None = None
    """(member, link, seq, limit): on disk, and not sent yet."""


class Disk(msgspec.Struct, frozen=True):
    charges: tuple[int | None, ...]
    quarantine: tuple[int, ...]
    budget: int


class State(msgspec.Struct, frozen=True):
    supervisor: Supervisor | None
    disk: Disk
    processes: tuple[Process, ...]
    faults: tuple[int, ...]
    budget: int


CRASH, KILL, CUT, STOP, FORK, SHRINK = range(6)

Step = tuple[str, bool, State]
"""What happens, whether it is the system's own doing (no fault), and what comes of it."""

_replace = msgspec.structs.replace


def beginning(world: World) -> State:
    """No supervisor, nothing open."""
    running = world.members if world.running < 0 else world.running
    n = world.members
    return State(
        None,
        Disk((None,) * n, (0,) * n, world.budget),
        tuple(Process("R" if i < running else "A") for i in range(n)),
        (world.crashes, world.kills, world.cuts, world.stops, world.forks, world.shrinks),
        world.budget,
    )


def count(state: State) -> int:
    """What the server counts."""
    return sum(p.live + p.closing + p.left for p in state.processes)


def violated(state: State) -> str:
    """What is wrong with this state; empty if nothing is."""
    counted = count(state)
    if counted > state.budget:
        return f"the server counts {counted} of {state.budget}"
    supervisor = state.supervisor
    if supervisor is not None:
        for i, (record, process) in enumerate(zip(supervisor.records, state.processes, strict=True)):
            charge = max(limit for _, limit in record.told) if record else 0
            opened = process.live + process.closing + process.ended + process.queued
            if process.state in "RS" and opened > charge:
                return f"m{i} has {opened} open, charged {charge}"
    return ""


# ---- the real objects, made from a state and read back ----------------------------------------------


_RNG = random.Random(0)
_TAGS = tuple(f"pm1.0000000a.00000b.{i + 1}.{i + 1}.0000aa" for i in range(9))


def _tag(i: int) -> str:
    return _TAGS[i]


def _core(i: int, process: Process) -> Core:
    core = Core(_TAGS[i], rng=_RNG)
    attachment = Attachment(ENDPOINT)
    core.attach(attachment)
    core._resolve(ENDPOINT.key, SERVER)
    account = attachment.desk.account
    account.limit, account.seq, account.acked, account.high = process.limit, process.seq, process.acked, process.limit
    account.live = dict.fromkeys(range(1, process.live + process.queued + 1), attachment)
    account.closing = {100 + n: attachment for n in range(process.closing + process.ended)}
    core.link = max((link.number for link in process.links), default=0)
    core.linked = any(link.member_open for link in process.links)
    return core


def _read(process: Process, core: Core, **changes: Any) -> Process:
    account = next(desk.account for desk in core.desks() if desk.account.server == SERVER)
    return _replace(process, limit=account.limit, seq=account.seq, acked=account.acked, **changes)


def _ledger(supervisor: Supervisor) -> Ledger:
    ledger = Ledger(rng=_RNG)
    server = ledger.server(SERVER)
    server.budget, server.held = supervisor.budget, False
    for i, record in enumerate(supervisor.records):
        if record is not None:
            tag = _tag(i)
            ledger.members[tag] = Member(Identity(tag, i + 1), record.link, record.linked)
            server.accounts[tag] = Account(
                told=list(record.told), seq=record.seq, unanswered=record.unanswered, linked=record.linked
            )
            server.charged += record.told[0][1]
    for i, charge in enumerate(supervisor.quarantine):
        if charge:
            server.quarantine[_tag(i)] = Quarantine(charge, 0.0)
    return ledger


def _supervisor(ledger: Ledger, n: int, pending: tuple[int, int, int, int] | None = None) -> Supervisor:
    ledger.check()
    server = ledger.servers[SERVER]
    records: list[Record | None] = []
    for i in range(n):
        account = server.accounts.get(_tag(i))
        if account is None:
            records.append(None)
        else:
            link = ledger.members[_tag(i)].link
            records.append(Record(tuple(account.told), account.seq, link, account.linked, account.unanswered))
    quarantine = tuple(server.quarantine[_tag(i)].charge if _tag(i) in server.quarantine else 0 for i in range(n))
    return Supervisor(tuple(records), quarantine, server.budget, pending)


def _written(ledger: Ledger, n: int) -> Disk:
    saved = ledger.snapshot(0.0)
    charges = {m.identity.tag: m.charges[SERVER] for m in saved.members}
    (server,) = saved.servers
    quarantine = {entry.tag: entry.charge for entry in server.quarantine}
    return Disk(
        tuple(charges.get(_tag(i)) for i in range(n)),
        tuple(quarantine.get(_tag(i), 0) for i in range(n)),
        server.budget,
    )


def _restored(disk: Disk, processes: tuple[Process, ...]) -> Ledger:
    saved = Saved(
        owner=Identity("", 0),
        servers=(
            SavedServer(
                SERVER, (), "run", disk.budget, None, 0,
                tuple(SavedQuarantine(_tag(i), charge, 0.0) for i, charge in enumerate(disk.quarantine) if charge),
            ),
        ),
        members=tuple(
            SavedMember(Identity(_tag(i), i + 1), {SERVER: charge})
            for i, charge in enumerate(disk.charges)
            if charge is not None
        ),
    )  # fmt: skip
    ledger = Ledger.restored(saved, 0.0, alive=lambda who: processes[who.pid - 1].state != "D")
    ledger.hold_raises(SERVER, False)
    return ledger


# ---- steps ------------------------------------------------------------------------------------------


def steps(world: World, state: State) -> Iterator[Step]:
    """Everything that may happen next."""
    for i, process in enumerate(state.processes):
        yield from _server_steps(world, state, i, process)
        yield from _process_steps(world, state, i, process)
    if state.supervisor is None:
        ledger = _restored(state.disk, state.processes)
        yield "a supervisor starts", True, _replace(state, supervisor=_supervisor(ledger, world.members))
        return
    yield from _supervisor_steps(world, state, state.supervisor)


def _with(state: State, i: int, process: Process, **more: Any) -> State:
    return _replace(state, processes=(*state.processes[:i], process, *state.processes[i + 1 :]), **more)


def _fault(state: State, kind: int) -> tuple[int, ...]:
    return tuple(left - (k == kind) for k, left in enumerate(state.faults))


def _server_steps(world: World, state: State, i: int, p: Process) -> Iterator[Step]:
    if p.closing:
        yield (
            f"server notices a close of m{i}",
            True,
            _with(state, i, _replace(p, closing=p.closing - 1, ended=p.ended + 1)),
        )
    if p.left > p.unnamed_left:
        yield f"server notices an end of dead m{i}", True, _with(state, i, _replace(p, left=p.left - 1))
    if p.unnamed_left:
        gone = _replace(p, left=p.left - 1, unnamed_left=p.unnamed_left - 1)
        yield f"server notices an unnamed end of dead m{i}", True, _with(state, i, gone)
    if p.queued_dead:
        late = _replace(p, queued_dead=p.queued_dead - 1, left=p.left + 1, unnamed_left=p.unnamed_left + 1)
        yield f"server accepts one of dead m{i}", True, _with(state, i, late)
    elif p.queued and not any(other.queued_dead for other in state.processes):
        new = _replace(p, queued=p.queued - 1, live=p.live + 1, unnamed=p.unnamed + 1)
        yield f"server accepts one of m{i}", True, _with(state, i, new)
    if p.unnamed:
        yield f"server learns a name of m{i}", True, _with(state, i, _replace(p, unnamed=p.unnamed - 1))


def _process_steps(world: World, state: State, i: int, p: Process) -> Iterator[Step]:
    if p.state == "A" and (world.running < 0 or not world.forks):
        yield f"m{i} starts", True, _with(state, i, _replace(p, state="R"))
    if p.state == "S":
        yield f"m{i} is continued", True, _with(state, i, _replace(p, state="R"))
    if p.state in "RS" and state.faults[KILL]:
        links = tuple(_replace(link, member_open=False, down=()) for link in p.links if link.supervisor_open)
        dead = Process(
            "D", left=p.left + p.live + p.closing, links=links,
            queued_dead=p.queued_dead + p.queued, unnamed_left=p.unnamed_left + p.unnamed,
        )  # fmt: skip
        yield f"m{i} is killed", False, _with(state, i, dead, faults=_fault(state, KILL))
    if p.state != "R":
        return
    if state.faults[STOP]:
        yield f"m{i} is stopped", False, _with(state, i, _replace(p, state="S"), faults=_fault(state, STOP))
    core = _core(i, p)
    attachment = next(iter(core.desks())).attachments[0] if p.live + p.queued == 0 else None
    attachment = attachment or next(iter(core.desks())).attachments[0]
    if count(state) + sum(q.ended + q.queued + q.queued_dead for q in state.processes) <= state.budget and core.take(
        attachment, 0.0
    ):
        opened = _replace(p, queued=p.queued + 1) if world.queue else _replace(p, live=p.live + 1)
        yield f"m{i} opens one", True, _with(state, i, opened)
    if p.live > p.unnamed:
        core = _core(i, p)
        assert core.closing(1)
        yield f"m{i} closes one", True, _with(state, i, _read(p, core, live=p.live - 1, closing=p.closing + 1))
    if p.ended:
        core = _core(i, p)
        core.gone(100)
        yield f"m{i} reads an end-of-file", True, _with(state, i, _read(p, core, ended=p.ended - 1))
    if state.faults[FORK]:
        for j, absent in enumerate(state.processes):
            if absent.state == "A":
                child = _core(i, p).forked(_tag(j))
                desks = [desk for desk in child.desks() if desk.account.server]
                limit, seq = (desks[0].account.limit, desks[0].account.seq) if desks else (0, 0)
                born = Process("R", limit=limit, seq=seq)
                yield f"m{i} forks m{j}", False, _with(state, j, born, faults=_fault(state, FORK))
                break
    yield from _link_steps(world, state, i, p)


def _link_steps(world: World, state: State, i: int, p: Process) -> Iterator[Step]:
    newest = max((link.number for link in p.links if link.member_open), default=0)
    for k, link in enumerate(p.links):

        def put(process: Process, changed: Link | None, k: int = k) -> State:
            middle = () if changed is None else (changed,)
            return _with(state, i, _replace(process, links=p.links[:k] + middle + p.links[k + 1 :]))

        if not link.member_open:
            continue
        if link.down:
            (seq, limit), rest = link.down[0], link.down[1:]
            core = _core(i, p)
            core.received(link.number, wire.Limit(SERVER, seq, limit), 0.0)
            yield f"m{i} hears limit {limit}, seq {seq}", True, put(_read(p, core), _replace(link, down=rest))
        elif not link.supervisor_open:
            core = _core(i, p)
            core.unlinked()
            yield f"m{i} reads the end of its link", True, put(_read(p, core), None)
        if link.number != newest:
            continue
        core = _core(i, p)
        account = next(desk.account for desk in core.desks() if desk.account.server == SERVER)
        if account.ackable() > account.acked and len(link.up) < OUTSTANDING:
            acked = account.ackable()
            account.acknowledged(acked)
            sent = _replace(link, up=(*link.up, ("ack", acked))) if link.supervisor_open else link
            yield f"m{i} acknowledges seq {acked}", True, put(_read(p, core), sent)
        if state.faults[CUT]:
            core = _core(i, p)
            core.unlinked()
            cut = put(_read(p, core), _replace(link, member_open=False, down=()))
            yield f"m{i} drops its link", False, _replace(cut, faults=_fault(state, CUT))
            cut = put(p, _replace(link, supervisor_open=False, up=()))
            yield f"the supervisor drops the link of m{i}", False, _replace(cut, faults=_fault(state, CUT))
    if state.supervisor is not None and not any(link.member_open for link in p.links) and len(p.links) < 3:
        core = _core(i, p)
        known = state.supervisor.records[i]
        core.link = max([core.link, known.link if known else 0])
        hello = core.register(0.0)
        stated = sum(hold.stated for hold in hello.holds)
        registered = _read(p, core, links=(*p.links, Link(hello.link, up=(("hello", stated),))))
        yield f"m{i} registers on link {hello.link}, states {stated}", True, _with(state, i, registered)


def _supervisor_steps(world: World, state: State, supervisor: Supervisor) -> Iterator[Step]:
    n = world.members
    if state.faults[CRASH]:
        for lossy in (False, True):
            processes = tuple(
                _replace(
                    p,
                    links=tuple(
                        _replace(link, supervisor_open=False, up=(), down=() if lossy else link.down)
                        for link in p.links
                        if link.member_open
                    ),
                )
                for p in state.processes
            )
            what = "the supervisor is killed" + (", unsent bytes are lost" if lossy else "")
            yield what, False, _replace(state, supervisor=None, processes=processes, faults=_fault(state, CRASH))
    if supervisor.pending is not None:
        i, number, seq, limit = supervisor.pending
        p = state.processes[i]
        links = tuple(
            _replace(link, down=(*link.down, (seq, limit)))
            if link.number == number and link.supervisor_open and link.member_open
            else link
            for link in p.links
        )
        sent = _with(state, i, _replace(p, links=links), supervisor=_replace(supervisor, pending=None))
        yield f"the supervisor tells m{i} limit {limit}, seq {seq}", True, sent
        return
    if state.faults[SHRINK] and supervisor.budget > 1:
        ledger = _ledger(supervisor)
        ledger.set_budget(SERVER, supervisor.budget - 1, 0.0)
        changed = _replace(
            state, supervisor=_supervisor(ledger, n), disk=_written(ledger, n), faults=_fault(state, SHRINK)
        )
        yield f"the budget becomes {supervisor.budget - 1}", False, changed
    for i, p in enumerate(state.processes):
        yield from _hearing_steps(state, supervisor, i, p, n)
        record = supervisor.records[i]
        if p.state == "D" and record is not None:
            ledger = _ledger(supervisor)
            ledger.exited(_tag(i), 0.0)
            yield f"the end of m{i} is seen", True, _replace(state, supervisor=_supervisor(ledger, n))
        if supervisor.quarantine[i] and p.state == "D" and _is_gone(state, i):
            ledger = _ledger(supervisor)
            ledger.proven(SERVER, _tag(i), 0.0)
            yield f"the list shows none of m{i}", True, _replace(state, supervisor=_supervisor(ledger, n))
        if p.left > p.unnamed_left and supervisor.quarantine[i]:
            yield f"one of dead m{i} is killed by number", True, _with(state, i, _replace(p, left=p.left - 1))
        if record is not None and record.linked and p.state != "A":
            yield from _telling_steps(state, supervisor, i, record, n)


def _is_gone(state: State, i: int) -> bool:
    """The verdict of a list made now, after a fresh connection was answered."""
    if any(p.queued_dead for p in state.processes) or any(p.queued for p in state.processes):
        return False  # the fresh connection is behind them in the queue
    rows: list[Row] = []
    for j, p in enumerate(state.processes):
        named = p.live - p.unnamed + p.closing + p.left - p.unnamed_left
        rows += [Row(len(rows) + k + 1, "h:1", f"{_tag(j)}-{k + 1}", 0, "ping") for k in range(named)]
        rows += [Row(len(rows) + k + 1, "h:1", "", 0) for k in range(p.unnamed + p.unnamed_left)]
    return _tag(i) in judge(rows, {_tag(i)}, fresh=1000, host="h", handshake=7.0).gone


def _hearing_steps(state: State, supervisor: Supervisor, i: int, p: Process, n: int) -> Iterator[Step]:
    for k, link in enumerate(p.links):
        if not link.supervisor_open:
            continue
        ledger = _ledger(supervisor)
        if link.up:
            (kind, value), rest = link.up[0], link.up[1:]
            links = list(p.links)
            links[k] = _replace(link, up=rest)
            if kind == "ack":
                ledger.report(_tag(i), link.number, wire.Report(SERVER, value), 0.0)
                what = f"the supervisor hears m{i} acknowledge seq {value} on link {link.number}"
            else:
                what = f"the supervisor hears m{i} register on link {link.number}, stating {value}"
                gone = p.state == "D" and supervisor.records[i] is None
                if gone:
                    ledger.forget(_tag(i))
                if ledger.register(Identity(_tag(i), i + 1), link.number, {SERVER: value}, 0.0):
                    ledger.attach(_tag(i), SERVER, 0.0)
                    links = [
                        _replace(other, supervisor_open=False, up=()) if other.number < link.number else other
                        for other in links
                    ]
                else:
                    links[k] = _replace(link, supervisor_open=False, up=())
            heard = _with(state, i, _replace(p, links=tuple(links)), supervisor=_supervisor(ledger, n))
            yield what, True, heard
        elif not link.member_open:
            ledger.unlink(_tag(i), link.number, 0.0)
            left = _replace(p, links=p.links[:k] + p.links[k + 1 :])
            yield (
                f"the supervisor reads the end of link {link.number} of m{i}",
                True,
                _with(state, i, left, supervisor=_supervisor(ledger, n)),
            )


def _telling_steps(state: State, supervisor: Supervisor, i: int, record: Record, n: int) -> Iterator[Step]:
    link = next((x for x in state.processes[i].links if x.number == record.link and x.supervisor_open), None)
    if link is None or len(record.told) > OUTSTANDING or len(link.down) >= OUTSTANDING:
        return
    choices: list[tuple[str, int]] = [("answer", record.told[-1][1])] if record.unanswered else []
    choices += [("raise" if limit > record.told[-1][1] else "lower", limit) for limit in range(supervisor.budget + 1)]
    for kind, limit in choices:
        ledger, turn = _ledger(supervisor), Turn()
        server, tag = ledger.servers[SERVER], _tag(i)
        if kind == "raise":
            done = ledger._raise(server, tag, limit, 0.0, turn)
        elif kind == "lower":
            done = ledger._lower(server, tag, limit, 0.0, turn)
        else:
            ledger._answer(server, tag, server.accounts[tag], 0.0, turn)
            done = True
        if not done:
            continue
        message = turn.tells[0].message
        assert isinstance(message, wire.Limit)
        changed = _supervisor(ledger, n, (i, turn.tells[0].link, message.seq, message.limit))
        disk = _written(ledger, n) if turn.persist else state.disk
        what = f"the supervisor {kind}s m{i} to {limit}" + (", on disk" if turn.persist else "")
        yield what, True, _replace(state, supervisor=changed, disk=disk)


# ---- canonical form -----------------------------------------------------------------------------------


def canonical(state: State) -> State:
    """Sequences and links renumbered for each member, members sorted."""
    supervisor, disk = state.supervisor, state.disk
    rows = []
    for i, p in enumerate(state.processes):
        record = supervisor.records[i] if supervisor else None
        pending = supervisor.pending if supervisor and supervisor.pending and supervisor.pending[0] == i else None
        links = tuple(
            link
            for link in p.links
            if (
                link.member_open
                and (link.supervisor_open or link.down or link.number == max(x.number for x in p.links))
            )
            or (link.supervisor_open and (link.up or not link.member_open))
        )
        seqs = {
            p.seq,
            p.acked,
            *(s for x in links for s, _ in x.down),
            *(v for x in links for k, v in x.up if k == "ack"),
        }
        numbers = {x.number for x in links}
        if record is not None:
            seqs |= {record.seq, *(s for s, _ in record.told)}
            numbers.add(record.link)
        if pending is not None:
            seqs.add(pending[2])
            numbers.add(pending[1])
        seq_of = {v: n for n, v in enumerate(sorted(seqs | {0}))}
        number_of = {v: n for n, v in enumerate(sorted(numbers | {0}))}
        links = tuple(
            Link(
                number_of[x.number], x.member_open, x.supervisor_open,
                tuple((k, seq_of[v] if k == "ack" else v) for k, v in x.up),
                tuple((seq_of[s], limit) for s, limit in x.down),
            )
            for x in sorted(links, key=lambda x: x.number)
        )  # fmt: skip
        if record is not None:
            told = tuple((seq_of[s], limit) for s, limit in record.told)
            record = Record(told, seq_of[record.seq], number_of[record.link], record.linked, record.unanswered)
        if pending is not None:
            pending = (0, number_of[pending[1]], seq_of[pending[2]], pending[3])
        p = _replace(p, seq=seq_of[p.seq], acked=seq_of[p.acked], links=links)
        quarantine = supervisor.quarantine[i] if supervisor else 0
        rows.append((p, record, pending, quarantine, disk.charges[i], disk.quarantine[i]))
    if len(rows) > 1:
        rows.sort(key=repr)
    at = next((i for i, row in enumerate(rows) if row[2] is not None), None)
    return State(
        None
        if supervisor is None
        else Supervisor(
            tuple(row[1] for row in rows),
            tuple(row[3] for row in rows),
            supervisor.budget,
            None if at is None else (at, *rows[at][2][1:]),  # type: ignore[index]
        ),
        Disk(tuple(row[4] for row in rows), tuple(row[5] for row in rows), disk.budget),
        tuple(row[0] for row in rows),
        state.faults,
        state.budget,
    )


# ---- exploring ----------------------------------------------------------------------------------------


class Result(msgspec.Struct):
    states: int
    seconds: float
    complete: bool
    violation: str = ""
    stuck: int = 0
    trace: list[str] = msgspec.field(default_factory=list)


def explore(world: World, *, limit: int = 5_000_000, told: Callable[[int], None] | None = None) -> Result:
    """All states of a world, or up to ``limit``; the first violation ends it."""
    gc.disable()  # millions of small objects, none of them in a cycle
    try:
        return _explore(world, limit, told)
    finally:
        gc.enable()


def _explore(world: World, limit: int, told: Callable[[int], None] | None) -> Result:
    began = time.monotonic()
    first = canonical(beginning(world))
    number = {first: 0}
    order = [first]
    parent: list[tuple[int, str]] = [(-1, "")]
    back: list[list[int]] = [[]]

    def trace(j: int) -> list[str]:
        lines = []
        while parent[j][0] >= 0:
            j, what = parent[j]
            lines.append(what)
        return lines[::-1]

    at = 0
    while at < len(order) and len(order) < limit:
        for what, ours, following in steps(world, order[at]):
            following = canonical(following)
            j = number.get(following)
            if j is None:
                j = number[following] = len(order)
                order.append(following)
                parent.append((at, what))
                back.append([])
                wrong = violated(following)
                if wrong:
                    return Result(len(order), time.monotonic() - began, False, wrong, 0, trace(j))
            if ours:
                back[j].append(at)
        at += 1
        if told is not None and at % 5000 == 0:
            told(len(order))
    complete = at >= len(order)
    stuck = _stuck(order, back) if complete else []
    lines = trace(stuck[0]) if stuck else []
    return Result(len(order), time.monotonic() - began, complete, "", len(stuck), lines)


def _stuck(order: list[State], back: list[list[int]]) -> list[int]:
    """States with a living member from which nobody can ever hold the whole budget again."""
    good = {
        j
        for j, state in enumerate(order)
        if state.supervisor is not None
        and any(p.state == "R" and p.live >= state.supervisor.budget for p in state.processes)
    }
    queue = deque(good)
    while queue:
        for j in back[queue.popleft()]:
            if j not in good:
                good.add(j)
                queue.append(j)
    return [j for j, state in enumerate(order) if j not in good and any(p.state in "RS" for p in state.processes)]


SMALL = (
    World("1 member, budget 1, supervisor crash", members=1, budget=1, crashes=1),
    World("1 member, budget 2, cut", members=1, budget=2, cuts=1),
    World("2 members, budget 1, kill", budget=1, kills=1),
    World("2 members, budget 1, cut", budget=1, cuts=1),
    World("2 members, budget 1, fork", budget=1, running=1, forks=1),
)
"""Explored by every run of the tests."""

LARGE = (
    World("2 members, cut and kill", kills=1, cuts=1),
    World("2 members, supervisor crash and kill", crashes=1, kills=1),
    World("2 members, supervisor crash and a stopped member", crashes=1, stops=1),
    World("2 members, fork", running=1, forks=1),
    World("2 members, kill, accept queue", kills=1, queue=True),
)
"""The worlds of the protocol's model; minutes."""


def describe(world: World, result: Result) -> str:
    """One line, and a trace if something is wrong."""
    line = f"{world.name:52s} {result.states:9,d} states {result.seconds:7.1f} s  "
    if result.violation:
        return line + f"VIOLATED: {result.violation}\n" + "\n".join(f"    {text}" for text in result.trace)
    if result.stuck:
        return line + f"permits lost in {result.stuck} states\n" + "\n".join(f"    {text}" for text in result.trace)
    return line + ("safe, nothing lost, exhausted" if result.complete else "safe so far, not exhausted")


def main() -> int:
    chosen = [
        world for world in (*SMALL, *LARGE) if not sys.argv[1:] or any(word in world.name for word in sys.argv[1:])
    ]
    wrong = 0
    for world in chosen:
        result = explore(world, told=lambda n: print(f"\r{n:,} states", end="", file=sys.stderr, flush=True))
        print("\r" + describe(world, result), flush=True)
        wrong += bool(result.violation or result.stuck or not result.complete)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
