"""States as small tuples, the same for states that differ in nothing that matters.

Members that are alike are not told apart; sequences and links of each are renumbered. A row is one
member with all that the ledger and the disk have of it; rows are numbered as they are first seen, so
that a state of millions is a handful of integers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from tests.simulation.exhaustive.states import Disk, Link, Process, Record, State, Supervisor

_replace = msgspec.structs.replace

Packed = tuple[Any, ...]


class Row(NamedTuple):
    process: Process
    record: Record | None
    pending: tuple[int, int, int] | None
    """(link, sequence, limit): on disk, and not sent to this member yet."""
    quarantine: int
    charge_on_disk: int | None
    quarantine_on_disk: int


class Packer:
    """Numbers rows. One for each exploration."""

    def __init__(self) -> None:
        self._known: dict[Row, int] = {}
        self._number: dict[Row, int] = {}
        self._rows: list[Row] = []

    def pack(self, state: State) -> Packed:
        supervisor, disk = state.supervisor, state.disk
        known = self._known
        numbers = []
        for i, process in enumerate(state.processes):
            if supervisor is None:
                row = Row(process, None, None, 0, disk.charges[i], disk.quarantine[i])
            else:
                pending = supervisor.pending
                row = Row(
                    process,
                    supervisor.records[i],
                    pending[1:] if pending is not None and pending[0] == i else None,
                    supervisor.quarantine[i],
                    disk.charges[i],
                    disk.quarantine[i],
                )
            number = known.get(row)
            if number is None:
                number = known[row] = self._numbered(canonical(row))
            numbers.append(number)
        numbers.sort()
        budget = -1 if supervisor is None else supervisor.budget
        return (*numbers, budget, disk.budget, state.budget, *state.faults)

    def _numbered(self, row: Row) -> int:
        number = self._number.get(row)
        if number is None:
            number = self._number[row] = len(self._rows)
            self._rows.append(row)
        return number

    def unpack(self, packed: Packed, members: int) -> State:
        rows = [self._rows[number] for number in packed[:members]]
        running, written, budget, *faults = packed[members:]
        pending = next(((i, *row.pending) for i, row in enumerate(rows) if row.pending is not None), None)
        supervisor = Supervisor(
            tuple(row.record for row in rows), tuple(row.quarantine for row in rows), running, pending
        )
        return State(
            None if running < 0 else supervisor,
            Disk(tuple(row.charge_on_disk for row in rows), tuple(row.quarantine_on_disk for row in rows), written),
            tuple(row.process for row in rows),
            tuple(faults),
            budget,
        )


def _without_effect(link: Link, record: Record) -> tuple[Any, ...]:
    if link.number != record.link:
        return link.up
    oldest = record.told[0][0]
    return tuple((k, 0) if k == "ack" and v <= oldest else (k, v) for k, v in link.up)


def canonical(row: Row) -> Row:
    """Links nobody can use any more left out; sequences and links renumbered, their order kept."""
    p, record, pending = row.process, row.record, row.pending
    newest = max((link.number for link in p.links), default=0)
    links = [
        link
        for link in p.links
        if (link.member_open and (link.supervisor_open or link.down or link.number == newest))
        or (link.supervisor_open and (link.up or not link.member_open))
    ]
    # What was acknowledged matters only as "all of it" or "not all of it"; and an acknowledgement of what is
    # superseded, or of the oldest limit that is not, changes nothing, whichever it is.
    acked = p.acked if p.acked == p.seq else 0
    if record is not None:
        links = [_replace(x, up=_without_effect(x, record)) for x in links]
    seqs = {0, p.seq, *(s for x in links for s, _ in x.down), *(v for x in links for k, v in x.up if k == "ack")}
    numbers = {0, *(x.number for x in links)}
    if record is not None:
        seqs |= {record.seq, *(s for s, _ in record.told)}
        numbers.add(record.link)
    if pending is not None:
        numbers.add(pending[0])
        seqs.add(pending[1])
    seq_of = {v: n for n, v in enumerate(sorted(seqs))}
    number_of = {v: n for n, v in enumerate(sorted(numbers))}
    return Row(
        _replace(
            p,
            seq=seq_of[p.seq],
            acked=seq_of[acked],
            links=tuple(
                Link(
                    number_of[x.number],
                    x.member_open,
                    x.supervisor_open,
                    tuple((k, seq_of[v] if k == "ack" else v) for k, v in x.up),
                    tuple((seq_of[s], limit) for s, limit in x.down),
                )
                for x in sorted(links, key=lambda x: x.number)
            ),
        ),
        None
        if record is None
        else Record(
            tuple((seq_of[s], limit) for s, limit in record.told),
            seq_of[record.seq],
            number_of[record.link],
            record.linked,
            record.unanswered,
        ),
        None if pending is None else (number_of[pending[0]], seq_of[pending[1]], pending[2]),
        row.quarantine,
        row.charge_on_disk,
        row.quarantine_on_disk,
    )
