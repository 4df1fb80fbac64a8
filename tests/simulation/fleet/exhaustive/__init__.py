"""The fleet's smallest worlds in every order of every step, over the real code.

Breadth first, so that the first violation found is a shortest trace. A state is a plain value (:mod:`states`). For a
step the real lease, gate, duty or script is called with objects made of it (:mod:`real`). A step reads so little of the
state that the script runs a few thousand times for millions of states. :mod:`steps` has what one host does and its
server for it, :mod:`together` what one host does for all and what happens to servers.

Two things are shown of a world that is exhausted: no server ever has more connections past their gates than the budget,
and from every state, without another fault, a host can come to hold all of it (no permit is ever lost).

:mod:`explore` walks state by state. :mod:`layers` walks layer by layer over :mod:`arrays`, as the larger worlds need.
Of a state nothing is kept that no rule reads: :mod:`alike` asks the real code whether that is so.
``make simulate-fleet-small`` walks the smallest worlds to their end, ``make simulate-fleet`` all of them as far as a
number of states.
"""

from tests.simulation.fleet.exhaustive.explore import describe, explore
from tests.simulation.fleet.exhaustive.states import World
from tests.simulation.fleet.exhaustive.worlds import LARGE, SMALL
from tests.simulation.walk import Result

__all__ = ["LARGE", "SMALL", "Result", "World", "describe", "explore"]
