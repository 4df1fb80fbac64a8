"""One turn of the ledger for each turn of the event loop, carried out in the one order that is safe.

All events that arrived are in the ledger when :meth:`Committer.run` settles it. Then (rule S1) come the snapshot, the
messages, and what the supervisor opens itself. If the snapshot cannot be written, the turn's raises and recalls are
taken back before anything else happens: members go on with what they have.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from poolmgr.budget import recovery
from poolmgr.budget.accounts import Saved
from poolmgr.budget.effects import Tell
from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.disk.snapshot import SupersededError, Writer
from poolmgr.supervisor.logs import Limited, log
from poolmgr.wire import Limit


class Committer:
    """Runs turns on :meth:`touch`, or when the ledger itself wants one.

    Args:
        deliver: sends a tell to its member.
        superseded: another supervisor may run: end at once, touching nothing.
        settled: a turn is over.
    """

    def __init__(
        self,
        ledger: Ledger,
        writer: Writer,
        *,
        deliver: Callable[[Tell], None],
        superseded: Callable[[], None],
        settled: Callable[[], None],
    ) -> None:
        self.ledger = ledger
        self.writer = writer
        self._deliver = deliver
        self.granted: Callable[[str], None] = lambda server: None
        """Called when the supervisor may open one more connection of its own at a server. Set once."""
        self.saved: Callable[[Saved], None] = lambda saved: None
        """Called when the snapshot is on disk. Set once."""
        self._superseded = superseded
        self._settled = settled
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._limited = Limited(burst=1)
        self.unwritten = ""
        """Why the last snapshot could not be written; empty if it could."""
        self.count = 0

    def clock(self) -> float:
        """Monotonic seconds; the ledger's time."""
        return self._loop.time()

    def touch(self) -> None:
        """Something was fed: run a turn at the end of this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.run)

    def run(self) -> None:
        """Settle, save, send."""
        self._scheduled = False
        if self._closed:
            return
        self.count += 1
        now = self.clock()
        turn = self.ledger.settle(now)
        tells, own = turn.tells, turn.own
        if turn.persist and not self._save(now):
            self.ledger.abandon(turn, now)
            tells, own = turn.rest(), []
        for tell in tells:
            self._deliver(tell)
        if tells and log.isEnabledFor(logging.DEBUG):
            self._note(tells)
        for server in own:
            self.granted(server)
        self._settled()
        self._wake(turn.wake if not self.unwritten else min(turn.wake or now + 1, now + 1))

    def _note(self, tells: list[Tell]) -> None:
        for tell in tells:
            account = self.ledger.servers[tell.message.server].accounts.get(tell.tag)
            if isinstance(tell.message, Limit) and account is not None and account.returning:
                fields = {"server": tell.message.server, "limit": tell.message.limit, "charge": account.charge}
                log.debug("permit.recalled", extra={"member": self.ledger.members[tell.tag].identity.pid, **fields})

    def _save(self, now: float) -> bool:
        try:
            saved = recovery.save(self.ledger, now)
            self.writer.write(saved)
        except SupersededError:
            self._superseded()
            return False
        except OSError as error:
            before = self.unwritten
            self.unwritten = (
                f"cannot write the snapshot {self.writer.path} ({error.strerror}), so no process can open more "
                "connections; free space there and let this user write, or point POOLMGR_SOCKET elsewhere"
            )
            if self.unwritten != before:
                self._limited("snapshot.unwritable", logging.ERROR, error=self.unwritten)
            return False
        if self.unwritten:
            self.unwritten = ""
            log.info("snapshot.writable")
        self.saved(saved)
        return True

    def _wake(self, at: float | None) -> None:
        if self._timer is not None:
            if at is not None and not self._timer.cancelled() and abs(self._timer.when() - at) < 1e-4:
                return
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = self._loop.call_at(at, self._due)

    def close(self) -> None:
        """No more turns."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> None:
        self._timer = None
        self.touch()
