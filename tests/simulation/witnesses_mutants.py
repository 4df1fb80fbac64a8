"""The rules of an outage switched off: the world of :mod:`tests.simulation.witnesses` must notice each one."""

from __future__ import annotations

from collections.abc import Collection

from poolmgr.supervisor.upstreams.verdict import Failure, Verdict
from tests.simulation.mutants import Mutant

_accused, _not_seen = Verdict.accused, Verdict.not_seen


def _one_is_enough(self: Verdict, others: Collection[str], now: float) -> tuple[Failure | None, bool]:
    failure, _ = _accused(self, others, now)
    return failure, failure is not None


def _ours_is_the_servers(self: Verdict, began: float, *, ours: bool = False) -> None:
    _not_seen(self, began)


def _looks_do_not_count(self: Verdict, began: float, *, ours: bool = False) -> None:
    pass


def _all_failures(self: Verdict) -> dict[str, Failure]:
    return self._failures


MUTANTS = (
    Mutant("one failed connect is enough", "it may be one job's own", ((Verdict, "accused", _one_is_enough),)),
    Mutant(
        "replies of others do not make it blind",
        "its own reach counts as the server's health",
        ((Verdict, "blind", False),),
    ),
    Mutant(
        "what it cannot use itself counts",
        "its own files count as the server's health",
        ((Verdict, "not_seen", _ours_is_the_servers),),
    ),
    Mutant(
        "replies contradict nothing",
        "what failed before counts",
        ((Verdict, "witnesses", property(_all_failures)),),
    ),
    Mutant("a reply ends no outage", "it is down for ever", ((Verdict, "over", False),)),
    Mutant("replies are not heard", "nothing contradicts", ((Verdict, "heard", lambda self, at: None),)),
    Mutant("looks do not count", "it is down, and nobody says so", ((Verdict, "not_seen", _looks_do_not_count),)),
)
