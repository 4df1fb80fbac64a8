"""Everything that may happen next in a state: what the world does is said here, what our code does is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from tests.simulation.exhaustive import real
from tests.simulation.exhaustive.states import (
    CRASH,
    CUT,
    FORK,
    KILL,
    SHRINK,
    STOP,
    Link,
    Process,
    Record,
    State,
    Step,
    Supervisor,
    World,
    count,
)

OUTSTANDING = 2
"""Limits told and not acknowledged, and messages under way on a link in each direction, at most."""

_replace = msgspec.structs.replace


def _read(process: Process, numbers: real.Numbers, **changes: Any) -> Process:
    limit, seq, acked = numbers
    return _replace(process, limit=limit, seq=seq, acked=acked, **changes)


def steps(world: World, state: State) -> Iterator[Step]:
    """Everything that may happen next."""
    for i, process in enumerate(state.processes):
        yield from _server_steps(state, i, process)
        yield from _process_steps(world, state, i, process)
    if state.supervisor is None:
        successor = real.restored(state.disk, tuple(p.state == "D" for p in state.processes))
        yield "a supervisor starts", True, _replace(state, supervisor=successor)
        return
    yield from _supervisor_steps(state, state.supervisor)


def _with(state: State, i: int, process: Process, **more: Any) -> State:
    return _replace(state, processes=(*state.processes[:i], process, *state.processes[i + 1 :]), **more)


def _fault(state: State, kind: int) -> tuple[int, ...]:
    return tuple(left - (k == kind) for k, left in enumerate(state.faults))


def _server_steps(state: State, i: int, p: Process) -> Iterator[Step]:
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
    held = real.holding(p)
    waiting = sum(q.ended + q.queued + q.queued_dead for q in state.processes)
    if count(state) + waiting <= state.budget and real.opens(held):
        opened = _replace(p, queued=p.queued + 1) if world.queue else _replace(p, live=p.live + 1)
        yield f"m{i} opens one", True, _with(state, i, opened)
    if p.live > p.unnamed:
        closed = _read(p, real.closes(held), live=p.live - 1, closing=p.closing + 1)
        yield f"m{i} closes one", True, _with(state, i, closed)
    if p.ended:
        yield (
            f"m{i} reads an end-of-file",
            True,
            _with(state, i, _read(p, real.reads_end_of_file(held), ended=p.ended - 1)),
        )
    if state.faults[FORK]:
        for j, absent in enumerate(state.processes):
            if absent.state == "A":
                limit, seq = real.bears(held)
                born = Process("R", limit=limit, seq=seq)
                yield f"m{i} forks m{j}", False, _with(state, j, born, faults=_fault(state, FORK))
                break
    yield from _link_steps(state, i, p, held)


def _link_steps(state: State, i: int, p: Process, held: real.Holding) -> Iterator[Step]:
    newest = max((link.number for link in p.links if link.member_open), default=0)
    for k, link in enumerate(p.links):

        def put(process: Process, changed: Link | None, k: int = k) -> State:
            middle = () if changed is None else (changed,)
            return _with(state, i, _replace(process, links=p.links[:k] + middle + p.links[k + 1 :]))

        if not link.member_open:
            continue
        if link.down:
            (seq, limit), rest = link.down[0], link.down[1:]
            heard = _read(p, real.hears(held, link.number, seq, limit))
            yield f"m{i} hears limit {limit}, seq {seq}", True, put(heard, _replace(link, down=rest))
        elif not link.supervisor_open:
            yield f"m{i} reads the end of its link", True, put(_read(p, real.loses_link(held)), None)
        if link.number != newest:
            continue
        acked, numbers = real.acknowledges(held)
        if acked and len(link.up) < OUTSTANDING:
            sent = _replace(link, up=(*link.up, ("ack", acked))) if link.supervisor_open else link
            yield f"m{i} acknowledges seq {acked}", True, put(_read(p, numbers), sent)
        if state.faults[CUT]:
            cut = put(_read(p, real.loses_link(held)), _replace(link, member_open=False, down=()))
            yield f"m{i} drops its link", False, _replace(cut, faults=_fault(state, CUT))
            cut = put(p, _replace(link, supervisor_open=False, up=()))
            yield f"the supervisor drops the link of m{i}", False, _replace(cut, faults=_fault(state, CUT))
    if state.supervisor is not None and not any(link.member_open for link in p.links) and len(p.links) < 3:
        known = state.supervisor.records[i]
        number, stated, numbers = real.registers(held, known.link if known else 0)
        registered = _read(p, numbers, links=(*p.links, Link(number, up=(("hello", stated),))))
        yield f"m{i} registers on link {number}, states {stated}", True, _with(state, i, registered)


def _supervisor_steps(state: State, supervisor: Supervisor) -> Iterator[Step]:
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
        shrunk, disk = real.budget_set(supervisor, supervisor.budget - 1)
        changed = _replace(state, supervisor=shrunk, disk=disk, faults=_fault(state, SHRINK))
        yield f"the budget becomes {supervisor.budget - 1}", False, changed
    for i, p in enumerate(state.processes):
        yield from _hearing_steps(state, supervisor, i, p)
        record = supervisor.records[i]
        if p.state == "D" and record is not None:
            yield f"the end of m{i} is seen", True, _replace(state, supervisor=real.exit_seen(supervisor, i))
        if supervisor.quarantine[i] and p.state == "D" and _is_gone(state, i):
            yield f"the list shows none of m{i}", True, _replace(state, supervisor=real.proven(supervisor, i))
        if p.left > p.unnamed_left and supervisor.quarantine[i]:
            yield f"one of dead m{i} is killed by number", True, _with(state, i, _replace(p, left=p.left - 1))
        if record is not None and record.linked and p.state != "A":
            yield from _telling_steps(state, supervisor, i, record)


def _is_gone(state: State, i: int) -> bool:
    """The verdict of a list made now, after a fresh connection was answered."""
    if any(p.queued_dead for p in state.processes) or any(p.queued for p in state.processes):
        return False  # the fresh connection is behind them in the queue
    named = tuple(p.live - p.unnamed + p.closing + p.left - p.unnamed_left for p in state.processes)
    return real.list_shows_none(named, tuple(p.unnamed + p.unnamed_left for p in state.processes), i)


def _hearing_steps(state: State, supervisor: Supervisor, i: int, p: Process) -> Iterator[Step]:
    for k, link in enumerate(p.links):
        if not link.supervisor_open:
            continue
        if link.up:
            (kind, value), rest = link.up[0], link.up[1:]
            links = list(p.links)
            links[k] = _replace(link, up=rest)
            if kind == "ack":
                after = real.acknowledgement_heard(supervisor, i, link.number, value)
                what = f"the supervisor hears m{i} acknowledge seq {value} on link {link.number}"
            else:
                gone = p.state == "D" and supervisor.records[i] is None
                after, obeyed = real.registration_heard(supervisor, i, link.number, value, gone)
                what = f"the supervisor hears m{i} register on link {link.number}, stating {value}"
                if obeyed:
                    links = [
                        _replace(other, supervisor_open=False, up=()) if other.number < link.number else other
                        for other in links
                    ]
                else:
                    links[k] = _replace(link, supervisor_open=False, up=())
            yield what, True, _with(state, i, _replace(p, links=tuple(links)), supervisor=after)
        elif not link.member_open:
            left = _replace(p, links=p.links[:k] + p.links[k + 1 :])
            what = f"the supervisor reads the end of link {link.number} of m{i}"
            yield what, True, _with(state, i, left, supervisor=real.link_ended(supervisor, i, link.number))


def _telling_steps(state: State, supervisor: Supervisor, i: int, record: Record) -> Iterator[Step]:
    link = next((x for x in state.processes[i].links if x.number == record.link and x.supervisor_open), None)
    if link is None or len(record.told) > OUTSTANDING or len(link.down) >= OUTSTANDING:
        return
    choices: list[tuple[str, int]] = [("answer", record.told[-1][1])] if record.unanswered else []
    choices += [("raise" if limit > record.told[-1][1] else "lower", limit) for limit in range(supervisor.budget + 1)]
    for kind, limit in choices:
        told = real.tells(supervisor, i, kind, limit)
        if told is None:
            continue
        changed, disk = told
        what = f"the supervisor {kind}s m{i} to {limit}" + (", on disk" if disk is not None else "")
        yield what, True, _replace(state, supervisor=changed, disk=disk or state.disk)
