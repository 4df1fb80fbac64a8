"""Ways to states that are too deep for a walk of all: a rule's scenario, told by what has come about.

A walk goes from one of these to the next on a shortest way, over the same steps and code, and from the last one in
every order. With the rule switched off it must find what is wrong there; with all rules on it must not, in as many
states.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from tests.simulation.fleet.exhaustive.explore import Exploration
from tests.simulation.fleet.exhaustive.states import (
    ACCEPTED,
    COPY,
    CRASHES,
    CURRENT,
    FAILOVERS,
    FLUSHES,
    LAGS,
    PASSED,
    PAST,
    SLOW,
    TO_COME,
    Row,
    State,
    World,
)
from tests.simulation.walk import Packed, Result


class Then(NamedTuple):
    """What comes about next, by which faults (places in ``State.faults``), one of each."""

    words: str
    met: Callable[[State], bool]
    faults: tuple[int, ...] = ()


class Scenario(msgspec.Struct, frozen=True):
    """What comes about in a world, one after the other, until something may go wrong without another fault.

    Attributes:
        rule: its name in ``mutants.py``.
        why: what goes wrong without it.
        off: the world without it, if it is a rule of the world.
        then: what comes about.
        limit: states in which it is found.
    """

    rule: str
    why: str
    world: World
    then: tuple[Then, ...]
    off: World | None = None
    limit: int = 2_000


def follow(scenario: Scenario, edit: Callable[[str], str] | None = None) -> Result:
    """Walk it; ``edit``, if the rule is off, changes the script's text.

    Raises:
        AssertionError: something of it cannot come about.
    """
    gc.disable()
    try:
        world = scenario.off or scenario.world if edit is not None else scenario.world
        walk = Exploration(world, edit or (lambda text: text), progress=False)
        states, seconds = 0, 0.0
        trace: list[str] = []
        for then in scenario.then:
            walk.begin(_with(walk, then.faults))
            met = then.met
            way = walk.run(WAY, goal=lambda packed, met=met: met(walk.state(packed)))  # type: ignore[misc]
            assert way.reached, f"{then.words}: not reached in {way.states} states: {way.violation or trace}"
            states, seconds = states + way.states, seconds + way.seconds
            trace += [*way.trace, f"-- {then.words}"]
        walk.begin(_with(walk, ()))
        result = walk.run(scenario.limit)
        return msgspec.structs.replace(
            result, states=result.states + states, seconds=result.seconds + seconds, trace=trace + result.trace
        )
    finally:
        gc.enable()


def _with(walk: Exploration, faults: tuple[int, ...]) -> Packed:
    """The last state, with these faults to come."""
    last = walk.state(walk.order[-1])
    left = tuple(int(fault in faults) for fault in range(len(last.faults)))
    return walk.pack(last.heads, last.fencers, left, last.rows)


WAY = 50_000
"""States that are seen on the way to the next thing, at most."""


# ---- what may come about -------------------------------------------------------------------------------------------


def _raises(state: State) -> bool:
    """There is a table, and it does not learn; nobody has the duty."""
    place = state.heads.places[CURRENT]
    return place is not None and place.head is not None and not place.head.learning and not any(state.fencers)


def _idle(row: Row) -> bool:
    return not row.requests and row.reply is None and not row.lease.newest


def _has(row: Row, word: int, state: State) -> bool:
    """It may hold so many, by the present table, and its lease stands."""
    place, slot = state.heads.places[CURRENT], row.lease.slot
    record = row.records[CURRENT][slot] if slot >= 0 else None
    return (
        record is not None
        and place is not None
        and place.head is not None
        and not record.marked
        and record.grant == row.lease.word == row.lease.limit == word
        and record.end == row.lease.end == TO_COME
        and row.lease.table == place.head.number
        and _idle(row)
    )


def _forgotten(row: Row, end: int) -> bool:
    """It has the permit, and no table knows of that. So the lease ends."""
    slot = row.lease.slot
    return slot >= 0 and row.lease.word == 1 and row.records[CURRENT][slot] is None and row.lease.end == end


def joined(state: State) -> bool:
    return _raises(state) and _any(state, lambda r: _has(r, 1, state)) and _any(state, lambda r: _has(r, 0, state))


def connected(state: State) -> bool:
    return joined(state) and _any(state, lambda r: _has(r, 1, state) and _open(r))


def alone(state: State) -> bool:
    return (
        _raises(state)
        and _any(state, lambda r: _has(r, 1, state))
        and _any(state, lambda r: r.lease.slot < 0 and _idle(r))
    )


def lags(state: State) -> bool:
    return joined(state) and state.heads.places[COPY] is not None


def accepted(state: State) -> bool:
    return joined(state) and _any(state, lambda r: any(c.stage == ACCEPTED for c in r.clients))


def asked(state: State) -> bool:
    """The connection that was on its way is past its gate, with a name or without."""
    return joined(state) and not state.faults[SLOW] and _any(state, _open)


def fenced(state: State) -> bool:
    """What the one had was proven gone; the one has not heard of that."""
    return _raises(state) and _any(state, lambda r: _has(r, 0, state)) and _any(state, lambda r: _forgotten(r, PASSED))


def passed_on(state: State) -> bool:
    """The other has what the one had."""
    return _raises(state) and _any(state, lambda r: _has(r, 1, state)) and _any(state, lambda r: _forgotten(r, PASSED))


def used(state: State) -> bool:
    return passed_on(state) and _any(state, lambda r: _has(r, 1, state) and _open(r))


def taken(state: State) -> bool:
    """The other has the permit, and a connection, in a table which has never heard of the one, whose lease stands."""
    return (
        _raises(state)
        and _any(state, lambda r: _has(r, 1, state) and _open(r))
        and _any(state, lambda r: _forgotten(r, TO_COME) and not r.requests)
    )


def lost(state: State) -> bool:
    place = state.heads.places[CURRENT]
    return place is not None and place.head is None


def heard(state: State) -> bool:
    """All know that there is another table, which has none of their leases."""
    place = state.heads.places[CURRENT]
    return (
        place is not None
        and place.head is not None
        and place.head.learning
        and all(_idle(r) and r.lease.speaks == place.head.number and not any(r.records[CURRENT]) for r in state.rows)
        and _any(state, _open)
    )


def copied(state: State) -> bool:
    """Another process serves, with a copy of the table."""
    place = state.heads.places[CURRENT]
    return place is not None and place.head is not None and place.head.run != place.run


def returned(state: State) -> bool:
    """It has joined again, with nothing, and its members have not obeyed the end of its earlier lease."""
    return _raises(state) and _any(state, lambda r: _has(r, 0, state) and sum(r.stale) > 0 and _saved(r))


def succeeded(state: State) -> bool:
    """The same, and its supervisor is another one."""
    return _any(state, lambda r: r.lease.link > 1 and r.lease.slot >= 0 and sum(r.stale) > 0 and _idle(r))


def _saved(row: Row) -> bool:
    return row.disk is not None and row.disk.slot == row.lease.slot and not row.lease.unsaved


def _any(state: State, such: Callable[[Row], bool]) -> bool:
    return any(map(such, state.rows))


def _open(row: Row) -> bool:
    return any(c.stage >= PAST for c in row.clients)


JOINED = Then("one host has the permit, another has joined", joined)
FENCED = Then("the one is fenced, and has not heard of it", fenced)
PASSED_ON = Then("the other has its permit", passed_on)
LOST = Then("the table is lost", lost, (FLUSHES,))

SCENARIOS = (
    Scenario(
        "F4 marked before its end",
        "a host that renews in time is fenced",
        World(name="calm"),
        (JOINED, Then("it has a connection", connected)),
    ),
    Scenario(
        "F5 gate before the name",
        "a connection that has passed its gate is in no list, and is not suspected for ever",
        World(name="slow connects", slow=1),
        (JOINED, Then("it has a connection that was slow", asked, (SLOW,)), FENCED, PASSED_ON),
        off=World(name="slow connects, the gate first", slow=1, unordered=True),
    ),
    Scenario(
        "F5 a copy's lease does not end",
        "who was fenced, and has not heard of it, opens under a copy of the table from before",
        World(name="failover", failovers=1, lags=1),
        (
            JOINED,
            Then("the replica falls behind", lags, (LAGS,)),
            FENCED,
            PASSED_ON,
            Then("failover", copied, (FAILOVERS,)),
        ),
    ),
    Scenario(
        "F5 open while the table learns",
        "who missed a table claims its lease in the next one, and opens before the census",
        World(name="two losses", flushes=2),
        (
            Then("one host has the permit", alone),
            LOST,
            Then("another host has the permit, and a connection", taken),
            LOST,
        ),
        limit=8_000,
    ),
    Scenario(
        "F6 unnamed ones do not count",
        "what the server had accepted before counts as gone",
        World(name="slow connects", slow=1),
        (JOINED, Then("a connection is accepted, and has no name yet", accepted, (SLOW,))),
    ),
    Scenario(
        "F7 a successor claims an earlier lease's",
        "what was never granted to the present lease is stated as its own: it is fenced, and has not ended",
        World(name="a supervisor crash", crashes=1),
        (
            JOINED,
            FENCED,
            Then("it has joined again, and its members have not heard of that", returned),
            Then("its supervisor crashes", succeeded, (CRASHES,)),
        ),
        limit=20_000,
    ),
    Scenario(
        "F8 a claim after its end",
        "a host that renewed in time is fenced for one that did not",
        World(name="a loss", flushes=1),
        (
            JOINED,
            FENCED,
            PASSED_ON,
            Then("the other has a connection", used),
            LOST,
            Then("both have heard of it", heard),
        ),
    ),
)
