"""Every rule of the fleet's protocol, switched off: the simulation must notice each one.

A mutant edits the script's text, or replaces a small method around it. ``breaks`` says what its absence leads to.
``python -m tests.simulation.fleet.mutants`` shows for each which seed or scenario finds it. More than 400 lines, as one
table by rule.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import msgspec
from msgspec.structs import replace

from poolmgr.fleet import duty, gate, lease, script
from tests.simulation.fleet import fencer
from tests.simulation.fleet.server import Client, Server
from tests.simulation.fleet.world import Broken, Kind, World

Patch = tuple[Any, str, Any]


class Mutant(msgspec.Struct, frozen=True):
    """A rule switched off: by changes of the script's text, by other methods."""

    name: str
    breaks: str
    edits: tuple[tuple[str, str], ...] = ()
    patches: tuple[Patch, ...] = ()

    @property
    def kind(self) -> Kind | None:
        """The worlds in which it is looked for; None: all that are drawn."""
        return KINDS.get(self.name)

    @property
    def seed(self) -> int:
        """One that finds it."""
        return SEEDS.get(self.name, 0)

    def edit(self, text: str) -> str:
        """The script without the rule."""
        for old, new in self.edits:
            assert text.count(old) == 1, f"{self.name}: {text.count(old)} times in the script: {old}"
            text = text.replace(old, new)
        return text


def _word_before_it_is_obeyed(self: lease.Lease, outstanding: int, now: float) -> None:
    if self.name and self.limit < self.word:
        self.word, self.unsaved = self.limit, True


_request = lease.Lease.request
_init = lease.Lease.__init__
_over = lease.Lease._over
_shut = gate.shut
_judge = duty.judge


def _request_before_it_is_saved(self: lease.Lease, *args: Any) -> Any:
    unsaved, self.unsaved = self.unsaved, False
    try:
        return _request(self, *args)
    finally:
        self.unsaved = unsaved


def _start_with_what_was_saved(self: lease.Lease, *args: Any, **named: Any) -> None:
    named["held"] = 0
    _init(self, *args, **named)


def _obey_any_answer(self: lease.Lease, seq: int, answer: Any, now: float) -> None:
    self._newest = seq
    _answered(self, seq, answer, now)


_answered = lease.Lease.answered


def _join_again_under_the_same_name(self: lease.Lease, *args: Any) -> Any:
    if not self.name and self._abandoned:  # type: ignore[attr-defined]
        make, self._make_name = self._make_name, lambda: self._abandoned  # type: ignore[attr-defined]
        try:
            return _request(self, *args)
        finally:
            self._make_name = make
    return _request(self, *args)


def _failed_and_kept(self: lease.Lease, now: float) -> None:
    self._abandoned = self._joining or getattr(self, "_abandoned", "")  # type: ignore[attr-defined]
    _failed(self, now)


_failed = lease.Lease.failed


def _saved_without_clearing(self: lease.Lease) -> lease.SavedLease:
    return replace(_saved(self), clearing=False)


_saved = lease.Lease.saved


def _open(records: Any, clock: Any, table: str) -> str:
    return ""


def _open_while_there(records: Any, clock: Any, table: str) -> str:
    return _shut(records, (0, 0), table)


def _open_while_it_learns(records: Any, clock: Any, table: str) -> str:
    head, record = records
    if not head:
        return _shut(records, clock, table)
    run, number, _, rest = head.split(maxsplit=3)
    return _shut((f"{run} {number} 0 {rest}", record), clock, table)


def _open_for_any_table(records: Any, clock: Any, table: str) -> str:
    head, _ = records
    return _shut(records, clock, head.split()[1] if head else "")


def _gate_before_the_name(self: Server, client: Client) -> None:
    match client.stage:
        case "air":
            self.accept(client)
        case "sent":
            client.stage = "shut" if self.gate(client) else "named"
        case "named":
            client.lease, client.stage = client.wish, "open"


def _over_with_what_it_had(self: lease.Lease, now: float) -> None:
    word, limit = self.word, self.limit
    _over(self, now)
    self.word, self.limit = word, limit


def _list_first(server: Server, lease: float) -> Iterator[str]:
    fresh = server.fresh()
    clients = server.list()
    yield "list"
    survey = script.surveyed(server.table.call(*script.survey(server.run)))
    yield "survey"
    if survey is None:
        return
    verdict = duty.judge(survey, fresh, clients)
    if verdict.gone:
        server.table.call(*script.proven(server.run, survey.table, sorted(verdict.gone)))
    yield "proven"
    yield from fencer_rounds(server, lease)


fencer_rounds = fencer.rounds


def _all_named(survey: script.Survey, fresh: int, clients: Any) -> duty.Verdict:
    return _judge(survey, -1, clients)  # 0: the number is not known


FITS, NOT_ASKED = "if word > grant and t.used - grant", "if false and t.used - grant"

MUTANTS = (
    Mutant(
        "F1 raised though it does not fit",
        "the grants exceed the budget",
        ((" - t.used\n  if t.learning or room", "\n  if t.learning or room"),),
    ),
    Mutant(
        "F1 marked grants do not count",
        "what is still connected is granted again",
        (
            ("      used = used + tonumber(string.match(text, '^%d+ (%d+)'))\n", ""),
            (
                "        t.marked = t.marked + 1\n        marked",
                "        t.used = t.used - read_lease(text)\n        marked",
            ),
        ),
    ),
    Mutant(
        "F2 freed when the lease ends",
        "a paused host wakes up with its connections",
        (
            (
                "      used = used + grant\n      if now <= ends",
                "      used = used + (now <= ends and grant or 0)\n      if now <= ends",
            ),
        ),
    ),
    Mutant(
        "F2 said before it is obeyed",
        "members still have what others get",
        patches=((lease.Lease, "settle", _word_before_it_is_obeyed),),
    ),
    Mutant(
        "F2 said before it is saved",
        "a successor goes back to the larger word",
        ((FITS, NOT_ASKED),),  # else a successor's larger word is mostly found out
        ((lease.Lease, "request", _request_before_it_is_saved),),
    ),
    Mutant(
        "F2 a successor states what was saved",
        "members hold more than it says",
        patches=((lease.Lease, "__init__", _start_with_what_was_saved),),
    ),
    Mutant(
        "F3 an old request counts",
        "a stalled server executes it later",
        (("if joins or seq <= last then", "if false then"),),
    ),
    Mutant(
        "F3 any answer is obeyed",
        "the word is one that was given back",
        patches=((lease.Lease, "answered", _obey_any_answer),),
    ),
    Mutant(
        "F3 a name joins twice",
        "a name whose connections were proven gone opens its gate again",
        patches=((lease.Lease, "request", _join_again_under_the_same_name), (lease.Lease, "failed", _failed_and_kept)),
    ),
    Mutant(
        "F4 a mark is not final",
        "a late renewal comes between the proof and what it frees",
        (
            (
                "if got[3] then return {'fenced', t.number, now} end -- F4: a mark is final",
                "if got[3] then got[2] = string.gsub(got[3], '^%d+ ', ''); redis.call('HDEL', key, 'x' .. name) end",
            ),
        ),
    ),
    Mutant(
        "F4 marked before its end",
        "the table is lost, and the claim of the marked one looks good",
        (
            (
                "local function is_ripe(ends, short) return now >",
                "local function is_ripe(ends, short) return true or now >",
            ),
        ),
    ),
    Mutant("F5 no gate", "members reconnect after a fence", patches=((gate, "shut", _open),)),
    Mutant(
        "F5 gate before the name",
        "a list does not show who has passed",
        patches=((Server, "advance", _gate_before_the_name),),
    ),
    Mutant(
        "F5 a copy's lease does not end",
        "a fenced host comes back after a failover",
        patches=((gate, "shut", _open_while_there),),
    ),
    Mutant(
        "F5 a limit of another table",
        "a host that comes back has a larger one from elsewhere",
        patches=((gate, "shut", _open_for_any_table),),
    ),
    Mutant(
        "F5 open while the table learns",
        "a claim from before two losses",
        patches=((gate, "shut", _open_while_it_learns),),
    ),
    Mutant(
        "F6 freed when it is marked",
        "its connections are still there",
        (
            (
                "        mark(field, text)\n        t.marked = t.marked + 1\n",
                "        redis.call('HDEL', key, field)\n        t.used = t.used - read_lease(text)\n",
            ),
        ),
    ),
    Mutant("F6 a list from before the mark", "a connection came between", patches=((fencer, "rounds", _list_first),)),
    Mutant(
        "F6 unnamed ones do not count",
        "what the server has accepted counts as gone",
        patches=((duty, "judge", _all_named),),
    ),
    Mutant(
        "F7 comes back with what it had",
        "both names are charged less than is open",
        patches=((lease.Lease, "_over", _over_with_what_it_had),),
    ),
    Mutant(
        "F7 a successor claims an earlier lease's",
        "a host that renews in time is fenced",
        patches=((lease.Lease, "saved", _saved_without_clearing),),
    ),
    Mutant(
        "F8 another process's table counts",
        "its numbers are a replica's, and old",
        (
            ("if not t or t.run ~= run then", "if not t then"),
            ("if t and t.run == run then return t end", "if t then t.run = run; return t end"),
        ),
    ),
    Mutant(
        "F8 requests do not name the table",
        "a delayed renewal is taken for a claim",
        (
            ("    if number ~= t.number then return {'table', t.number, now} end\n    local fits", "    local fits"),
            ("if not joins and number ~= t.number then return {'table', t.number, now} end", ""),
        ),
    ),
    Mutant(
        "F8 a new table raises at once",
        "what is connected is not in it yet",
        (("learning = true, used = 0", "learning = false, used = 0"),),
    ),
    Mutant(
        "F8 the census does not wait for claims",
        "the same, a little later",
        (("    if not got[1] and not got[2] then return {'ok', 0} end\n", ""),),
    ),
    Mutant(
        "F8 a claim after its end",
        "it was fenced in the table that was lost",
        (("not t.learning or now >= ends or not fits", "not t.learning or not fits"),),
    ),
    Mutant(
        "F8 a larger word from another table",
        "the same, by a name that is known",
        ((FITS, NOT_ASKED),),
    ),
    Mutant(
        "F8 a claim that does not fit",
        "two histories of leases meet",
        (("not t.learning or now >= ends or not fits", "not t.learning or now >= ends"),),
    ),
)


CALM = Kind(hosts=2, budget=3, slack=0, steps=400, pauses=0, deaths=0, crashes=0, flushes=0, late=0, slow=0)
CRASHES = replace(CALM, crashes=0.08)
PAUSES = replace(CALM, pauses=0.04, slow=0.2)
LATE = replace(CALM, late=0.3, pauses=0.02)
LOSSES = replace(CALM, flushes=0.02, pauses=0.02)
LATE_LOSSES = replace(LOSSES, late=0.3)
COPIES = replace(CALM, failovers=0.02, pauses=0.02)
KINDS = {
    "F2 said before it is saved": CRASHES,
    "F3 an old request counts": LATE,
    "F3 any answer is obeyed": LATE,
    "F3 a name joins twice": LATE,
    "F4 a mark is not final": LATE,
    "F5 a limit of another table": COPIES,
    "F5 open while the table learns": LATE_LOSSES,
    "F6 freed when it is marked": PAUSES,
    "F6 a list from before the mark": PAUSES,
    "F8 another process's table counts": COPIES,
    "F8 requests do not name the table": LATE_LOSSES,
    "F8 a larger word from another table": COPIES,
}
"""Small worlds with the faults that a rule is for."""

SEEDS: dict[str, int] = {
    "F1 raised though it does not fit": 0,
    "F1 marked grants do not count": 27,
    "F2 freed when the lease ends": 7,
    "F2 said before it is obeyed": 4,
    "F2 said before it is saved": 129,
    "F2 a successor states what was saved": 6,
    "F3 an old request counts": 3,
    "F3 any answer is obeyed": 156,
    "F3 a name joins twice": 101,
    "F4 a mark is not final": 20,
    "F4 marked before its end": 0,
    "F5 no gate": 61,
    "F5 a limit of another table": 7390,
    "F6 freed when it is marked": 27,
    "F6 a list from before the mark": 57,
    "F6 unnamed ones do not count": 106,
    "F7 comes back with what it had": 1,
    "F8 another process's table counts": 32,
    "F8 requests do not name the table": 315,
    "F8 a new table raises at once": 4,
    "F8 the census does not wait for claims": 7,
    "F8 a larger word from another table": 5,
    "F8 a claim that does not fit": 86,
}
"""Which seed of these finds it first. For the others ``exhaustive/scenarios.py`` has a way."""


@contextmanager
def off(mutant: Mutant) -> Iterator[Callable[[str], str]]:
    """The rule is off meanwhile; what is given edits the script."""
    undo = [patch.object(owner, name, new) for owner, name, new in mutant.patches]
    if any(new is _failed_and_kept for _, _, new in mutant.patches):
        lease.Lease._abandoned = ""  # type: ignore[attr-defined]
    for one in undo:
        one.start()
    try:
        yield mutant.edit
    finally:
        for one in undo:
            one.stop()


def hunt(mutant: Mutant, seeds: range) -> tuple[int, str] | None:
    """The first seed that finds it, and what it says."""
    with off(mutant) as edit:
        for seed in seeds:
            try:
                World(seed, mutant.kind, edit).run()
            except (Broken, AssertionError, script.UnreadableError) as error:
                return seed, f"{type(error).__name__}: {error}"
    return None


def followed(mutant: Mutant) -> str:
    """What its scenario finds; empty: there is none."""
    from tests.simulation.fleet.exhaustive import scenarios  # its walk is not needed for a seed

    for scenario in scenarios.SCENARIOS:
        if scenario.rule == mutant.name:
            with off(mutant) as edit:
                return scenarios.follow(scenario, edit).violation
    return ""


def main() -> int:
    """For each mutant, print the first seed that finds it, or what its scenario finds. The argument limits seeds."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    chosen = sys.argv[2:]
    missed = 0
    for mutant in MUTANTS:
        if chosen and not any(word in mutant.name for word in chosen):
            continue
        began = time.perf_counter()
        words = followed(mutant) if mutant.name not in SEEDS else ""
        found = None if words else hunt(mutant, range(count))
        took = time.perf_counter() - began
        missed += not words and found is None
        text = f"scenario: {words}" if words else f"seed {found[0]}: {found[1]}" if found else "NOT FOUND"
        print(f"{mutant.name:45} {took:7.1f} s  {text[:120]}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
