"""One run of one scenario: what exists, which faults come, and what must hold after every step.

Checked after every step:

* each server counts at most what is allowed: the budget; while a shrunk budget is overdrawn, what
  was charged when it shrank, never more than at any time since;
* no process has more open than the ledger charges it (the invariant, first half);
* what the ledger charges, quarantines and holds itself is within the budget, or has not grown (second half);
* :meth:`poolmgr.budget.ledger.Ledger.check`.

Checked at the end, when faults have ceased:

* whoever waits is served within bounded time, while all work;
* when nobody works: no quarantine, nothing lost, Σ limits within the budget, nobody waits;
* from a budget of 4 on nothing was looked at over the budget, however many have died;
* one hot process then gets the whole budget but what the supervisor keeps: no permit is lost;
* when all have gone, the supervisor finds nothing charged and exits.

Some 400 lines: what exists and what must hold of it are read together.
"""

from __future__ import annotations

import random
from collections.abc import Set
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

from poolmgr.budget import sharing
from poolmgr.budget.accounts import Identity, Saved, Server as Known
from tests import invariant
from tests.simulation import wild
from tests.simulation.clock import Clock
from tests.simulation.faults import Faults
from tests.simulation.load import Load
from tests.simulation.process import Process
from tests.simulation.scenario import Scenario, Worker
from tests.simulation.server import Server
from tests.simulation.supervisor import Supervisor

EVERYONE = 12
"""Members up to which every one of them is checked after every step, not only those it touched."""

KEEPALIVE = 0.5
"""Seconds until servers let go of half-open connections that nobody may kill."""

ALWAYS_KEPT = 4
"""Budget from which on a supervisor of this simulation keeps something to look with."""

CALM = 8.0
"""Seconds within which everything that a fault broke must be whole again (S5's bounded wait is 5)."""


class Violation(Exception):
    """Something that must hold did not."""


def _outstanding(known: Known, strange: Set[str]) -> int:
    """Everything that rule S1 sums, counted here, not by the code under test. Without what a census has found of
    strangers: that is there, whatever the budget."""
    charges = 0
    for account in known.accounts.values():
        told = account.told
        charges += told[0][1] if len(told) == 1 else max([limit for _, limit in told])
    return (
        charges
        + sum(entry.charge for tag, entry in known.quarantine.items() if entry.registered and tag not in strange)
        + known.own
    )


class World:
    """See the module's docstring.

    Args:
        tracing: keep what happens, to be printed.
    """

    def __init__(self, scenario: Scenario, *, tracing: bool = False) -> None:
        self.scenario = scenario
        self.tracing = tracing
        self.trace: list[tuple[float, str]] = []
        self.rng = random.Random(scenario.seed + 1)
        self.clock = Clock()
        self.servers = {f"r{i}": Server(self, f"r{i}", budget) for i, budget in enumerate(scenario.budgets)}
        self.processes: dict[str, Process] = {}
        """Those that live."""
        self.touched: dict[str, Process] = {}
        self.memberless: set[str] = set()
        """Tags of living programs that are members under others by now."""
        self.other_programs: set[str] = set()
        """Tags of processes that have become other programs."""
        self.supervisor: Supervisor | None = None
        self.disk: Saved | None = None
        self.clean = True
        """There is no snapshot because nothing was charged."""
        self.whole = True
        """The ledger knows everything; not, from the loss of a snapshot until all have registered."""
        self.disk_full = False
        self.half_open = 0
        self.lag = 0.0
        """Added to every delay of what a member says on a link that is made now."""
        self.working = True
        self.mute = False
        self.unproven = 0
        self.turns = 0
        self.ledger_changed = False
        self.strange_tags: set[str] = set()
        """Tags under which somebody else connects."""
        self.passers_by: set[str] = set()
        """Tags under which somebody connects who lives and never registers."""
        self.faults = Faults(self)
        self._starting = False
        self._outstanding: dict[str, int] = {}
        self._pids = 100
        self._supervisors = 0

    # ---- used by all parts -----------------------------------------------------------------------

    def delay(self, scale: float) -> float:
        """Seconds something takes: up to twice ``scale``, and now and then far longer."""
        rng = self.rng.random
        if self.scenario.slow and rng() < self.scenario.slow:
            return min(0.3, scale * self.scenario.slowness * rng())
        return scale * 2 * rng()

    def repeats(self) -> bool:
        return bool(self.scenario.repeats) and self.rng.random() < self.scenario.repeats

    def note(self, text: str) -> None:
        if self.tracing and text:
            self.trace.append((self.clock.now, text))

    def violated(self, text: str) -> None:
        self.note(f"VIOLATION: {text}")
        raise Violation(text)

    # ---- supervisors -----------------------------------------------------------------------------

    def supervisor_for(self, process: Process) -> Supervisor | None:
        """The one that answers; if there is none, one is started (only one: there is a lock)."""
        if self.supervisor is not None and self.supervisor.alive:
            return self.supervisor
        if not self._starting:
            self._starting = True
            self.clock.after(0.0005 + self.delay(0.001), self._start_supervisor)
        return None

    def _start_supervisor(self) -> None:
        self._starting = False
        self._supervisors += 1
        self.supervisor = Supervisor(self, self._supervisors)
        self._outstanding.clear()
        self.ledger_changed = True

    def read_snapshot(self) -> Saved | None:
        return self.disk

    def write_snapshot(self, saved: Saved) -> None:
        self.disk, self.clean = saved, False
        if self.tracing:
            charges = {m.identity.tag: dict(m.charges) for m in saved.members}
            self.note(f"snapshot: {charges} {[(s.id, s.budget, s.own, s.quarantine) for s in saved.servers]}")
        for server in saved.servers:
            self.servers[server.id].budget = server.budget

    def remove_snapshot(self) -> None:
        self.disk, self.clean = None, True

    def lives(self, identity: Identity) -> bool:
        return self.lives_tag(identity.tag)

    def lives_tag(self, tag: str) -> bool:
        return tag in self.processes or tag in self.memberless or tag in self.passers_by

    def exited(self, process: Process) -> None:
        """A process has died; a supervisor that knows it hears of it some time after."""
        self._gone(process)
        for tag in (process.tag, *process.before):
            self.memberless.discard(tag)
            if self.supervisor is not None and self.supervisor.alive:
                self.clock.after(self.delay(0.0005), self._tell_exit, self.supervisor, tag)

    def became_another(self, process: Process) -> None:
        """Nobody hears of it; who looks can see it."""
        self._gone(process)
        self.memberless.difference_update(process.before)
        self.other_programs.update((process.tag, *process.before))

    def lives_on(self, process: Process) -> None:
        """The program lives; that it was that member is over."""
        self._gone(process)
        self.memberless.add(process.tag)

    def _gone(self, process: Process) -> None:
        del self.processes[process.tag]
        self.touched.pop(process.tag, None)

    @staticmethod
    def _tell_exit(supervisor: Supervisor, tag: str) -> None:
        if supervisor.alive and (tag in supervisor.ledger.members or tag in supervisor.unheard):
            supervisor.event("exit", tag)

    # ---- processes -------------------------------------------------------------------------------

    def start(self, kind: Worker, core: Any = None, before: Process | None = None) -> Process:
        """A process, or what has been another member in the same one."""
        self._pids += 1
        pid = self._pids if before is None else before.pid
        tag = f"pm1.0000000a.00000b.{pid}.{pid}.{0xAA if before is None else self._pids:06x}"
        if core is not None:
            core.tag = tag
        process = self.processes[tag] = Process(self, tag, pid, core)
        if before is not None and before.tag in self.memberless:
            process.before = (*before.before, before.tag)
            process.core.replaces = before.core.replaced_by_next()
        for server in self.servers.values():
            load = Load(kind.threads, kind.service, kind.think, kind.on, kind.off, kind.phase, kind.kept, kind.keep)
            for _ in range(kind.pools):
                process.attach(server, load, kind.ceiling, lifo=kind.lifo, patience=kind.patience)
        process.start()
        return process

    # ---- running ---------------------------------------------------------------------------------

    def run(self) -> World:
        """The whole scenario.

        Raises:
            Violation: something that must hold did not.
        """
        try:
            self._run()
        except AssertionError as error:
            self.violated(f"ledger: {error}")
        return self

    def _run(self) -> None:
        for kind in self.scenario.workers:
            self.start(kind)
        for fault in self.scenario.faults:
            self.clock.at(fault.at, self.faults.inflict, fault)
        with patch.object(sharing, "decide", wild.decide) if self.scenario.wild else nullcontext():
            self.until(self.scenario.duration)
        self._recover()
        self._rest()
        self._prove_whole()
        self._all_leave()
        if self.unproven and self._keeps_something_to_look_with():
            self.violated(f"{self.unproven} looks over the budget")

    def _keeps_something_to_look_with(self) -> bool:
        """Whether no look may ever have to wait for what members give back, however many die without a goodbye. Without
        a snapshot nothing can be granted, and a successor has to prove its predecessor's own connection first."""
        hindered = {"budget", "disk full", "kill supervisor", "stop supervisor", "strangers"} & {
            f.kind for f in self.scenario.faults
        }
        return not hindered and not self.scenario.lost_snapshot and min(self.scenario.budgets) >= ALWAYS_KEPT

    @property
    def steps(self) -> int:
        return self.clock.steps

    def until(self, when: float) -> None:
        self.clock.until(when, self.check)

    def wait(self, what: str, true: Any, seconds: float) -> None:
        """Run until ``true()``, which must come within ``seconds``. It is a text: what is missing, or ''."""
        deadline = self.clock.now + seconds
        while missing := true():
            if self.clock.now >= deadline:
                self.violated(f"{what}: {missing} after {seconds:.1f} s")
            self.until(min(deadline, self.clock.now + 0.01))

    # ---- what must hold after every step ---------------------------------------------------------

    def check(self) -> None:
        supervisor = self.supervisor
        if not (self.touched or self.ledger_changed) or supervisor is None or not supervisor.alive:
            return
        ledger = supervisor.ledger
        if self.ledger_changed:
            self.ledger_changed = False
            invariant.check(ledger)
            self._check_sums(supervisor)
            if len(self.processes) <= EVERYONE:
                self.touched.update(self.processes)
        if self.whole:
            servers = ledger.servers
            for tag, process in self.touched.items():
                for dispatcher in process.core.dispatchers():
                    account = dispatcher.account
                    count = len(account.live) + len(account.closing) + len(account.lost)  # counted here too
                    if count and account.server:
                        charged = servers[account.server].accounts.get(tag)
                        if charged is None or count > charged.charge:
                            self.violated(f"{tag} has {count} open, charged {charged}")
        self.touched.clear()

    def _check_sums(self, supervisor: Supervisor) -> None:
        for id, server in self.servers.items():
            known = supervisor.ledger.servers[id]
            outstanding = _outstanding(known, self.strange_tags)
            before = self._outstanding.get(id, outstanding)
            if self.whole:
                if outstanding > max(known.budget, before) + server.slack:
                    self.violated(f"{id}: {outstanding} outstanding of {known.budget}, {before} before")
                server.bound = max(server.budget, known.budget, min(server.bound, outstanding))
            else:
                server.bound = server.budget
            self._outstanding[id] = min(outstanding, max(known.budget, before))

    # ---- what must hold when faults have ceased --------------------------------------------------

    def _recover(self) -> None:
        """All work on. Whoever waits is served within bounded time."""
        self.disk_full = False
        self.half_open = 0
        for server in self.servers.values():
            server.strangers_leave()
            if self.scenario.lost_snapshot:  # nobody can kill what nobody has registered for
                self.clock.after(KEEPALIVE, server.keepalive)
        if self.supervisor is not None:
            self.supervisor.doom = None
            self.faults.resume_supervisor(self.supervisor)
        for process in list(self.processes.values()):
            self.faults.resume(process)
        waiting = [(p, c, c.since) for p in self.processes.values() for c in p.waiting]

        def missing() -> str:
            still = [p for p, caller, since in waiting if p.alive and caller.waiting and caller.since == since]
            return f"{len(still)} callers wait, {still[0].tag} and others" if still else ""

        self.wait("starved", missing, CALM + self._queue_time())

    def _queue_time(self) -> float:
        """Seconds for all who wait now: with fewer permits than processes they take turns, which are as long as
        some callers keep what they get."""
        pools = [pool for process in self.processes.values() for pool in process.pools]
        crowd = sum(caller.waiting for pool in pools for caller in pool.callers)
        keep = max((1.5 * pool.load.keep for pool in pools if pool.load.kept), default=0.0)
        return (0.5 + keep) * crowd / min(server.budget for server in self.servers.values())

    def _rest(self) -> None:
        """Nobody works any more. Everything comes back."""
        self.working = False

        def missing() -> str:
            callers = sum(len(p.waiting) for p in self.processes.values())
            if callers:
                return f"{callers} callers wait"
            for process in self.processes.values():
                for dispatcher in process.core.dispatchers():
                    a = dispatcher.account
                    if a.lost or a.closing:
                        return f"{process.tag} has {len(a.closing)} closing, {len(a.lost)} lost"
                for pool in process.pools:
                    if amiss := pool.amiss():
                        return amiss
            ledger = self.supervisor.ledger if self.supervisor and self.supervisor.alive else None
            if ledger is None:
                return "no supervisor" if self.processes else ""
            for known in ledger.servers.values():
                if known.quarantine:
                    return f"{known.id} has {known.quarantined} in quarantine"
                limits = sum(a.limit for a in known.accounts.values())
                if limits > known.budget or known.charged > known.budget:
                    return f"limits of {known.id} are {limits}, charged {known.charged}, of {known.budget}"
            return ""

        self.wait("not quiet", missing, CALM + 6.0 + self._queue_time())

    def _prove_whole(self) -> None:
        """One process wants everything, and gets it."""
        self.whole = not self.scenario.lost_snapshot
        process = self.start(Worker(0, 0.0, 0.0, ceiling=1_000_000))
        for pool, usual in zip(process.pools, self.scenario.budgets, strict=True):
            # more than any budget that a fault may yet have set
            process.later(0.0, pool.seize, 2 * usual + 1)

        def missing() -> str:
            for pool in process.pools:
                budget = pool.server.budget
                ledger = self.supervisor.ledger if self.supervisor else None
                own = ledger.servers[pool.server.id].own if ledger else 0
                if len(pool.lent) < budget - own:
                    return f"{process.tag} got {len(pool.lent)} of {budget} permits of {pool.server.id}, {own} own"
            return ""

        self.wait("permits lost", missing, CALM)

    def _all_leave(self) -> None:
        """Everyone ends. The supervisor finds nothing charged, and exits."""
        for i, process in enumerate(list(self.processes.values())):
            process.die() if i % 2 or any(p.load.service > 60 for p in process.pools) else process.leave()

        def missing() -> str:
            if self.processes:
                return f"{len(self.processes)} processes have not left"
            if self.supervisor is not None and self.supervisor.alive:
                ledger = self.supervisor.ledger
                return f"supervisor still runs, outstanding {[s.outstanding for s in ledger.servers.values()]}"
            counts = {server.id: server.count for server in self.servers.values() if server.count or server.queued}
            return f"servers still count {counts}" if counts else ""

        self.wait("not returned", missing, CALM + 6.0)
