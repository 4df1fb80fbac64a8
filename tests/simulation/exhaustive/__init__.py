"""The smallest worlds, explored completely: every order of every step, over the real code.

Breadth first, so that the first violation found is a shortest trace. A state is a plain value
(:mod:`states`); for each step the real objects (:class:`poolmgr.budget.ledger.Ledger`,
:class:`poolmgr.member.core.process.MemberCore` and its account) are made from it, one method is called, and the new
state is read from them (:mod:`real`). The policy is left open: anybody may be raised or lowered to
anything at any time, if the rules allow (:mod:`steps`).

Two things are shown of each world: the server never counts more than the budget, and from every
state, by steps of ours and of the server alone, one running member can still come to hold everything
(no permit is ever lost). Members that are alike are not told apart, and sequences and links are
renumbered (:mod:`packing`).

``python -m tests.simulation.exhaustive`` explores the larger worlds too.
"""

from tests.simulation.exhaustive.explore import describe, explore
from tests.simulation.exhaustive.states import World
from tests.simulation.exhaustive.worlds import LARGE, LARGEST, SMALL
from tests.simulation.walk import Result

__all__ = ["LARGE", "LARGEST", "SMALL", "Result", "World", "describe", "explore"]
