"""A world of witnesses: a server that is up or down, members of whom one may have no way to it, and a supervisor that
may have none either. The real :class:`poolmgr.supervisor.upstreams.verdict.Verdict`.

While the server is up no outage may begin, whoever cannot reach it; while it is down one must, soon; and it must be
over once somebody has had a reply. That of all members only one has no way, and that somebody who has one uses it now
and then, is taken for granted; members that are asked to connect may take their time.
"""

from __future__ import annotations

import random
from typing import Any

from poolmgr.supervisor.upstreams.verdict import Failure, Verdict

KNOWN = 6.0
"""Seconds within which it is known that a server is down."""


BEGINS = 105.0
"""When connects begin to fail: by then it is known that others have replies of what the supervisor does not see."""


STEPS = 400


class Violation(Exception):
    """Something that must hold did not."""


class World:
    """One seed's."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.now = 100.0
        self.verdict = Verdict()
        self.members = [f"m{i}" for i in range(rng.randint(2, 5))]
        self.astray = rng.choice(["", "m0"])
        """Who has no way."""
        self.way, self.files = rng.random() < 0.5, rng.random() < 0.8
        """Whether the supervisor has one; whether it has what is needed for TLS."""
        self.rest = not self.files and rng.random() < 0.5
        """Nobody uses the server, but to find out whether it is there."""
        self.lag = rng.choice((0.0, 1.3))
        self.up, self.since = True, 100.0
        self.late: list[tuple[float, Any]] = []

    def run(self) -> None:
        """The whole.

        Raises:
            Violation: something that must hold did not.
        """
        for step in range(STEPS):
            self.now += 0.1 * self.rng.random()
            for at, call in [entry for entry in self.late if entry[0] <= self.now]:
                self.late.remove((at, call))
                call()
            if self.rng.random() < 0.01:
                self.up, self.since = not self.up, self.now
            self._act()
            if step % 4 == 0 and self.up:  # somebody always uses it
                self._uses(self.members[-1])
            self._judge()

    def _act(self) -> None:
        rng, kind = self.rng, self.rng.random()
        tag = rng.choice(self.members)
        if kind < 0.3:
            if not self.rest or tag == self.astray or not self.up:
                self._connects(tag)
        elif kind < 0.6:
            self._look()
        elif kind < 0.65 and len(self.members) > 3:
            gone = self.members.pop(1)
            self.verdict.gone(gone)
        else:
            self._uses(tag)

    def _uses(self, tag: str) -> None:
        """By a connection that it has."""
        if self.up and tag != self.astray and not self.rest:
            self._tells(self.now)

    def _tells(self, replied: float) -> None:
        """Reports take their time."""
        self.late.append((self.now + self.lag, lambda: self.verdict.heard(replied)))

    def _look(self) -> None:
        if self.up and self.way and self.files:
            self.verdict.seen(self.now)
        else:
            self.verdict.not_seen(self.now, ours=not self.files)

    def _connects(self, tag: str) -> None:
        """What comes of it is told some time later: a connect that fails takes long."""
        began, works = self.now, self.up and tag != self.astray
        if works:
            self._tells(self.now)
        elif self.now > BEGINS:
            self.late.append((self.now + self.rng.choice((0.01, 1.0, 2.5)), lambda: self._failed(tag, began)))

    def _failed(self, tag: str, began: float) -> None:
        if tag in self.members:
            self.verdict.failed(tag, Failure(began, self.now, "tcp://a:1", "refused"))

    def _judge(self) -> None:
        verdict = self.verdict
        if verdict.down is not None:
            if verdict.over:
                verdict.end()
            elif self.up and self.now > self.since + KNOWN:
                raise Violation("it is up again, and nobody says so")
            elif self.rng.random() < 0.2:  # one at a time tries
                self._connects(self.rng.choice(self.members))
            return
        failure, borne_out = verdict.accused(self.members, self.now)
        if failure is not None and borne_out:
            verdict.begin(failure, self.now)
            if self.up and self.now > self.since + 3.0:
                raise Violation(f"it is up, and {failure} counts as an outage")
        elif failure is not None:
            others = [tag for tag in self.members if tag not in verdict.witnesses]
            if others:  # it may be stopped, and take its time
                tag = self.rng.choice(others)
                self.late.append((self.now + self.rng.choice((0.0, 2.0)), lambda: self._connects(tag)))
        if not self.up and verdict.down is None and self.now > max(self.since, BEGINS) + KNOWN:
            raise Violation("it is down, and nobody says so")


def failure(seed: int) -> str:
    """How that seed's world fails; empty if it does not."""
    try:
        World(seed).run()
    except Violation as violation:
        return str(violation)
    return ""
