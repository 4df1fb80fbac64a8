"""A thousand hosts with 64 workers each, in virtual time: the real script and leases, no faults.

What is looked at is how fast permits reach those who need them, and what that costs the server: commands and bytes, not
time. ``python -m tests.simulation.fleet.crowd`` says it for ten and for a thousand hosts.
"""

from __future__ import annotations

import heapq
import random
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from poolmgr.fleet import script
from poolmgr.fleet.lease import JITTER, QUIET, Lease, Terms
from tests.simulation.fleet.table import Table

WORKERS = 64
LEASE = 10.0
EPOCH = 1_800_000_000_000
RUN = "run1"


class Counted(Table):
    """Counts what the script asks of the server."""

    commands = passes = bytes = 0

    def command(self, name: str, *rest: str) -> Any:
        answer = super().command(name, *rest)
        if name == "HGETALL":
            self.passes += 1
        else:
            self.commands += 1
            got = answer if isinstance(answer, list | tuple) else [answer]
            self.bytes += sum(len(part) for part in (*rest, *got) if isinstance(part, str))
        return answer


class Host:
    """A host's workers: how many connections each needs, and how many each may have."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        rng = crowd.rng
        self.needs = [0] * WORKERS
        self.may = [0] * WORKERS
        self.renewals = 0
        self.lease = Lease(
            Terms(lease=LEASE, host=f"h{number}"), lambda: f"{rng.getrandbits(40):010x}", rng, now=crowd.now
        )

    @property
    def demand(self) -> int:
        return sum(self.needs)

    def share(self) -> None:
        """The ledger: what is too much comes back at once, what is left goes to who needs it, one at a time each."""
        have = sum(self.may)
        for i, (may, needs) in enumerate(zip(self.may, self.needs, strict=True)):
            spare = min(may - needs, have - self.lease.limit)
            if spare > 0:
                self.may[i] -= spare
                have -= spare
        while have > self.lease.limit:
            self.may[self.may.index(max(self.may))] -= 1
            have -= 1
        moved = True
        while moved and have < self.lease.limit:
            moved = False
            for i in range(WORKERS):
                if self.may[i] < self.needs[i] and have < self.lease.limit:
                    self.may[i] += 1
                    have += 1
                    moved = True

    def served(self) -> bool:
        return self.may == self.needs


class Crowd:
    """See the module's docstring."""

    def __init__(
        self, hosts: int, budget: int, slack: int, seed: int = 0, edit: Callable[[str], str] = lambda text: text
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.budget, self.slack = budget, slack
        self.table = Counted(lambda: EPOCH + round(self.now * 1000), edit)
        self.hosts = [Host(self, i) for i in range(hosts)]
        self.renewals = 0
        self.most = 0
        """Connections that were handed out at a time."""
        self._queue = [(host.lease.due(1), i) for i, host in enumerate(self.hosts)]
        heapq.heapify(self._queue)

    def need(self, host: int, connections: int) -> None:
        """That host's workers need so many from now on, together."""
        one = self.hosts[host]
        one.needs = [connections // WORKERS + (i < connections % WORKERS) for i in range(WORKERS)]
        one.share()
        heapq.heappush(self._queue, (max(self.now, one.lease.due(one.demand)), host))

    def run(self, until: float) -> None:
        """All renew as they should."""
        while self._queue[0][0] <= until:
            at, i = heapq.heappop(self._queue)
            host = self.hosts[i]
            self.now = max(self.now, at)
            if at >= host.lease.due(host.demand):
                self._renew(host)
            heapq.heappush(self._queue, (max(self.now + 0.001, host.lease.due(host.demand)), i))
            while len(self._queue) > 8 * len(self.hosts):
                self._queue = [(max(self.now, h.lease.due(h.demand)), i) for i, h in enumerate(self.hosts)]
                heapq.heapify(self._queue)
        self.now = until

    def _renew(self, host: Host) -> None:
        lease = host.lease
        lease.settle(sum(host.may), self.now)
        lease.on_disk(lease.saved())
        request = lease.request(RUN, host.demand, self.budget, self.slack, self.now)
        if request is None:
            return
        answer = script.answer(self.table.call(*request.arguments()))
        self.renewals += 1
        host.renewals += 1
        lease.answered(request.seq, answer, self.now)
        lease.on_disk(lease.saved())
        host.share()
        before = lease.word
        lease.settle(sum(host.may), self.now)
        lease.on_disk(lease.saved())
        assert lease.word <= before
        if isinstance(answer, script.Renewed) and answer.duty == "census":
            survey = script.surveyed(self.table.call(*script.survey(RUN)))
            assert survey is not None
            self.table.call(*script.census(RUN, survey.table, ()))
        handed = self.handed()
        self.most = max(self.most, handed)
        assert handed <= self.budget - self.slack, handed

    def handed(self) -> int:
        return sum(sum(host.may) for host in self.hosts)

    def settled(self, step: float = 0.05, most: float = 60.0) -> float:
        """Seconds until all are served; they must be within ``most``."""
        began = self.now
        while not all(host.served() for host in self.hosts):
            assert self.now - began < most, [h.demand for h in self.hosts if not h.served()][:10]
            self.run(self.now + step)
        return self.now - began


QUIET_INTERVAL = LEASE * QUIET * (1 + JITTER)
"""Seconds within which every host renews, whatever happens."""


class Moved(NamedTuple):
    """How permits came to the hosts that needed them.

    Attributes:
        seconds: until all were served.
        renewals: of a host that had to give some back, at most.
        handed: connections that were handed out at a time.
    """

    seconds: float
    renewals: int
    handed: int


class Cost(NamedTuple):
    """What renewals cost the server while nothing changes.

    Attributes:
        commands, size: of one renewal, and the bytes of these.
        renewals: of a host in a second. passes: over all records, in a second.
    """

    commands: float
    size: float
    renewals: float
    passes: float


def busy(hosts: int, edit: Callable[[str], str] = lambda text: text) -> Crowd:
    """Each host has demand for 4 of its 10 connections, and holds more. A fifth of a connection of each is slack."""
    crowd = Crowd(hosts, 10 * hosts, hosts // 5, edit=edit)
    for i in range(hosts):
        crowd.need(i, 4)
    joined = crowd.settled()
    assert joined < 1.0, f"{hosts} hosts that start at once are served after {joined:.1f} s"
    crowd.run(crowd.now + 2 * QUIET_INTERVAL)
    return crowd


def moved(crowd: Crowd) -> Moved:
    """One host in a hundred needs 400 more. All the others together hold what these need, and use 4 each."""
    hot = max(1, len(crowd.hosts) // 100)
    for host in crowd.hosts:
        host.renewals = 0
    for i in range(hot):
        crowd.need(i, 404)
    seconds = crowd.settled()
    return Moved(seconds, max(host.renewals for host in crowd.hosts[hot:]), crowd.most)


def cost(crowd: Crowd, seconds: float = 10.0) -> Cost:
    """While nothing changes."""
    table = crowd.table
    renewals, commands, size, passes = crowd.renewals, table.commands, table.bytes, table.passes
    crowd.run(crowd.now + seconds)
    count = crowd.renewals - renewals
    return Cost(
        (table.commands - commands) / count,
        (table.bytes - size) / count,
        count / seconds / len(crowd.hosts),
        (table.passes - passes) / seconds,
    )


def main() -> int:
    for hosts in (10, 1000):
        began = time.perf_counter()
        crowd = busy(hosts)
        quiet = cost(crowd)
        line = (
            f"{hosts:5,d} hosts of {WORKERS} workers: a renewal is {quiet.commands:.1f} commands and "
            f"{quiet.size:.0f} bytes, {quiet.renewals:.2f} a second of each host, {quiet.passes:.1f} passes a second"
        )
        if hosts >= 100:
            found = moved(crowd)
            line += (
                f"; {hosts // 100} hosts that need 400 more have them after {found.seconds:.2f} s, "
                f"{found.renewals} renewals of each other host"
            )
        print(f"{line} ({time.perf_counter() - began:.1f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
