"""What is done at a server in one go, by a worker thread: ask, list, kill, prove.

:class:`Inspector` keeps at most one connection open between two goes (rule S5), and a *fresh* one for
a proof (rule S3) takes the kept one's place and permit: the kept one is closed first, to the server's
end-of-file. So a proof never needs a second permit, which would have to be recalled from a member
first, and it works at a budget that is used to the last permit.

This module blocks, so the event loop must never call it; and it must never touch the ledger: it is
given a :class:`Work` and returns :class:`Findings`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from poolmgr.supervisor.admin import Admin, AdminError, ReplyError
from poolmgr.supervisor.proof import Row, judge, parse
from poolmgr.wire import Endpoint

PAUSES = (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Seconds before each look at the list in one go; what is not proven then is tried again later."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done.

    Attributes:
        endpoints: every way to the server; for each one or more credentials, likeliest first.
        targets: tags and names whose connections are to be killed and proven gone.
        fresh: open a new connection by every endpoint first.
        facts: ask for limits and counts.
        listing: return the whole list; with ``fresh`` one in which every connection has its name, if that can be had.
        handshake: see :func:`poolmgr.supervisor.proof.judge`.
    """

    endpoints: tuple[tuple[Endpoint, ...], ...]
    targets: frozenset[str] = frozenset()
    fresh: bool = False
    facts: bool = False
    listing: bool = False
    handshake: float = 7.0


class Findings(msgspec.Struct):
    """What came out.

    Attributes:
        answered: the server has said something.
        error: why not, or why not to the end: ``unreachable``, ``refused`` or ``auth``, and the text.
        fresh: a fresh connection was answered by every endpoint that anybody listens on.
        silent: by one of several endpoints nobody answered in time, so nothing could be proven.
        deserted: by none of the endpoints does anybody listen.
        info: fields of ``INFO``.
        maxclients: None where it is not said.
        rows: the list; None if it was not asked for or not given.
        forbidden: what the server does not let us do, by command, with its words.
        busy: by what words it said that it cannot just now; then nothing more was asked.
        gone: targets that are proven gone.
        suspects: unnamed connections that may still turn out to be ours; they kept targets from being proven.
        killed: how many leftovers were killed.
        server_pid: the server's process, over a Unix socket.
        address: the server's address and port, over TCP.
    """

    answered: bool = False
    error: tuple[str, str] | None = None
    fresh: bool = False
    silent: bool = False
    deserted: bool = False
    info: dict[str, str] = msgspec.field(default_factory=dict)
    maxclients: int | None = None
    rows: list[Row] | None = None
    forbidden: dict[str, str] = msgspec.field(default_factory=dict)
    busy: str = ""
    gone: frozenset[str] = frozenset()
    suspects: int = 0
    killed: int = 0
    server_pid: int = 0
    address: tuple[str, int] | None = None

    @property
    def run_id(self) -> str:
        return self.info.get("run_id", "")


class Inspector:
    """Does :class:`Work` at one server. Called by one thread at a time.

    Args:
        tag: the supervisor's own.
        serial: gives the next number for a connection's name.
        connect_timeout, timeout: seconds.
    """

    def __init__(self, tag: str, serial: Iterable[int], connect_timeout: float, timeout: float) -> None:
        self._tag = tag
        self._serial = iter(serial)
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self.kept: Admin | None = None
        self.unclosed: deque[str] = deque()
        """Names of own connections whose end is not proven, until somebody has taken them: each still needs its permit,
        whether anybody waits for the findings or not."""
        self._anchors: dict[tuple[str, str], int] = {}
        """By way and target: the number of the first fresh connection that was answered after the target's end."""

    def inspect(self, work: Work) -> Findings:
        """Do it; errors are in the findings. The caller holds a permit for one connection."""
        found = Findings()
        stalled = self.stalled
        if stalled and self.kept is not None and not self.kept.answers():
            found.error = "unreachable", "no answer in time"
            return found
        try:
            if stalled or work.fresh or self.kept is None:
                self._afresh(work, found)
            else:
                self._ask(work, found, work.targets)
        except AdminError as error:
            found.error = error.kind, str(error)
            found.deserted = error.deserted
            if not self.stalled:
                self.drop()
        return found

    @property
    def stalled(self) -> bool:
        """What is kept has not answered, and is waited for."""
        return self.kept is not None and self.kept.stalled

    def drop(self) -> bool:
        """Close what is kept (rule M3). False: its end is not proven, and its permit is not to be used again."""
        admin, self.kept = self.kept, None
        if admin is None or admin.close():
            return True
        self.unclosed.append(admin.name)
        return False

    def _afresh(self, work: Work, found: Findings) -> None:
        gone: frozenset[str] | None = None
        failed: AdminError | None = None
        broken = False
        for ways in work.endpoints:
            if not self.drop():
                return
            try:
                self._open(ways, found)
            except AdminError as error:
                if error.kind != "unreachable" or len(work.endpoints) == 1:
                    raise
                # Where nobody listens, nobody can be in the queue. Where nobody answers, somebody can.
                error.deserted = error.deserted and (failed is None or failed.deserted)
                failed, broken = error, True
                found.silent = found.silent or self.stalled or "no answer" in str(error)
                continue
            found.gone, broken = frozenset(), False
            assert self.kept is not None
            if self.kept.busy:  # it has no name there, so it is not kept either
                found.busy = self.kept.busy
                self.drop()
                return
            self._ask(work, found, work.targets)
            gone = found.gone if gone is None else gone & found.gone
        if gone is None:
            raise failed or AdminError("unreachable", "no endpoint is known")
        found.gone = frozenset() if found.silent else gone
        found.fresh = not found.silent
        if broken:
            self.drop()

    def _open(self, ways: Sequence[Endpoint], found: Findings) -> None:
        """The first credentials that are taken."""
        for endpoint in ways:
            admin = Admin(endpoint, f"{self._tag}-{next(self._serial)}", self._connect_timeout, self._timeout)
            self.kept = admin
            try:
                admin.open()
            except AdminError as error:
                found.address = admin.address
                if error.kind == "auth":
                    found.answered = True
                    if endpoint is not ways[-1] and self.drop():
                        continue
                raise
            found.answered = True
            found.server_pid = admin.server_pid
            found.address = admin.address
            return
        raise AdminError("unreachable", "no endpoint is known")

    def _ask(self, work: Work, found: Findings, targets: frozenset[str]) -> None:
        if work.facts:
            self._facts(found)
        if targets or (work.listing and work.fresh):
            self._prove(work, found, targets)
        elif work.listing:
            found.rows = self._list(found)
        found.answered = True

    # ---- facts ------------------------------------------------------------------------------------

    def _facts(self, found: Findings) -> None:
        assert self.kept is not None
        replies = self.kept.pipeline(
            ("INFO", "server"), ("INFO", "clients"), ("INFO", "stats"), ("INFO", "replication"), ("PING",)
        )
        for reply in replies:
            if isinstance(reply, bytes):
                found.info.update(_fields(reply))
            elif isinstance(reply, ReplyError):
                self._no("INFO", reply, found)
        if "maxclients" in found.info:
            found.maxclients = _number(found.info["maxclients"])
        else:
            found.maxclients = self._configured(found)

    def _configured(self, found: Findings) -> int | None:
        assert self.kept is not None
        try:
            reply = self.kept.call("CONFIG", "GET", "maxclients")
        except ReplyError as error:
            self._no("CONFIG", error, found)
            return None
        return _number(reply[1].decode()) if isinstance(reply, list) and len(reply) == 2 else None

    # ---- lists and proof --------------------------------------------------------------------------

    def _list(self, found: Findings) -> list[Row] | None:
        assert self.kept is not None
        try:
            reply = self.kept.call("CLIENT", "LIST")
        except ReplyError as error:
            self._no("CLIENT LIST", error, found)
            return None
        return parse(reply) if isinstance(reply, bytes) else None

    def _prove(self, work: Work, found: Findings, targets: frozenset[str]) -> None:
        assert self.kept is not None
        anchors = self._anchored(targets)
        for pause in PAUSES:
            if pause:
                time.sleep(pause)
            rows = self._list(found)
            if rows is None:
                return
            found.rows = rows
            host = next((row.host for row in rows if row.id == self.kept.id), None)
            verdict = judge(rows, targets, fresh=self.kept.id, host=host, handshake=work.handshake, anchors=anchors)
            found.gone, found.suspects = verdict.gone, len(verdict.suspects)
            if verdict.leftovers:
                self._kill(verdict.leftovers, found)
            elif not verdict.suspects:
                return

    def _anchored(self, targets: frozenset[str]) -> dict[str, int]:
        """The anchors of these, by the way that was just opened. A lower number is another server's, or the same one's
        after a restart: then nothing that is older than that is there."""
        assert self.kept is not None
        way, fresh = self.kept.endpoint.key, self.kept.id
        self._anchors = {
            (key, target): number
            for (key, target), number in self._anchors.items()
            if target in targets and (key != way or number <= fresh)
        }
        return {target: self._anchors.setdefault((way, target), fresh) for target in targets} if fresh else {}

    def _kill(self, ids: Iterable[int], found: Findings) -> None:
        assert self.kept is not None
        for reply in self.kept.pipeline(*(("CLIENT", "KILL", "ID", number) for number in ids)):
            if isinstance(reply, ReplyError):
                self._no("CLIENT KILL", reply, found)
            else:
                found.killed += reply if isinstance(reply, int) else 1

    @staticmethod
    def _no(command: str, error: ReplyError, found: Findings) -> None:
        """What an error says: not now, or never."""
        if error.passing:
            found.busy = str(error)
        else:
            found.forbidden[command] = str(error)


def _fields(text: bytes) -> dict[str, str]:
    lines = text.decode("utf-8", "replace").splitlines()
    return {key: value for key, mark, value in (line.partition(":") for line in lines) if mark}


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
