"""Steps that concern every host: the duty, and what happens to servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from poolmgr.fleet import duty, script
from tests.simulation.fleet.exhaustive import real
from tests.simulation.fleet.exhaustive.states import (
    AIR,
    BACK,
    COPY,
    CURRENT,
    FAILOVERS,
    FLUSHES,
    GONE,
    LAGS,
    MARKED,
    NAMED,
    OLD,
    PAST,
    SHOWN,
    TO_COME,
    UNNAMED,
    Client,
    Fencer,
    Heads,
    Place,
    Record,
    Row,
)
from tests.simulation.fleet.exhaustive.steps import NO_FAULT, Steps, put

Whole = tuple[str, int, Heads, tuple[Fencer | None, ...], tuple[Row, ...]]


class Together:
    """Steps that concern every host: the duty, and what happens to servers."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.world = steps.world

    def all(self, heads: Heads, fencers: tuple[Fencer | None, ...], rows: tuple[Row, ...]) -> Iterator[Whole]:
        yield from self.rounds(heads, fencers, rows)
        yield from self.servers(heads, fencers, rows)

    # ---- the duty --------------------------------------------------------------------------------

    def rounds(self, heads: Heads, fencers: tuple[Fencer | None, ...], rows: tuple[Row, ...]) -> Iterator[Whole]:
        for f, fencer in enumerate(fencers):
            if fencer is None:
                if f and fencers[f - 1] is None:
                    continue  # rounds are alike
                for place in (CURRENT, OLD):
                    yield from self._survey(heads, fencers, rows, f, place)
                continue
            there = heads.places[fencer.place]
            if there is None or there.run == 0:
                yield from self._ended(heads, fencers, rows, f, "its server has ended")
                continue
            if fencer.stage == 1:
                marked = [self._before(row, f, fencer.place) for row in rows]
                after = put(fencers, f, fencer._replace(stage=2))
                yield f"fencer {f} has a fresh connection", NO_FAULT, heads, after, tuple(marked)
            elif fencer.stage == 2:
                yield from self._kill(heads, fencers, rows, f, fencer)
                yield self._list(heads, fencers, rows, f, fencer)
            else:
                yield from self._prove(heads, fencers, rows, f, fencer, there)

    def _records(self, rows: tuple[Row, ...], place: int) -> real.Records:
        return tuple(row.records[place] for row in rows)

    def _after(self, rows: tuple[Row, ...], place: int, records: real.Records) -> list[Row]:
        return [
            row if row.records[place] == mine else row._replace(records=put(row.records, place, mine))
            for row, mine in zip(rows, records, strict=True)
        ]

    def _ask(
        self, heads: Heads, rows: tuple[Row, ...], place: int, *question: str | int
    ) -> tuple[Heads, list[Row], Any]:
        there = heads.places[place]
        assert there is not None
        head, records, reply = self.steps.tables.call(there.head, self._records(rows, place), heads.tables, *question)
        if head is not there.head:
            heads = heads._replace(places=put(heads.places, place, there._replace(head=head)))
        return heads, self._after(rows, place, records), reply

    def _survey(
        self, heads: Heads, fencers: tuple[Fencer | None, ...], rows: tuple[Row, ...], f: int, place: int
    ) -> Iterator[Whole]:
        there = heads.places[place]
        if there is None or there.head is None:
            return
        after, new, raw = self._ask(heads, rows, place, *script.survey(f"run{there.run}"))
        survey = script.surveyed(raw)
        if survey is None:
            return
        unknown = any(
            c.place == place and c.stage in (NAMED, PAST) and row.records[place][c.slot] is None
            for row in rows
            for c in row.clients
        )
        if not (survey.marked or survey.learning or unknown):
            return
        for i, row in enumerate(new):
            bits = tuple(int(real.name(i, k) in survey.marked) for k in range(self.world.names))
            new[i] = row._replace(fences=put(row.fences, f, bits))
        made = Fencer(1, place, int(survey.table[1:]), survey.learning)
        yield f"fencer {f} surveys, marked {len(survey.marked)}", NO_FAULT, after, put(fencers, f, made), tuple(new)

    def _ended(
        self, heads: Heads, fencers: tuple[Fencer | None, ...], rows: tuple[Row, ...], f: int, what: str
    ) -> Iterator[Whole]:
        yield (
            f"fencer {f} is done: {what}",
            NO_FAULT,
            heads,
            put(fencers, f, None),
            tuple(_cleared(row, f) for row in rows),
        )

    def _before(self, row: Row, f: int, place: int) -> Row:
        clients = tuple(
            c._replace(before=c.before | 1 << f) if c.place == place and c.stage in UNNAMED and not c.aged else c
            for c in row.clients
        )
        return row._replace(clients=clients)

    def _seen(self, rows: tuple[Row, ...], f: int, place: int) -> list[duty.Seen]:
        """CLIENT LIST. The fresh connection is number 2."""
        return [
            duty.Seen(
                1 if c.before & 1 << f else 3,
                "" if c.stage in UNNAMED else real.name(i, c.slot),
                c.stage in UNNAMED and not c.aged,
            )
            for i, row in enumerate(rows)
            for c in row.clients
            if c.place == place and c.stage != AIR
        ]

    def _kill(
        self, heads: Heads, fencers: tuple[Fencer | None, ...], rows: tuple[Row, ...], f: int, fencer: Fencer
    ) -> Iterator[Whole]:
        there = heads.places[fencer.place]
        assert there is not None
        shown = sorted({seen.lease for seen in self._seen(rows, f, fencer.place) if seen.lease})
        if not shown:
            return
        run = f"run{there.run}"
        variants = [there.head]
        if there.head is not None and there.head.recent and self._nothing_to_claim(heads, rows, fencer.place):
            variants.append(there.head._replace(recent=False))
        for head in variants:
            at = heads._replace(places=put(heads.places, fencer.place, there._replace(head=head)))
            after, new, raw = self._ask(
                at, rows, fencer.place, *script.condemned(run, real.number(fencer.table), 10_000, shown)
            )
            names = script.named(raw)
            if not names:
                continue
            for i, row in enumerate(new):
                new[i] = row._replace(
                    clients=tuple(
                        c
                        for c in row.clients
                        if not (c.place == fencer.place and c.stage in (NAMED, PAST) and real.name(i, c.slot) in names)
                    )
                )
            yield f"fencer {f} kills {len(names)} names", NO_FAULT, after, fencers, tuple(new)

    def _nothing_to_claim(self, heads: Heads, rows: tuple[Row, ...], place: int) -> bool:
        """All leases have ended that are not in this table."""
        return all(
            row.lease.slot < 0 or row.lease.end != TO_COME or row.records[place][row.lease.slot] is not None
            for row in rows
        )

    def _list(
        self, heads: Heads, fencers: tuple[Fencer | None, ...], rows: tuple[Row, ...], f: int, fencer: Fencer
    ) -> Whole:
        names = frozenset(
            real.name(i, k) for i, row in enumerate(rows) for k, bit in enumerate(row.fences[f]) if bit == MARKED
        )
        survey = script.Survey(real.number(fencer.table), real.NOW, fencer.learning, real.NOW, frozenset(), names)
        verdict = duty.judge(survey, 2, self._seen(rows, f, fencer.place))
        counts = fencer.learning and verdict.complete
        new = []
        for i, row in enumerate(rows):
            bits = tuple(
                GONE if (name := real.name(i, k)) in verdict.gone else SHOWN if counts and name in verdict.shown else 0
                for k in range(self.world.names)
            )
            new.append(row._replace(fences=put(row.fences, f, bits)))
        what = f"fencer {f} lists: {len(verdict.gone)} gone"
        if not verdict.gone and not counts:
            return what + ", is done", NO_FAULT, heads, put(fencers, f, None), tuple(_cleared(row, f) for row in new)
        return what, NO_FAULT, heads, put(fencers, f, fencer._replace(stage=3, complete=verdict.complete)), tuple(new)

    def _prove(
        self,
        heads: Heads,
        fencers: tuple[Fencer | None, ...],
        rows: tuple[Row, ...],
        f: int,
        fencer: Fencer,
        there: Place,
    ) -> Iterator[Whole]:
        def those(bit: int) -> list[str]:
            return [real.name(i, k) for i, row in enumerate(rows) for k, b in enumerate(row.fences[f]) if b == bit]

        run, table = f"run{there.run}", real.number(fencer.table)
        gone = those(GONE)
        if gone:
            after, new, _ = self._ask(heads, rows, fencer.place, *script.proven(run, table, gone))
            new = [
                row._replace(fences=put(row.fences, f, tuple(0 if b == GONE else b for b in row.fences[f])))
                for row in new
            ]
            if fencer.learning and fencer.complete:
                yield f"fencer {f} frees", NO_FAULT, after, fencers, tuple(new)
            else:
                yield from self._ended(after, fencers, tuple(new), f, "freed")
        else:
            after, new, _ = self._ask(heads, rows, fencer.place, *script.census(run, table, those(SHOWN)))
            yield from self._ended(after, fencers, tuple(new), f, "census")

    # ---- servers -----------------------------------------------------------------------------------

    def servers(self, heads: Heads, fencers: tuple[Fencer | None, ...], rows: tuple[Row, ...]) -> Iterator[Whole]:
        current, old, copy = heads.places
        assert current is not None
        names = self.world.names
        nothing: tuple[Record | None, ...] = (None,) * names
        if self.world.flushes and current.head is not None:
            new = tuple(row._replace(records=put(row.records, CURRENT, nothing)) for row in rows)
            yield (
                "FLUSHALL",
                FLUSHES,
                heads._replace(places=put(heads.places, CURRENT, current._replace(head=None))),
                (fencers),
                new,
            )
        if self.world.lags and copy is None and current.head is not None:
            new = tuple(row._replace(records=put(row.records, COPY, row.records[CURRENT])) for row in rows)
            yield (
                "the replica falls behind",
                LAGS,
                heads._replace(places=(current, old, Place(0, current.head))),
                fencers,
                new,
            )
        if self.world.failovers:
            yield from self._failover(heads, fencers, rows)
        if self.world.back and old is not None:
            yield (
                "names lead back to the earlier server",
                BACK,
                heads._replace(places=(old, current, copy)),
                tuple(f and f._replace(place=1 - f.place) for f in fencers),
                tuple(self._swapped(row) for row in rows),
            )

    def _swapped(self, row: Row) -> Row:
        return row._replace(
            records=(row.records[1], row.records[0], row.records[2]),
            clients=tuple(c._replace(place=1 - c.place) for c in row.clients),
            requests=tuple(r._replace(place=1 - r.place) for r in row.requests),
            place=1 - row.place if row.place >= 0 else row.place,
        )

    def _failover(self, heads: Heads, fencers: tuple[Fencer | None, ...], rows: tuple[Row, ...]) -> Iterator[Whole]:
        current, _, copy = heads.places
        assert current is not None
        nothing: tuple[Record | None, ...] = (None,) * self.world.names
        source = COPY if copy is not None else CURRENT
        taken = copy.head if copy is not None else current.head
        for what, head in {"a copy of the table": taken, "no table": None}.items():
            if what == "a copy of the table" and head is None:
                continue
            for lives in (False, True) if self.world.old else (False,):
                new = []
                for row in rows:
                    records = (
                        row.records[source] if head is not None else nothing,
                        row.records[CURRENT] if lives else nothing,
                        nothing,
                    )
                    gone = row._replace(
                        records=records,
                        clients=tuple(c._replace(place=OLD) for c in row.clients if lives and c.place == CURRENT),
                        requests=tuple(r._replace(place=OLD) for r in row.requests if lives and r.place == CURRENT),
                        place=OLD if lives else -1,
                    )
                    new.append(gone)
                at = Heads(
                    (Place(heads.runs + 1, head), current if lives else None, None), heads.tables, heads.runs + 1
                )
                ended = tuple(f and (f._replace(place=OLD) if lives and f.place == CURRENT else None) for f in fencers)
                for i, f in enumerate(ended):
                    if f is None:
                        new = [_cleared(row, i) for row in new]
                words = f"failover with {what}{', the old primary lives on' if lives else ''}"
                yield words, FAILOVERS, at, ended, tuple(new)


def _suspect(client: Client) -> bool:
    """It has no name yet, and may get one of the fleet's."""
    return client.stage in UNNAMED and not client.aged


def _cleared(row: Row, f: int) -> Row:
    return row._replace(
        fences=put(row.fences, f, (0,) * len(row.stale)),
        clients=tuple(c._replace(before=c.before & ~(1 << f)) for c in row.clients),
    )
