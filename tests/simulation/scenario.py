"""What happens in one run, drawn from a seed: who works how, and which faults come when.

A scenario is a plain value, so that a failing one can be shortened by leaving faults out.
"""

from __future__ import annotations

import random

import msgspec

FAULTS = {
    "kill": 6,
    "kill connecting": 2,
    "start": 4,
    "stop": 3,
    "fork": 2,
    "leave": 3,
    "drop link": 4,
    "double link": 2,
    "supervisor drops link": 3,
    "kill supervisor": 6,
    "stop supervisor": 1,
    "disk full": 1,
    "budget": 3,
    "half-open": 2,
    "client kill": 1,
    "server restarts": 1,
    "reload": 1,
}
"""Kinds of faults and how often they come, relative to each other."""

THEMES = {
    "mixed": (),
    "links": ("drop link", "double link"),
    "deaths": ("kill connecting", "start"),
    "restarts": ("kill supervisor", "kill"),
    "lost": ("kill supervisor", "stop"),
}
"""What a scenario is about: these faults come more often. ``lost``: supervisors may find no snapshot."""


LOSS = "loss"
"""A kind of its own, in scenarios about lost snapshots only."""

STRANGERS = "strangers"
"""Others connect under names like ours. A kind of its own, in one scenario of ten."""


LIVES = ("exec", "close all", "return", "brief")
"""Kinds of their own: what processes do with their lives. One scenario in eight has them."""


CROWD = 16
"""Members for each permit at most, where there are many. A few members may have one permit for 20."""


class Fault(msgspec.Struct, frozen=True):
    """``a``, ``b`` and ``c`` choose among what there is at that time; what they mean depends on ``kind``."""

    at: float
    kind: str
    a: int = 0
    b: int = 0
    c: float = 0.0


class Worker(msgspec.Struct, frozen=True):
    """A process at the start, or one that a fault starts. Seconds throughout."""

    threads: int
    service: float
    think: float
    on: float = 1.0
    off: float = 0.0
    phase: float = 0.0
    ceiling: int = 1000
    pools: int = 1
    """To each server, each with its own threads."""
    lifo: bool = False
    patience: float | None = None
    """Seconds that callers wait; None for ever."""
    kept: int = 0
    """How many of the threads keep a connection for long: subscribers, blocking commands."""
    keep: float = 1.0
    """For how many seconds, about."""


class Scenario(msgspec.Struct, frozen=True):
    seed: int
    budgets: tuple[int, ...]
    """One for each server."""
    workers: tuple[Worker, ...]
    faults: tuple[Fault, ...]
    duration: float
    """Seconds in which faults come."""
    slow: float
    """How often a delay is a long one."""
    slowness: float
    """How much longer."""
    repeats: float = 0.0
    """How often a message comes twice."""
    accept: float = 0.0003
    """Mean seconds until the server accepts, and until it learns the name."""
    notice: float = 0.0003
    """Mean seconds until the server notices an end."""
    wild: bool = False
    """While faults come, limits are raised and lowered at random instead of by need: the rules must hold
    whatever the policy says."""
    lost_snapshot: bool = False
    """Supervisors may find no snapshot."""
    attentive: bool = False
    """Callers look whether the link is cut before they open anything. Where they do not, and a snapshot may be lost, a
    process that was stopped first reads that its link has ended: that it could open something before is a known gap.
    So is that it connects with a permit that it had taken just before it was stopped: where a snapshot may be lost,
    none is stopped at that moment."""


def draw(seed: int) -> Scenario:
    """The scenario of a seed. Most are small and full of faults; some are large."""
    rng = random.Random(seed)
    kind = rng.random()
    if kind < 0.9:
        members, duration = rng.randint(2, 5), rng.uniform(0.1, 0.5)
    elif kind < 0.99:
        members, duration = rng.randint(6, 20), rng.uniform(0.1, 0.3)
    else:
        members, duration = rng.randint(60, 250), rng.uniform(0.05, 0.1)
    servers = 2 if rng.random() < 0.1 and members < 20 else 1
    budgets = tuple(
        rng.choice((rng.randint(1, 4), rng.randint(2, 2 * members), rng.randint(members, 5 * members)))
        for _ in range(servers)
    )
    if members > 20:  # a queue of a hundred members for one permit takes as long as a hundred small worlds
        budgets = tuple(max(budget, members // CROWD) for budget in budgets)
    theme = rng.choices(tuple(THEMES), (45, 15, 15, 15, 10))[0]
    lost_snapshot = theme == "lost"
    if lost_snapshot and members < 20:
        duration *= 4  # some are stopped for longer than the others are waited for
    faults: list[Fault] = []
    if rng.random() < 0.95:
        kinds = [kind for kind in FAULTS if not (lost_snapshot and kind in ("budget", "stop supervisor"))]
        weights = [
            (10 * FAULTS[kind] if kind in THEMES[theme] else FAULTS[kind] * rng.choice((0, 1, 1, 3))) + 0.01
            for kind in kinds
        ]
        for _ in range(rng.randint(1, 14 if theme == "mixed" else 25)):
            fault = Fault(
                at=round(rng.uniform(0.0, 0.999 * duration), 5),
                kind=rng.choices(kinds, weights)[0],
                a=rng.randrange(1 << 16),
                b=rng.choice((rng.randrange(4), rng.randrange(1 << 16))),
                c=round(rng.choice((rng.uniform(0.0, 0.005), rng.uniform(0.0, 1.5 if lost_snapshot else 0.3))), 5),
            )
            if faults and theme != "mixed" and rng.random() < 0.4:  # soon after another one, and often to the same
                at = round(min(0.999 * duration, faults[-1].at + rng.uniform(0.0, 0.01)), 5)
                fault = msgspec.structs.replace(fault, at=at, a=rng.choice((faults[-1].a, fault.a)))
            faults.append(fault)
    scenario = Scenario(
        seed=seed,
        budgets=budgets,
        workers=tuple(worker(rng, members) for _ in range(members)),
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        duration=duration,
        slow=rng.choice((0.0, 0.02, 0.1, 0.3)) if theme != "links" else 0.3,
        slowness=rng.choice((5.0, 30.0, 200.0)),
        repeats=rng.choice((0.0, 0.0, 0.05)),
        accept=rng.choice((0.0003, 0.0003, 0.003, 0.02)) if members < 20 else 0.0003,
        notice=rng.choice((0.0003, 0.0003, 0.003, 0.03)) if members < 20 else 0.0003,
        # Many members whose limits change all the time do nothing else; where a snapshot may be lost, for long.
        wild=members < (6 if lost_snapshot else 20) and rng.random() < (0.6 if theme == "links" else 0.2),
        lost_snapshot=lost_snapshot,
    )
    if lost_snapshot and members < 20:
        scenario = _with_losses(scenario)
    elif seed % 8 == 5:
        scenario = _with_lives(scenario)
    return _with_strangers(scenario) if seed % 10 == 7 and members < 20 else scenario


def _with_lives(scenario: Scenario) -> Scenario:
    """Processes become other programs, close all their descriptors, say goodbye and come back, or live for a moment."""
    rng = random.Random(-1_000_001 - scenario.seed)
    lives = [
        Fault(
            at=round(rng.uniform(0.0, 0.999 * scenario.duration), 5),
            kind=rng.choice(LIVES),
            a=rng.randrange(1 << 16),
            b=rng.randrange(1 << 16),
            c=round(rng.uniform(0.0, 0.02), 5),
        )
        for _ in range(rng.randint(2, 12))
    ]
    return msgspec.structs.replace(
        scenario, faults=tuple(sorted([*scenario.faults, *lives], key=lambda fault: fault.at))
    )


def _with_strangers(scenario: Scenario) -> Scenario:
    """From before the first supervisor's first look, or later: then some process dies soon after."""
    rng = random.Random(-2 - scenario.seed)
    visits = [
        Fault(
            at=round(rng.choice((0.0, 1.0)) * rng.uniform(0.0, 0.9 * scenario.duration), 5),
            kind=STRANGERS,
            a=rng.randrange(1 << 16),
            b=rng.randrange(1 << 16),
            c=rng.random(),
        )
        for _ in range(rng.randint(1, 3))
    ]
    deaths = [
        Fault(at=min(visit.at + 0.02, 0.99 * scenario.duration), kind="kill", a=visit.a)
        for visit in visits
        if rng.random() < 0.7
    ]
    faults = sorted([*scenario.faults, *visits, *deaths], key=lambda fault: fault.at)
    return msgspec.structs.replace(scenario, faults=tuple(faults))


def _with_losses(scenario: Scenario) -> Scenario:
    """All work in bursts, and want more than there is: so now and then somebody has what it has not opened, and later
    others want it. And the snapshot is lost when that matters."""
    rng = random.Random(-1 - scenario.seed)
    workers = list(scenario.workers)
    for i in range(len(workers)):
        if rng.random() < 0.8:
            on, off = rng.uniform(0.02, 0.3), rng.uniform(0.05, 0.3)
            workers[i] = Worker(
                rng.randint(2, 8), rng.choice((0.003, 0.01)), 0.001, on=on, off=off, phase=rng.uniform(0, on + off)
            )
    losses = [
        Fault(
            at=round(rng.choice((0.02, 0.5)) * rng.random(), 5),
            kind=LOSS,
            a=rng.randrange(1 << 16),
            b=rng.randrange(1 << 16),
            c=rng.random(),
        )
        for _ in range(rng.randint(1, 2))
    ]
    return msgspec.structs.replace(
        scenario,
        workers=tuple(workers),
        faults=tuple(sorted([*scenario.faults, *losses], key=lambda fault: fault.at)),
        duration=max(scenario.duration, 1.8),
        accept=rng.choice((0.0003, 0.003, 0.02)),
        attentive=rng.random() < 0.4,
    )


def worker(rng: random.Random, members: int) -> Worker:
    """One process's load, and its pools."""
    return msgspec.structs.replace(
        _load(rng, members),
        pools=2 if members < 20 and rng.random() < 0.15 else 1,
        lifo=rng.random() < 0.2,
        patience=rng.uniform(0.01, 0.5) if rng.random() < 0.15 else None,
        kept=rng.randint(1, 2) if rng.random() < 0.08 else 0,
        keep=rng.uniform(0.1, 0.5),
    )


def _load(rng: random.Random, members: int) -> Worker:
    """Idle, steady, hot or in bursts."""
    pace = 1.0 if members < 20 else 5.0
    service = rng.choice((0.001, 0.003, 0.01)) * pace
    kind = rng.random()
    if kind < 0.2:
        return Worker(1, service, 0.2 * pace)
    if kind < 0.6:
        return Worker(rng.randint(1, 4), service, service * rng.choice((0.2, 1, 4)))
    if kind < 0.8:
        return Worker(rng.randint(2, 8), service, 0.0005 * pace, ceiling=rng.choice((3, 1000)))
    period = rng.choice((0.02, 0.05, 0.2))
    return Worker(rng.randint(1, 6), service, service / 2, on=period, off=period, phase=rng.uniform(0, 2 * period))
