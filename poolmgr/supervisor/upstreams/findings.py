"""An inspection's task and its findings: plain data between the event loop and a worker thread."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from poolmgr.fleet.script import Refused, Renewal, Renewed
from poolmgr.supervisor.upstreams.summary import Summary
from poolmgr.wire import Endpoint

if TYPE_CHECKING:
    from poolmgr.supervisor.fleet.fencing import Done
    from poolmgr.supervisor.upstreams.admin import Place


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        endpoints: every way to the server; for each one or more credentials, likeliest first.
        targets: tags and names whose connections are to be killed and proven gone.
        spare: the targets that must not be killed.
        fresh: open a new connection by every endpoint first.
        facts: ask for limits and counts.
        listing: return the whole list; with ``fresh`` one in which every connection has its name, if possible.
        handshake: see :func:`poolmgr.supervisor.upstreams.proof.judge`.
        paid: seconds of the server's time that lists may take (:mod:`poolmgr.supervisor.upstreams.throttle`); each
        way's
            first list is made in any case.
        places: where the endpoints' names lead, by key; missing ones are looked up.
        lease: the lease of a fleet that a new connection's name bears; empty: none.
        renewal: what to ask the fleet's table first. fencing: seconds that a lease lasts, if the table may then have
            this host list for all; 0: not now.
        leaving: the table's number and the lease that ends, before the connection is closed.
    """

    endpoints: tuple[tuple[Endpoint, ...], ...]
    targets: frozenset[str] = frozenset()
    spare: frozenset[str] = frozenset()
    fresh: bool = False
    facts: bool = False
    listing: bool = False
    handshake: float = 7.0
    paid: float = math.inf
    places: dict[str, tuple[Place, ...]] = msgspec.field(default_factory=dict)
    lease: str = ""
    renewal: Renewal | None = None
    fencing: float = 0.0
    leaving: tuple[str, str] | None = None


class Asked(msgspec.Struct):
    """What the fleet's table was asked, and answered.

    Attributes:
        seq: the request's number. answer: None: there was none.
        error: why not. passing: the server cannot answer just now.
        seconds: the round trip, and the server's time.
        done: what the host did for all.
    """

    seq: int
    answer: Renewed | Refused | None = None
    error: str = ""
    passing: bool = False
    seconds: float = 0.0
    done: Done | None = None


class Tried(msgspec.Struct):
    """The result of one way.

    Attributes:
        kind: of the error; empty: the server has accepted the connection.
        text: the error's words.
        silent: no answer came in time, so a client may be in a queue there.
        unconnected: the address took no connection, so no other way to it would do better.
        asked, forbidden: commands given by this way; those that the server does not allow.
    """

    endpoint: Endpoint
    kind: str = ""
    text: str = ""
    silent: bool = False
    unconnected: bool = False
    asked: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()


class Findings(msgspec.Struct):
    """The result.

    Attributes:
        answered: the server has said something; at: when it last did, in monotonic seconds.
        error: why not, or why not to the end: ``unreachable``, ``refused`` or ``auth``, and the text.
        fresh: a fresh connection was answered by every endpoint with a listener.
        silent: one of several endpoints did not answer in time, so nothing could be proven.
        deserted: none of the endpoints has a listener.
        info: fields of ``INFO``.
        maxclients: None if the server does not give it.
        shown: the list's summary; None if it was not asked for or not given.
        forbidden: what the server allows by none of the ways, by command, with its words.
        busy: the server's words for "not just now"; then nothing more was asked.
        gone: targets that are proven gone.
        suspects: unnamed connections that may still turn out to be ours; they kept targets from being proven.
        killed: how many leftovers were killed.
        server_pid: the server's process, over a Unix socket.
        address: the server's address and port, over TCP.
        tried: the result of each way that was tried.
        said: the run_id that each address gave on a fresh connection.
        started: seconds for which that server has been there, by the same keys.
        shut_out: keys by which the server answered and showed no list.
        lists: rows of each list, and the seconds that it took the server.
        asked: what a fleet's table answered; None: it was not asked.
    """

    answered: bool = False
    at: float = 0.0
    error: tuple[str, str] | None = None
    fresh: bool = False
    silent: bool = False
    deserted: bool = False
    info: dict[str, str] = msgspec.field(default_factory=dict)
    maxclients: int | None = None
    shown: Summary | None = None
    forbidden: dict[str, str] = msgspec.field(default_factory=dict)
    busy: str = ""
    gone: frozenset[str] = frozenset()
    suspects: int = 0
    killed: int = 0
    server_pid: int = 0
    address: tuple[str, int] | None = None
    tried: list[Tried] = msgspec.field(default_factory=list)
    said: dict[str, str] = msgspec.field(default_factory=dict)
    started: dict[str, int] = msgspec.field(default_factory=dict)
    shut_out: set[str] = msgspec.field(default_factory=set)
    lists: list[tuple[int, float]] = msgspec.field(default_factory=list)
    asked: Asked | None = None

    @property
    def run_id(self) -> str:
        return self.info.get("run_id", "")
