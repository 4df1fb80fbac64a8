"""Which worlds are explored."""

from tests.simulation.exhaustive.states import World

SMALL = (
    World("1 member, budget 1, supervisor crash", members=1, budget=1, crashes=1),
    World("1 member, budget 2, cut", members=1, budget=2, cuts=1),
    World("2 members, budget 1, kill", budget=1, kills=1),
    World("2 members, budget 1, cut", budget=1, cuts=1),
    World("2 members, budget 1, fork", budget=1, running=1, forks=1),
    World("2 members, budget 1, supervisor crash and kill", budget=1, crashes=1, kills=1),
    World("2 members, budget 1, kill, accept queue", budget=1, kills=1, queue=True),
    World("1 member, budget 2, supervisor crash and smaller budget", members=1, crashes=1, shrinks=1),
)
"""Explored by every run of the tests."""

LARGE = (
    World("2 members, cut and kill", kills=1, cuts=1),
    World("2 members, supervisor crash and kill", crashes=1, kills=1),
    World("2 members, supervisor crash and a stopped member", crashes=1, stops=1),
    World("2 members, fork", running=1, forks=1),
    World("2 members, kill, accept queue", kills=1, queue=True),
)
"""Budget 2, two members: minutes."""

LARGEST = (
    World("2 members, two supervisor crashes, cut and kill", crashes=2, kills=1, cuts=1),
    World("3 members, supervisor crash and kill", members=3, crashes=1, kills=1),
)
"""Explored when named. They have not been exhausted yet: the protocol's model alone has a million states of each."""
