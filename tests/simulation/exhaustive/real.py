"""The real ledger and the real member core: made from plain values, one method called, read back.

What comes of a call depends only on what the object was made from, so each answer is kept: of
millions of states, most differ in something else. :func:`forget` before the code is changed.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

from poolmgr import wire
from poolmgr.budget import recovery
from poolmgr.budget.accounts import Account, Identity, Quarantine, Saved, SavedMember, SavedQuarantine, SavedServer
from poolmgr.budget.effects import Turn
from poolmgr.budget.ledger import Ledger, Member
from poolmgr.member.core.process import Attachment, MemberCore
from poolmgr.supervisor.upstreams import proof
from poolmgr.supervisor.upstreams.proof import Row
from tests import invariant
from tests.simulation.exhaustive.states import Disk, Process, Record, Supervisor

SERVER = "r"
ENDPOINT = wire.Endpoint(SERVER)

_RNG = random.Random(0)
_TAGS = tuple(f"pm1.0000000a.00000b.{i + 1}.{i + 1}.0000aa" for i in range(9))
_CACHES: list[Callable[[], None]] = []

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _kept(function: Callable[_P, _R]) -> Callable[_P, _R]:
    cached = functools.cache(function)
    _CACHES.append(cached.cache_clear)
    return cached  # type: ignore[return-value]


def forget() -> None:
    """Answers of before do not count: the code may be another."""
    for clear in _CACHES:
        clear()


# ---- a member ---------------------------------------------------------------------------------------


class Holding(NamedTuple):
    """What a member's core is made from."""

    limit: int
    seq: int
    acked: int
    live: int
    closing: int
    link: int
    linked: bool


class Numbers(NamedTuple):
    """What is read back of it."""

    limit: int
    seq: int
    acked: int


def holding(p: Process) -> Holding:
    link, linked = 0, False
    for each in p.links:
        link = max(link, each.number)
        linked = linked or each.member_open
    return Holding(p.limit, p.seq, p.acked, p.live + p.queued, p.closing + p.ended, link, linked)


def _core(h: Holding) -> tuple[MemberCore, Attachment]:
    core = MemberCore(_TAGS[0], rng=_RNG)
    attachment = Attachment(ENDPOINT)
    core.attach(attachment)
    core.directory.resolve(ENDPOINT.key, SERVER)
    account = attachment.dispatcher.account
    account.limit, account.seq, account.acked, account.high = h.limit, h.seq, h.acked, h.limit
    account.live = dict.fromkeys(range(1, h.live + 1), attachment)
    account.closing = {100 + n: attachment for n in range(h.closing)}
    core.link, core.directory.linked = h.link, h.linked
    return core, attachment


def _numbers(core: MemberCore) -> Numbers:
    account = next(dispatcher.account for dispatcher in core.dispatchers() if dispatcher.account.server == SERVER)
    return Numbers(account.limit, account.seq, account.acked)


@_kept
def opens(h: Holding) -> bool:
    core, attachment = _core(h)
    return core.take(attachment, 0.0) is not None


@_kept
def closes(h: Holding) -> Numbers:
    core, _ = _core(h)
    assert core.closing(1)
    return _numbers(core)


@_kept
def reads_end_of_file(h: Holding) -> Numbers:
    core, _ = _core(h)
    core.gone(100)
    return _numbers(core)


@_kept
def bears(h: Holding) -> tuple[int, int]:
    """Limit and sequence of a child that it forks."""
    core, _ = _core(h)
    dispatchers = [dispatcher for dispatcher in core.forked(_TAGS[1]).dispatchers() if dispatcher.account.server]
    return (dispatchers[0].account.limit, dispatchers[0].account.seq) if dispatchers else (0, 0)


@_kept
def hears(h: Holding, link: int, seq: int, limit: int) -> Numbers:
    core, _ = _core(h)
    core.received(link, wire.Limit(SERVER, seq, limit), 0.0)
    return _numbers(core)


@_kept
def loses_link(h: Holding) -> Numbers:
    core, _ = _core(h)
    core.unlinked()
    return _numbers(core)


@_kept
def acknowledges(h: Holding) -> tuple[int, Numbers]:
    """The sequence that a report made now acknowledges for the first time, or 0."""
    core, attachment = _core(h)
    account = attachment.dispatcher.account
    seq = account.ackable()
    if seq <= account.acked:
        return 0, _numbers(core)
    account.acknowledged(seq)
    return seq, _numbers(core)


@_kept
def registers(h: Holding, known_link: int) -> tuple[int, int, Numbers]:
    """Number of the new link, what is stated on it."""
    core, _ = _core(h)
    core.link = max(core.link, known_link)
    hello = core.register(0.0)
    return hello.link, sum(hold.stated for hold in hello.holds), _numbers(core)


# ---- the supervisor ---------------------------------------------------------------------------------


def _ledger(supervisor: Supervisor) -> Ledger:
    ledger = Ledger(rng=_RNG)
    server = ledger.server(SERVER)
    server.budget, server.held = supervisor.budget, False
    for i, record in enumerate(supervisor.records):
        if record is not None:
            tag = _TAGS[i]
            ledger.members[tag] = Member(Identity(tag, i + 1), record.link, record.linked)
            server.accounts[tag] = Account(
                told=list(record.told), seq=record.seq, unanswered=record.unanswered, linked=record.linked
            )
            server.charged += record.told[0][1]
    for i, charge in enumerate(supervisor.quarantine):
        if charge:
            server.quarantine[_TAGS[i]] = Quarantine(charge, 0.0)
    return ledger


def _supervisor(ledger: Ledger, n: int, pending: tuple[int, int, int, int] | None = None) -> Supervisor:
    invariant.check(ledger)
    server = ledger.servers[SERVER]
    records: list[Record | None] = []
    for tag in _TAGS[:n]:
        account = server.accounts.get(tag)
        if account is None:
            records.append(None)
        else:
            link = ledger.members[tag].link
            records.append(Record(tuple(account.told), account.seq, link, account.linked, account.unanswered))
    quarantine = tuple(server.quarantine[tag].charge if tag in server.quarantine else 0 for tag in _TAGS[:n])
    return Supervisor(tuple(records), quarantine, server.budget, pending)


def _written(ledger: Ledger, n: int) -> Disk:
    saved = recovery.save(ledger, 0.0)
    charges = {m.identity.tag: m.charges[SERVER] for m in saved.members}
    (server,) = saved.servers
    quarantine = {entry.tag: entry.charge for entry in server.quarantine}
    return Disk(
        tuple(charges.get(tag) for tag in _TAGS[:n]), tuple(quarantine.get(tag, 0) for tag in _TAGS[:n]), server.budget
    )


@_kept
def restored(disk: Disk, dead: tuple[bool, ...]) -> Supervisor:
    """The successor that reads this snapshot while these processes are dead."""
    saved = Saved(
        owner=Identity("", 0),
        servers=(
            SavedServer(
                SERVER, (), "run", disk.budget, None, 0,
                tuple(
                    SavedQuarantine(_TAGS[i], charge, 0.0, registered=True)
                    for i, charge in enumerate(disk.quarantine)
                    if charge
                ),
            ),
        ),
        members=tuple(
            SavedMember(Identity(_TAGS[i], i + 1), {SERVER: charge})
            for i, charge in enumerate(disk.charges)
            if charge is not None
        ),
    )  # fmt: skip
    ledger = recovery.restored(saved, 0.0, alive=lambda who: not dead[who.pid - 1])
    ledger.hold_raises(SERVER, False)
    return _supervisor(ledger, len(dead))


@_kept
def budget_set(supervisor: Supervisor, budget: int) -> tuple[Supervisor, Disk]:
    ledger, n = _ledger(supervisor), len(supervisor.records)
    ledger.set_budget(SERVER, budget, 0.0)
    return _supervisor(ledger, n), _written(ledger, n)


@_kept
def exit_seen(supervisor: Supervisor, i: int) -> Supervisor:
    ledger = _ledger(supervisor)
    ledger.exited(_TAGS[i], 0.0)
    return _supervisor(ledger, len(supervisor.records))


@_kept
def proven(supervisor: Supervisor, i: int) -> Supervisor:
    ledger = _ledger(supervisor)
    ledger.proven(SERVER, _TAGS[i], 0.0)
    return _supervisor(ledger, len(supervisor.records))


@_kept
def acknowledgement_heard(supervisor: Supervisor, i: int, link: int, seq: int) -> Supervisor:
    ledger = _ledger(supervisor)
    ledger.report(_TAGS[i], link, wire.Report(SERVER, seq), 0.0)
    return _supervisor(ledger, len(supervisor.records))


@_kept
def registration_heard(supervisor: Supervisor, i: int, link: int, stated: int, gone: bool) -> tuple[Supervisor, bool]:
    """``gone``: the process was seen to end before. Whether it was obeyed."""
    ledger = _ledger(supervisor)
    if gone:
        ledger.forget(_TAGS[i])
    obeyed = ledger.register(Identity(_TAGS[i], i + 1), link, {SERVER: stated}, 0.0)
    if obeyed:
        ledger.attach(_TAGS[i], SERVER, 0.0)
    return _supervisor(ledger, len(supervisor.records)), bool(obeyed)


@_kept
def link_ended(supervisor: Supervisor, i: int, link: int) -> Supervisor:
    ledger = _ledger(supervisor)
    ledger.unlink(_TAGS[i], link, 0.0)
    return _supervisor(ledger, len(supervisor.records))


@_kept
def tells(supervisor: Supervisor, i: int, kind: str, limit: int) -> tuple[Supervisor, Disk | None] | None:
    """The supervisor with a limit to be sent, and what it wrote before; None if the rules forbid it."""
    ledger, turn, n = _ledger(supervisor), Turn(), len(supervisor.records)
    server, tag = ledger.servers[SERVER], _TAGS[i]
    if kind == "raise":
        if not ledger._raise(server, tag, limit, 0.0, turn):
            return None
    elif kind == "lower":
        if not ledger._lower(server, tag, limit, 0.0, turn):
            return None
    else:
        ledger._answer(server, tag, server.accounts[tag], 0.0, turn)
    message = turn.tells[0].message
    assert isinstance(message, wire.Limit)
    told = _supervisor(ledger, n, (i, turn.tells[0].link, message.seq, message.limit))
    return told, _written(ledger, n) if turn.persist else None


@_kept
def list_shows_none(named: tuple[int, ...], unnamed: tuple[int, ...], i: int) -> bool:
    """The verdict on a list with so many connections of each member, and so many that have no name yet."""
    rows: list[Row] = []
    for tag, known, unknown in zip(_TAGS, named, unnamed, strict=False):
        rows += [Row(len(rows) + k + 1, "h:1", f"{tag}-{k + 1}", 0, "ping") for k in range(known)]
        rows += [Row(len(rows) + k + 1, "h:1", "", 0) for k in range(unknown)]
    return _TAGS[i] in proof.judge(rows, {_TAGS[i]}, fresh=1000, host="h", handshake=7.0).gone
