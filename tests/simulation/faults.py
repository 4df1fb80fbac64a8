"""What goes wrong in a world: one method for each kind of :data:`tests.simulation.scenario.FAULTS`.

A fault chooses among what there is at its time by the numbers that it bears, so that leaving out another one
still leaves a world in which it means something.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec

from tests.simulation.inspection import GRACE, PLACE
from tests.simulation.process import Process
from tests.simulation.scenario import Fault, worker
from tests.simulation.supervisor import Supervisor

if TYPE_CHECKING:
    from tests.simulation.world import World


class Faults:
    """Those of one world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def inflict(self, fault: Fault) -> None:
        """Do it now."""
        self.world.note(f"FAULT {fault.kind}")
        getattr(self, "_" + fault.kind.replace(" ", "_").replace("-", "_"))(fault)

    def _chosen(self, number: int) -> Process | None:
        processes = list(self.world.processes.values())
        return processes[number % len(processes)] if processes else None

    def _kill(self, fault: Fault) -> None:
        if (process := self._chosen(fault.a)) is not None:
            process.die()

    def _start(self, fault: Fault) -> None:
        if len(self.world.processes) < 2 * len(self.world.scenario.workers) + 4:
            self.world.start(worker(random.Random(fault.a), len(self.world.scenario.workers)))

    def _stop(self, fault: Fault) -> None:
        process = self._chosen(fault.a)
        if process is not None and self.world.scenario.lost_snapshot and process.about_to_connect:
            self.world.clock.after(0.0001, self._stop, fault)
        elif process is not None and not process.stopped:
            process.stop()
            self.world.clock.after(fault.c, self.resume, process)

    def resume(self, process: Process) -> None:
        if process.stopped and process.alive:
            self.world.note(f"{process.tag} continues")
            process.cont()

    def _fork(self, fault: Fault) -> None:
        process = self._chosen(fault.a)
        if (
            process is not None
            and not process.stopped
            and len(self.world.processes) < 2 * len(self.world.scenario.workers) + 4
        ):
            core = process.core.forked("")
            self.world.start(worker(random.Random(fault.b), len(self.world.scenario.workers)), core)

    def _leave(self, fault: Fault) -> None:
        process = self._chosen(fault.a)
        if process is not None and not process.stopped:
            process.leave()

    def _exec(self, fault: Fault) -> None:
        """It becomes another program, which may use a pool or not; for every third its connections are cut off too."""
        process = self._chosen(fault.a)
        if process is not None and not process.stopped:
            process.become_another(half=fault.b % 3 == 0)
            if fault.b % 2:
                self._in_its_place(process, fault)

    def _close_all(self, fault: Fault) -> None:
        """It closes all its descriptors, and goes on as another member."""
        process = self._chosen(fault.a)
        if process is not None and not process.stopped and not process.leaving:
            process.close_all()
            self._in_its_place(process, fault)

    def _return(self, fault: Fault) -> None:
        """It says goodbye, and comes back as another member."""
        process = self._chosen(fault.a)
        if process is not None and not process.stopped and not process.leaving:
            process.leave(then=lambda: self._in_its_place(process, fault))

    def _in_its_place(self, process: Process, fault: Fault) -> None:
        self.world.start(worker(random.Random(fault.b), len(self.world.scenario.workers)), before=process)

    def _brief(self, fault: Fault) -> None:
        """Some processes that live for a moment; every second says goodbye."""
        for i in range(1 + fault.a % 4):
            if len(self.world.processes) < 2 * len(self.world.scenario.workers) + 4:
                process = self.world.start(worker(random.Random(fault.b + i), len(self.world.scenario.workers)))
                self.world.clock.after(fault.c * (i + 1), process.leave if (fault.b + i) % 2 else process.die)

    def _kill_connecting(self, fault: Fault) -> None:
        """Kill a process while the server does not know yet whose connection it has; waits for the moment. For
        every third, a list must be under way too."""
        listing = fault.a % 3 > 0 or (
            self.world.supervisor is not None and any(i.listing for i in self.world.supervisor.inspections.values())
        )
        process = next((p for p in self.world.processes.values() if any(pool.connecting for pool in p.pools)), None)
        if listing and process is not None:
            process.die()
        elif fault.b > 0 and self.world.clock.now < self.world.scenario.duration:
            self.world.clock.after(
                0.0002, self._kill_connecting, msgspec.structs.replace(fault, b=min(fault.b, 300) - 1)
            )

    def _drop_link(self, fault: Fault) -> None:
        """At any moment. Or (odd ``b``) as soon as something is under way on it, with a new link at once; for
        every second of these it must be an early acknowledgement, of whichever process."""
        process: Process | None = self._chosen(fault.a)
        at_once = fault.b % 2 == 1
        if at_once and fault.c > 0 and self.world.clock.now < self.world.scenario.duration:
            if fault.b % 4 == 3:
                process = next((p for p in self.world.processes.values() if p.link is not None and p.link.acking), None)
            if process is None or process.link is None or not process.link.busy:
                self.world.clock.after(0.0002, self._drop_link, msgspec.structs.replace(fault, c=fault.c - 0.0002))
                return
        if process is None or process.stopped:
            return
        process.run(process.drop_link)
        if at_once:
            process.run(process.connect)

    def _double_link(self, fault: Fault) -> None:
        """A new link, upon which everything (or all but the registration) is slow; and soon another."""
        process = self._chosen(fault.a)
        if process is None or process.stopped or process.link is None:
            return
        lag = 0.003 + fault.c % 0.02
        process.run(process.drop_link)
        self.world.lag = 0.0 if fault.b % 2 else lag
        process.run(process.connect)
        self.world.lag = 0.0
        if process.link is not None:
            process.link.lag = lag
            self.world.clock.after(lag * (0.2 if fault.b % 4 < 2 else 0.7), self._relink, process, process.link)

    def _relink(self, process: Process, link: Any) -> None:
        if process.alive and not process.stopped and process.link is link:
            process.run(process.drop_link)
            process.run(process.connect)

    def _supervisor_drops_link(self, fault: Fault) -> None:
        supervisor = self.world.supervisor
        if supervisor is not None and supervisor.alive and supervisor.links:
            tags = list(supervisor.links)
            link = supervisor.links[tags[fault.a % len(tags)]]
            link.close_supervisor()
            supervisor.event("link", link, None)

    def _kill_supervisor(self, fault: Fault) -> None:
        supervisor = self.world.supervisor
        if supervisor is None or not supervisor.alive:
            return
        if self.world.scenario.lost_snapshot and fault.a % 2:
            self._lose_snapshot()
        elif fault.b < 6:
            supervisor.doom = fault.b
        else:
            supervisor.die()

    def _lose_snapshot(self) -> None:
        """And the supervisor with it."""
        supervisor = self.world.supervisor
        if supervisor is not None and supervisor.alive:
            self.world.note("the snapshot is lost")
            self.world.disk, self.world.clean, self.world.whole = None, False, False
            supervisor.die()

    def _loss(self, fault: Fault) -> None:
        """The snapshot is lost at a bad time for a process that has not opened all it has. It is stopped for longer
        than anybody is waited for, by one supervisor or by two. Or it notices late: it opens more and then dies
        before it could tell, or the next supervisor dies before it has heard. Waits till there is such a process."""
        pattern = fault.a % 5
        candidates = [p for p in self.world.processes.values() if not p.stopped and p.link and _unopened(p)]
        if pattern < 3:
            candidates = [p for p in candidates if not p.about_to_connect]
        if pattern == 3:  # its name is not seen by the first census
            candidates = [p for p in candidates if not p.core.open]
        process = max(candidates, key=_unopened, default=None)
        if process is None or process.link is None:
            if self.world.clock.now < fault.at + 0.5:
                self.world.clock.after(0.001, self._loss, fault)
            return
        late = 0.1 + 0.2 * (fault.b % 100) / 100
        if pattern < 3:
            process.stop()
            self._lose_snapshot()
            again = GRACE + 0.05 + fault.c % 0.4
            self.world.clock.after(again, self._after_loss, process, late if pattern else -1.0)
            return
        process.link.deaf = late
        self._lose_snapshot()
        if pattern == 3:
            self.world.clock.after(late * 0.9, process.die, True)
        else:
            self.world.clock.after(late * 0.5, self._kill_supervisor, msgspec.structs.replace(fault, a=0))

    def _after_loss(self, process: Process, late: float) -> None:
        """``late``: the snapshot is lost again, and the others notice so much later; negative: it is not."""
        if late >= 0:
            for other in self.world.processes.values():
                if other.link is not None and other is not process:
                    other.link.deaf = late
            self._lose_snapshot()
        self.resume(process)

    def _stop_supervisor(self, fault: Fault) -> None:
        supervisor = self.world.supervisor
        if supervisor is not None and supervisor.alive and not supervisor.stopped:
            supervisor.stopped = True
            self.world.clock.after(fault.c, self.resume_supervisor, supervisor)

    @staticmethod
    def resume_supervisor(supervisor: Supervisor) -> None:
        supervisor.stopped = False

    def _strangers(self, fault: Fault) -> None:
        """They bear the name of a process that lives here and is none of ours, of one that nobody knows, of a member's
        (on a clone of this machine with its memory: from another address), or of one of a clone's own."""
        world = self.world
        member = self._chosen(fault.a)
        kinds = [
            ("10.0.0.1", f"pm1.{PLACE}.00000b.1.1.0000bb"),
            ("10.0.0.1", f"pm1.{PLACE}.00000b.7.7.0000cc"),
            ("10.0.0.2", member.tag if member is not None else f"pm1.{PLACE}.00000b.8.8.0000dd"),
            ("10.0.0.2", "pm1.0000000c.00000d.100.100.0000aa"),
        ]
        addr, tag = kinds[fault.b % len(kinds)]
        if fault.b % len(kinds) == 0:
            world.passers_by.add(tag)
        world.strange_tags.add(tag)
        server = world.servers[f"r{fault.a % len(world.servers)}"]
        for serial in range(1 + int(fault.c * server.budget)):
            server.visit(f"{tag}-{1000 + serial}", addr)

    def _disk_full(self, fault: Fault) -> None:
        self.world.disk_full = True
        self.world.clock.after(fault.c, self._disk_free)

    def _disk_free(self) -> None:
        self.world.disk_full = False

    def _budget(self, fault: Fault) -> None:
        supervisor = self.world.supervisor
        if supervisor is not None and supervisor.alive:
            number = fault.a % len(self.world.servers)
            id, usual = f"r{number}", self.world.scenario.budgets[number]
            supervisor.event("budget", id, max(1, int(usual * (0.3 + fault.b % 16 / 10))))

    def _half_open(self, fault: Fault) -> None:
        self.world.half_open += 1 + fault.b % 2

    def _client_kill(self, fault: Fault) -> None:
        server = self.world.servers[f"r{fault.a % len(self.world.servers)}"]
        ids = [id for id, conn in server.connections.items() if not conn.strange]
        if ids:
            server.kill(ids[fault.b % len(ids)])

    def _server_restarts(self, fault: Fault) -> None:
        self.world.servers[f"r{fault.a % len(self.world.servers)}"].restart()

    def _reload(self, fault: Fault) -> None:
        """Every process is replaced, one after the other: the new one starts before the old one leaves."""
        for i, process in enumerate(list(self.world.processes.values())):
            self.world.clock.after(0.01 * i, self._replace, process, fault)

    def _replace(self, process: Process, fault: Fault) -> None:
        if process.alive and not process.stopped and self.world.working:
            self._start(fault)
            process.leave()


def _unopened(process: Process) -> int:
    accounts = [dispatcher.account for dispatcher in process.core.dispatchers()]
    return sum(max(0, account.limit - account.open) for account in accounts)
