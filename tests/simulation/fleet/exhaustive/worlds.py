"""Which worlds are explored."""

from tests.simulation.fleet.exhaustive.states import World

SMALL = (
    World(name="2 hosts, budget 1"),
    World(name="2 hosts, budget 1, a death", deaths=1),
    World(name="2 hosts, budget 1, FLUSHALL", flushes=1),
    World(name="2 hosts, budget 1, a slow connect", slow=1),
    World(name="2 hosts, budget 1, a late request", late=1),
    World(name="2 hosts, budget 1, a lost message", lost=1),
    World(name="2 hosts, budget 1, one name each, a supervisor crash", names=1, crashes=1),
    World(name="2 hosts, budget 1, one name each, a death, started again", names=1, deaths=1, reborn=1),
    World(name="2 hosts, budget 1, a death, started again", deaths=1, reborn=1),
    World(name="2 hosts, budget 1, slow connects", slow=2),
)
"""Without a fault, and with one or two. All are walked to their end."""

LARGE = (
    World(name="2 hosts, budget 1, a supervisor crash", crashes=1),
    World(name="2 hosts, budget 1, failover", failovers=1, lags=1),
    World(name="2 hosts, budget 1, a lost message, a late request", lost=1, late=1),
    World(name="2 hosts, budget 1, FLUSHALL twice, a late request", flushes=2, late=1),
    World(name="2 hosts, budget 1, an old primary lives on", failovers=1, lags=1, old=True, back=1),
    World(name="2 hosts, budget 1, two fencers, a death", fencers=2, deaths=1),
    World(name="2 hosts, budget 2", budget=2, demands=(0, 2)),
    World(name="2 hosts, budget 2, a late request", budget=2, demands=(0, 2), late=1),
    World(name="2 hosts, budget 2, an old pass", budget=2, demands=(0, 2), ticks=True),
    World(name="3 hosts, budget 1", hosts=3, names=1),
)
"""With further faults, hosts or permits. All are walked breadth first, as far as a number of states."""
