"""What two runs of redis-py's tests say together. Pure: no test is run here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"

Outcomes = Mapping[str, str]
"""A test's name and ``passed``, ``failed`` or ``skipped``."""


@dataclasses.dataclass
class Verdict:
    """Names of tests (and patterns), sorted. All but ``explained`` and ``known`` fail the run."""

    worse: list[str]
    """Fail with our pools and not with redis-py's, and nothing explains it."""
    unlisted: list[str]
    """Fail with redis-py's pools, and are not on the list of those that do."""
    mended: list[str]
    """On that list, and do not fail any more: to be taken off."""
    stale: list[str]
    """Patterns of explanations that match no failing test any more: to be taken off."""
    missing: list[str]
    """Run with one kind of pool only."""
    explained: dict[str, str]
    """Fail with our pools, and why they must."""
    known: list[str]
    """Fail with redis-py's pools as well, as listed."""

    @property
    def good(self) -> bool:
        return not (self.worse or self.unlisted or self.mended or self.stale or self.missing)


def judge(
    theirs: Outcomes,
    ours: Outcomes,
    *,
    known: Mapping[str, str] | None,
    explained: Mapping[str, str],
    whole: bool = True,
) -> Verdict:
    """Compare the two runs.

    Args:
        theirs: with redis-py's pools.
        ours: with ours.
        known: tests that fail with redis-py's pools on this server; None: there is no list for it, so
            nothing that fails with them is held against the run.
        explained: regular expression for a test's name: why it cannot pass with our pools.
        whole: all files were run. Otherwise nothing can be said of what did not run.
    """
    their_failures = {name for name, outcome in theirs.items() if outcome == FAILED}
    our_failures = {name for name, outcome in ours.items() if outcome == FAILED}
    reasons = {
        name: why
        for name in our_failures - their_failures
        if (why := next((text for pattern, text in explained.items() if re.search(pattern, name)), ""))
    }
    stale = [pattern for pattern in explained if not any(re.search(pattern, name) for name in our_failures)]
    listed = set(known or ())
    return Verdict(
        worse=sorted(our_failures - their_failures - set(reasons)),
        unlisted=[] if known is None else sorted(their_failures - listed),
        mended=sorted(name for name in listed - their_failures if whole or name in theirs),
        stale=sorted(stale) if whole else [],
        missing=sorted(set(theirs) ^ set(ours)),
        explained=dict(sorted(reasons.items())),
        known=sorted(their_failures & listed),
    )


def node_of(name: str, files: tuple[str, ...]) -> str:
    """pytest's argument for a test from its name in a JUnit report.

    Raises:
        ValueError: it is in none of the files.
    """
    place, _, test = name.partition("::")
    for file in files:
        module = "tests." + file.removesuffix(".py").replace("/", ".")
        if place == module or place.startswith(module + "."):
            classes = place[len(module) + 1 :].split(".") if place != module else []
            return "::".join((f"tests/{file}", *classes, test))
    raise ValueError(f"{name} is in none of the files that are run")
