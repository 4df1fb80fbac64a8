"""One pass over a server, by a worker thread: ask (INFO, maxclients), list, kill, prove.

:class:`Inspector` keeps at most one connection open between two passes (rule S5). A *fresh* one for a proof (rule S3)
takes the kept one's place and permit: the kept one is closed first, to the server's end-of-file. So a proof never needs
a second permit, which would have to be recalled from a member first, and it works at a budget that is used to the last
permit.

This module blocks, so the event loop must never call it; and it must never touch the ledger: it takes a
:class:`~poolmgr.supervisor.upstreams.findings.Work` and returns :class:`Findings`.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence

import msgspec

from poolmgr.fleet import script
from poolmgr.fleet.script import Renewal, Renewed
from poolmgr.supervisor.fleet import fencing
from poolmgr.supervisor.fleet.table import Table, TableError
from poolmgr.supervisor.upstreams.admin import Admin, AdminError, fields
from poolmgr.supervisor.upstreams.findings import Asked, Findings, Tried, Work
from poolmgr.supervisor.upstreams.lists import Lists, refused
from poolmgr.supervisor.upstreams.proof import Row
from poolmgr.supervisor.upstreams.resp import ReplyError
from poolmgr.supervisor.upstreams.summary import summed
from poolmgr.wire import Endpoint


class Inspector:
    """Does :class:`~poolmgr.supervisor.upstreams.findings.Work` at one server. Called by one thread at a time.

    Args:
        tag: the supervisor's own.
        scope: goes into its connections' names.
        serial: gives the next number for a connection's name.
        connect_timeout, timeout: seconds.
        fleet: of this host; empty: none.
    """

    def __init__(
        self, tag: str, scope: str, serial: Iterable[int], connect_timeout: float, timeout: float, fleet: str = ""
    ) -> None:
        self._fleet = fleet
        self._table = Table(fleet)
        self._tag = tag
        self._scope = scope
        self._serial = iter(serial)
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self.kept: Admin | None = None
        self.unclosed: deque[str] = deque()
        """Names of own connections whose end is not proven, until the session takes them: each still needs its permit,
        whether or not the findings are awaited."""
        self._lists = Lists()

    def inspect(self, work: Work) -> Findings:
        """Do the work; errors are in the findings. The caller holds a permit for one connection."""
        found = Findings()
        try:
            self._inspect(work, found)
            if self._lists.rows is not None:
                found.shown = summed(self._lists.rows)
        finally:
            self._lists.rows = None
        return found

    def _inspect(self, work: Work, found: Findings) -> None:
        stalled = self.stalled
        if stalled and self.kept is not None and not self.kept.answers():
            found.error = "unreachable", "no answer in time"
            return
        try:
            if stalled or work.fresh or self.kept is None:
                self._afresh(work, found)
            else:
                self._ask(work, found, work.targets)
        except AdminError as error:
            found.error = error.kind, str(error)
            found.at = time.monotonic() if error.kind == "refused" else found.at
            found.deserted = error.deserted
            if not self.stalled:
                self.drop()

    @property
    def stalled(self) -> bool:
        """The kept connection has not answered, and is waited for."""
        return self.kept is not None and self.kept.stalled

    def drop(self) -> bool:
        """Close the kept connection (rule M3). False: its end is not proven, and its permit must not be used again."""
        admin, self.kept = self.kept, None
        if admin is None or admin.close():
            return True
        self.unclosed.append(admin.name)
        return False

    def _afresh(self, work: Work, found: Findings) -> None:
        """Ask by every key. A connection missing from one key's list is in another's. The list must be asked for after
        all of them have answered, so that no client is left in a queue."""
        gone: frozenset[str] | None = None
        forbidden: dict[str, str] | None = None
        failed: AdminError | None = None
        broken = late = False
        for ways in work.endpoints:
            if not self.drop():
                return
            try:
                self._open(ways, found, work)
            except AdminError as error:
                if error.kind == "refused" or len(work.endpoints) == 1:
                    raise
                if error.kind == "auth":
                    found.shut_out.add(ways[0].key)
                    late = late or gone is not None
                # Without a listener there is no queue. Without an answer there may be one.
                error.deserted = error.deserted and (failed is None or failed.deserted)
                if failed is None or failed.kind != "auth":
                    failed = error
                broken = True
                found.silent = found.silent or found.tried[-1].silent or error.kind == "way"
                continue
            found.gone, found.forbidden, broken = frozenset(), {}, False
            assert self.kept is not None
            if self.kept.busy:  # it has no name there, so it is not kept either
                found.busy = self.kept.busy
                self.drop()
                return
            before, found.info = found.info, {}
            self._ask(work, found, work.targets)
            self._who(ways[0].key, found)
            found.info = before | found.info
            here = found.forbidden
            found.tried[-1].asked, found.tried[-1].forbidden = questions(work), frozenset(here)
            forbidden = here if forbidden is None else {what: forbidden[what] for what in forbidden if what in here}
            if "CLIENT LIST" in here:
                found.shut_out.add(ways[0].key)
                late = late or gone is not None
            else:
                gone = found.gone if gone is None else gone & found.gone
        if found.silent or late:
            self._lists.forget_anchors()  # a client may yet come out of a queue
        if forbidden is None:
            raise failed or AdminError("unreachable", "no endpoint is known")
        found.forbidden = forbidden
        found.gone = frozenset() if found.silent or late or gone is None else gone
        found.fresh = not found.silent and not late
        if broken:
            self.drop()

    def _open(self, ways: Sequence[Endpoint], found: Findings, work: Work) -> None:
        """Open the first way that the server accepts: of several with one address, some may have wrong passwords or
        files."""
        worst: AdminError | None = None
        for endpoint in ways:
            name = f"{self._tag}-{next(self._serial)}"
            at = work.places.get(endpoint.key, ())
            admin = Admin(
                endpoint, name, self._connect_timeout, self._timeout, at, self._scope, work.lease,
                describes=bool(self._fleet),
            )  # fmt: skip
            self.kept = admin
            try:
                admin.open()
            except AdminError as error:
                found.address = admin.address
                unheard = self.stalled or "no answer" in str(error)
                tried = Tried(endpoint, error.kind, str(error), silent=unheard, unconnected=not admin.dialled)
                found.tried.append(tried)
                if error.kind == "auth":
                    self._answered(found)
                if worst is None or worst.kind != "auth":
                    worst = error
                others = endpoint is not ways[-1] and error.kind != "refused" and admin.reached
                if others and self.drop():
                    continue
                raise worst from None
            self._lists.opened(admin)
            found.tried.append(Tried(endpoint))
            self._answered(found)
            found.server_pid = admin.server_pid
            found.address = admin.address
            return
        raise AdminError("unreachable", "no endpoint is known")

    def _ask(self, work: Work, found: Findings, targets: frozenset[str]) -> None:
        if self.kept is not None and self.kept.mute:
            found.forbidden.update(dict.fromkeys(sorted(questions(work)), self.kept.mute))
            self._answered(found)
            return
        if work.renewal is not None and found.asked is None:
            self._renew(work, work.renewal, found)
        if work.leaving is not None:
            self._leave(*work.leaving)
        if work.facts:
            self._facts(found)
        assert self.kept is not None
        if targets or (work.listing and work.fresh):
            self._lists.prove(self.kept, work, found, targets)
        elif work.listing:
            self._lists.rows = self._lists.ask(self.kept, found)
        self._answered(found)

    @staticmethod
    def _answered(found: Findings) -> None:
        found.answered, found.at = True, time.monotonic()

    def _who(self, key: str, found: Findings) -> None:
        """Ask which server this address leads to now."""
        assert self.kept is not None
        info = found.info or self.kept.about
        if not info and not self.kept.mute and "INFO" not in found.forbidden:
            (reply,) = self.kept.pipeline(("INFO", "server"))
            info = fields(reply) if isinstance(reply, bytes) else {}
        if info.get("run_id"):
            found.said[key] = info["run_id"]
            found.started[key] = max(0, (_number(info.get("uptime_in_seconds", "")) or 0) - 1)

    # ---- the fleet's table ------------------------------------------------------------------------

    def _renew(self, work: Work, renewal: Renewal, found: Findings) -> None:
        """Renew this host's lease, and do what it is asked to do for all."""
        assert self.kept is not None
        asked = found.asked = Asked(renewal.seq)
        try:
            asked.answer = self._table.renew(self.kept, renewal)
            asked.seconds = self.kept.took
            self._answered(found)
            if work.fencing and isinstance(asked.answer, Renewed) and asked.answer.duty:
                asked.done = fencing.perform(
                    self._table,
                    script.mark(self._fleet),
                    self.kept,
                    lambda: self._another(work, found, renewal.name),
                    lambda ids: self._listed(found, ids),
                    work.fencing,
                    work.handshake,
                )
        except TableError as error:
            if asked.answer is None:
                asked.error, asked.passing = str(error), error.passing
            elif asked.done is None:
                asked.done = fencing.Done(error=str(error))

    def _another(self, work: Work, found: Findings, lease: str) -> Admin | None:
        """A fresh connection to the same address, with the kept one's permit; None: that one's end is not proven."""
        assert self.kept is not None
        endpoint = self.kept.endpoint
        if not self.drop():
            return None
        self._open((endpoint,), found, msgspec.structs.replace(work, lease=lease))
        return self.kept

    def _listed(self, found: Findings, ids: Collection[int]) -> list[Row] | None:
        assert self.kept is not None
        return self._lists.ask(self.kept, found, ids)

    def _leave(self, table: str, name: str) -> None:
        assert self.kept is not None
        with contextlib.suppress(TableError):
            self._table.leave(self.kept, table, name)

    # ---- facts ------------------------------------------------------------------------------------

    def _facts(self, found: Findings) -> None:
        assert self.kept is not None
        replies = self.kept.pipeline(
            ("INFO", "server"), ("INFO", "clients"), ("INFO", "stats"), ("INFO", "replication"), ("PING",)
        )
        for reply in replies[:-1]:
            if isinstance(reply, bytes):
                found.info.update(fields(reply))
            elif isinstance(reply, ReplyError):
                refused(found, "INFO", reply)
        if isinstance(replies[-1], ReplyError) and replies[-1].passing:  # PING is there to hear that
            found.busy = str(replies[-1])
        if "maxclients" in found.info:
            found.maxclients = _number(found.info["maxclients"])
        else:
            found.maxclients = self._configured(found)

    def _configured(self, found: Findings) -> int | None:
        assert self.kept is not None
        try:
            reply = self.kept.call("CONFIG", "GET", "maxclients")
        except ReplyError as error:
            refused(found, "CONFIG", error)
            return None
        return _number(reply[1].decode()) if isinstance(reply, list) and len(reply) == 2 else None


def questions(work: Work) -> frozenset[str]:
    """The commands that the work needs."""
    facts = {"INFO", "CONFIG"} if work.facts else set()
    return frozenset(facts | ({"CLIENT LIST", "CLIENT KILL"} if work.targets or work.listing else set()))


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
