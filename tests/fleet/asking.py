"""What a host asks the fleet's script."""

from __future__ import annotations

import random
from typing import Any

from poolmgr.fleet import script

NAMES = [f"{n:010x}" for n in range(1, 6)]


def renewal(name: str, seq: int, **changes: Any) -> script.Renewal:
    said = {
        "run": "run1",
        "table": "",
        "word": 0,
        "demand": 3,
        "floor": 1,
        "budget": 12,
        "slack": 2,
        "lease": 10_000,
        "until": 0,
        "able": True,
        "host": "a",
    }
    return script.Renewal(name=name, seq=seq, **{**said, **changes})


def question(rng: random.Random, seq: int, number: str) -> tuple[str | int, ...]:
    name, run = rng.choice(NAMES), rng.choice(("run1",) * 40 + ("run2",))
    some = rng.sample(NAMES, rng.randrange(4))
    match rng.randrange(12):
        case 0:
            return script.survey(run)
        case 1:
            return script.condemned(run, number, 10_000, some)
        case 2:
            return script.proven(run, number, some)
        case 3:
            return script.census(run, number, some)
        case 4:
            return script.audited(run, number, rng.randrange(99))
        case 5:
            return script.leave(run, number, name)
        case 6:
            return ("budget", run, rng.choice(("-", "9")))
        case 7:
            return ("fence", run, name)
    joins = rng.random() < 0.3
    return renewal(
        name,
        seq,
        run=run,
        table="" if joins else number or "?",
        word=0 if joins else rng.randrange(4),
        demand=rng.randrange(9),
        budget=rng.choice((12, 12, 10)),
        until=rng.choice((0, 1_900_000_000_000)),
        able=rng.random() < 0.7,
        unproven=rng.choice((0, 0, 3000)),
    ).arguments()
