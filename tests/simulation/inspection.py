"""How a supervisor proves at one server that connections are gone (rules S3 to S5), in virtual time.

The order of doing is that of :mod:`poolmgr.supervisor.upstreams.inspection`; the verdict is the real
:func:`poolmgr.supervisor.upstreams.proof.judge`. Every list here is a whole one and costs nothing.
That what is asked for by number proves the same is a property in ``tests/unit/test_proof.py``, and what lists may cost
is one in ``tests/unit/test_throttle.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from poolmgr import tags, wire
from poolmgr.budget import recovery
from poolmgr.budget.accounts import TO_REGISTER
from poolmgr.supervisor.upstreams.proof import Row, judge
from tests.simulation.server import HERE, Connection, Server

if TYPE_CHECKING:
    from tests.simulation.supervisor import Supervisor

KEPT_BACK_FROM, KEEPS_FROM = 4, 8
"""Budgets from which on a permit is kept to look with, and a connection is kept between two inspections (rule S5)."""

BOUNDED_WAIT = 1.0
"""Seconds after which, when no permit is left to look with, one is taken over the budget. In reality it is
longer (:data:`poolmgr.supervisor.upstreams.unproven.WAIT`); nothing depends on that but the length of a run."""

PLACE = "0000000a"
"""Of our tags. A clone's has another scope and boot, which count for another place here."""

GRACE = 0.7
"""Seconds for which nothing is raised after a lost snapshot, and where a census finds living processes that have not
registered: longer than any delay here."""

HANDSHAKE = 1.0
"""Seconds after which every connection has a name or is no more: longer than any delay here."""

PAUSE = 0.002
"""Seconds between two lists of one inspection."""

AGAIN = 0.02
"""Seconds between two inspections that have not proven everything."""


class Inspection:
    """One server's. ``_state`` is what is being waited for."""

    def __init__(self, supervisor: Supervisor, server: Server, *, census: bool) -> None:
        self.supervisor = supervisor
        self.world = supervisor.world
        self.server = server
        self.connection: Connection | None = None
        self.permit = False
        self.census = census
        """The server has not been met before: its connections that bear our tags are counted first."""
        self._unheard_until = 0.0
        self._searching = False
        self._state = "rest"
        self._targets: frozenset[str] = frozenset()
        self._lists = 0
        self._number = 0
        self._rest_until = 0.0

    @property
    def may_exit(self) -> bool:
        return not self.permit and self._state == "rest" and self.connection is None

    @property
    def _counting(self) -> bool:
        return self.census or self.supervisor.ledger.servers[self.server.id].search

    @property
    def listing(self) -> bool:
        return self._state == "listing"

    def _todo(self) -> frozenset[str]:
        id = self.server.id
        now, quarantine = self.world.clock.now, self.supervisor.ledger.servers[id].quarantine
        return frozenset({tag for tag, entry in quarantine.items() if entry.due(now)} | self.supervisor.lost[id])

    def _strange(self) -> frozenset[str]:
        quarantine = self.supervisor.ledger.servers[self.server.id].quarantine
        return frozenset(tag for tag, entry in quarantine.items() if not entry.registered)

    # ---- from outside ----------------------------------------------------------------------------

    def look(self) -> None:
        """After every turn: is there something to do?"""
        if self._state != "rest" or self.world.clock.now < self._rest_until:
            return
        keeps = self._keeps(KEEPS_FROM)
        if self._counting or self._todo():
            if self.connection is not None and self._afresh():
                self._close(self._open)
            elif self.connection is not None:
                self._state = "listing"
                self._begin()
            elif self.permit:
                self._open()
            else:
                self._acquire()
        elif keeps and self.connection is None and self.permit:
            self._open()
        elif not keeps and self.connection is not None:
            self._close(self._keep_permit)
        else:
            self.keep()

    def keep(self) -> None:
        """Have or give back what is kept. Whenever what it depends on has changed, in the same turn: what is asked for
        later, members have got by then."""
        if self._state == "rest" and self.connection is None:
            keeps = self._keeps(KEPT_BACK_FROM)
            if keeps and not self.permit:
                self._acquire()
            elif self.permit and not keeps:
                self._return()

    def _keeps(self, least: int) -> bool:
        return self.supervisor.ledger.servers[self.server.id].budget >= least and not self.supervisor.stopping

    def granted(self) -> None:
        """A turn has granted the permit, and the snapshot shows it."""
        if self._state == "acquiring":
            self.permit = True
            if self._counting or self._todo():
                self._open()
            else:
                self._rest(0.0)
        else:
            self._return()

    def die(self) -> None:
        if self.connection is not None:
            self.server.die(self.connection)

    # ---- the permit ------------------------------------------------------------------------------

    def _acquire(self) -> None:
        self._state = "acquiring"
        self._number += 1
        self.supervisor.ledger.want_own(self.server.id, 1, self.world.clock.now)
        self.supervisor.wake(0.00001)
        self.supervisor.after(BOUNDED_WAIT, self._waited, self._number)

    def _waited(self, number: int) -> None:
        """No permit came. If what is to be proven is old enough, one is granted over the budget."""
        if self._state != "acquiring" or number != self._number:
            return
        now, id = self.world.clock.now, self.server.id
        ledger = self.supervisor.ledger
        if self.census:
            # What members state fills all that is known: there must be one more.
            ledger.set_budget(id, ledger.servers[id].outstanding + 1, now)
        if self._todo():
            self.world.unproven += 1
            self.server.slack = 1
            self.world.note(f"one permit of {id} over the budget, to look with")
            ledger.overdraw_own(id)
        self.supervisor.wake(0.00001)
        self.supervisor.after(BOUNDED_WAIT, self._waited, number)

    def _return(self) -> None:
        self.permit = False
        self.server.slack = 0
        self.supervisor.ledger.return_own(self.server.id, 1, self.world.clock.now)
        self.supervisor.wake(0.00001)

    def _keep_permit(self) -> None:
        """Without its connection: for the next look, or until somebody else needs it."""
        if not self._keeps(KEPT_BACK_FROM):
            self._return()
        self._rest(max(0.0, self._rest_until - self.world.clock.now))

    def _rest(self, seconds: float) -> None:
        self._state = "rest"
        self._rest_until = self.world.clock.now + seconds
        self.supervisor.after(seconds, self.supervisor.wake, 0.00001)

    # ---- the connection --------------------------------------------------------------------------

    def _afresh(self) -> bool:
        """Rule S3: the list counts only after a connection that was made after the exit was answered."""
        return True

    def _open(self) -> None:
        self._state = "opening"
        self._targets = self._todo()
        self._searching = self._counting
        box: list[Connection] = []
        self.connection = self.server.connect(
            f"{self.supervisor.tag}-{self.supervisor.next_serial()}",
            lambda: self._event(self._opened, box[0]),
            lambda: self._event(self._ended, box[0]),
        )
        box.append(self.connection)
        self.connection.census = not self.world.whole and (self.supervisor.ledger.partial or self._counting)

    def _event(self, call: Callable[..., Any], *args: Any) -> None:
        self.supervisor.after(0.0, self.supervisor.event, "do", lambda: call(*args))

    def _opened(self, conn: Connection) -> None:
        if conn is self.connection and self._state == "opening":
            self._state = "listing"
            self._lists = 0
            self.supervisor.after(self.world.delay(0.0001), self._list)

    def _begin(self) -> None:
        self._targets = self._todo()
        self._lists = 0
        self.supervisor.after(self.world.delay(0.0001), self._list)

    def _close(self, then: Callable[[], None]) -> None:
        """Rule M3 for our own: its permit is free when the server has confirmed."""
        self._state = "closing"
        self._then = then
        assert self.connection is not None
        self.server.shut(self.connection)

    def _ended(self, conn: Connection) -> None:
        if conn is not self.connection:
            return
        self.connection = None
        if self._state == "closing":
            self._then()
        else:  # the server's doing
            self._rest_until = self.world.clock.now + AGAIN
            self._keep_permit()

    # ---- lists -----------------------------------------------------------------------------------

    def _list(self) -> None:
        """The server makes the list now; it arrives later."""
        if self._state == "listing":
            self.supervisor.after(self.world.delay(0.0002), self._event, self._listed, self.server.rows())

    def _listed(self, rows: list[Row]) -> None:
        if self._state != "listing" or self.connection is None:
            return
        if self._searching:
            self._counted(rows)
            return
        verdict = judge(
            rows, self._targets, fresh=self._excluded(), host=HERE, handshake=HANDSHAKE, spare=self._strange()
        )
        self._prove(verdict.gone)
        self._targets -= verdict.gone
        if verdict.leftovers:
            for id in verdict.leftovers:
                self.supervisor.after(self.world.delay(0.0001), self.server.kill, id)
        self._lists += 1
        if self._targets and self._lists < 7:
            self.supervisor.after(PAUSE * self._lists, self._list)
            return
        self._done(AGAIN if self._targets else 0.0)

    def _done(self, again: float) -> None:
        """With a small budget nothing is kept open until the next look, which is in so many seconds."""
        self._rest_until = self.world.clock.now + again
        if self._keeps(KEEPS_FROM):
            self._rest(again)
        else:
            self._close(self._keep_permit)

    def _excluded(self) -> int:
        assert self.connection is not None
        return self.connection.id

    def _prove(self, gone: frozenset[str]) -> None:
        now = self.world.clock.now
        supervisor = self.supervisor
        for target in sorted(gone):
            if target in supervisor.lost[self.server.id]:
                supervisor.lost[self.server.id].discard(target)
                tag, _, serial = target.rpartition("-")
                link = supervisor.links.get(tag)
                if link is not None:
                    link.to_member(wire.Gone(self.server.id, (int(serial),)))
            else:
                self.world.note(f"{target} proven gone from {self.server.id}")
                supervisor.ledger.proven(self.server.id, target, now)
        if gone:
            supervisor.commit()
        supervisor.wake(0.00001)

    def _counted(self, rows: list[Row]) -> None:
        """Rule S4, the census: everything that bears a tag of ours and is not known otherwise."""
        ours = self.connection.id if self.connection else 0
        if any(not row.name and row.id < ours and row.age <= HANDSHAKE for row in rows):
            self.supervisor.after(PAUSE, self._list)
            return
        found: dict[str, int] = {}
        for row in rows:
            tag = tags.find(row.name)
            if tag is not None and row.id != ours and self._possible(tag):
                found[tag.process] = found.get(tag.process, 0) + 1
        supervisor, id, now = self.supervisor, self.server.id, self.world.clock.now
        ledger = supervisor.ledger
        for process, count in found.items():
            if process in ledger.members:
                continue
            alive = self.world.lives_tag(process)
            if alive and process not in ledger.servers[id].quarantine:
                supervisor.unheard.add(process)
            recovery.census(ledger, id, process, count, now, exited=not alive)
        supervisor.after(TO_REGISTER + 0.001, supervisor.wake, 0.0)
        ledger.searched(id)
        if self.census:
            self.census = False
            ledger.server(id, run_id="r")
            ledger.set_budget(id, self.server.budget, now)
            self._unheard_until = now + GRACE
            supervisor.after(GRACE + 0.001, supervisor.wake, 0.0)
        self.world.note(f"census of {id}: {found}")
        supervisor.wake(0.00001)
        self._done(0.0)

    def _possible(self, tag: tags.Tag) -> bool:
        """Whether it may be of a supervisor before this one (:mod:`poolmgr.supervisor.upstreams.belonging`)."""
        return tag.place == PLACE

    def release_held_raises(self) -> None:
        """After the census, and once those that were found have had time to register."""
        supervisor, known = self.supervisor, self.supervisor.ledger.servers[self.server.id]
        if known.held and not self.census and (not supervisor.unheard or self.world.clock.now >= self._unheard_until):
            supervisor.ledger.hold_raises(known.id, False)
            if not known.held:
                supervisor.wake(0.00001)
