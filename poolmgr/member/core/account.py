"""One process's permits at one server: rules M1, M2 and M4 as arithmetic over its sockets.

Pure, and small on purpose: every rule is one named method, so that a test can switch it off and watch
the simulation find the violation. It must never know of links' lives, messages or pools' wishes;
:mod:`poolmgr.member.core.process` and :mod:`poolmgr.member.core.dispatcher` do.

A socket is in one of these states. There is no "open" set besides them: a socket in a dictionary is
charged, any other is not (identity, not counts; a repeated or late event finds nothing to do).

=========  ===============================================  ========  ================================
state      what is true of the socket                       counted   how it is left
=========  ===============================================  ========  ================================
live       from before ``connect()``: connecting, idle,     yes       ``closing``: handed over to be
           in use                                                     closed; ``gone``: connect failed
closing    the write side is shut; the server has not yet   yes       ``gone``: end-of-file has come;
           confirmed (rule M3)                                        ``lost``: it did not come in time
lost       closed here; whether the server still counts it  yes       ``gone``: the supervisor has
           is unknown                                                 proven its end
=========  ===============================================  ========  ================================
"""

from __future__ import annotations

from typing import Generic, TypeVar

from poolmgr.wire import Gate

Owner = TypeVar("Owner")
"""The owner of a permit: its pool's place here."""


class Account(Generic[Owner]):
    """Limit and sockets of this process at one server.

    Attributes:
        server: its id, as the supervisor resolved it; empty while unknown.
        limit: permits the supervisor has granted (the last number heard, on whatever link).
        seq: newest sequence heard on the present link; 0: none, so nothing may be opened (M4).
        acked: newest sequence at which ``open <= limit`` held and was reported, on the present link.
        high: largest limit received or stated and not yet superseded by an acknowledged smaller one: what
            the supervisor charges, seen from here.
        room: sockets that the process's limit of open files allows here, beside those at other servers; None:
            no fewer than the limit. Limits and acknowledgements do not depend on it.
        gate: what a new connection has to ask in a fleet, as the newest limit said; None: nothing.
        shut: that gate was found shut, there is none yet, or it is in doubt: nothing may be opened before another
            limit comes (F5).
        sure_until: when the lease may first have ended (monotonic seconds).
        asked_at: when the supervisor was asked whether it stands; 0: it was not, or has answered.
        leases: the lease that each socket's name bears, by serial; only in a fleet.
    """

    __slots__ = (
        "acked", "asked_at", "closing", "gate", "high", "leases", "limit", "live", "lost", "promised", "promised_at",
        "room", "seq", "server", "shut", "sure_until"
    )  # fmt: skip

    def __init__(self, server: str = "") -> None:
        self.server = server
        self.limit = 0
        self.seq = 0
        self.acked = 0
        self.high = 0
        self.live: dict[int, Owner] = {}
        self.closing: dict[int, Owner] = {}
        self.lost: dict[int, Owner] = {}
        self.promised = 0
        """Callers that :meth:`give_up` had close, whose sockets have not arrived in ``closing`` yet."""
        self.promised_at = 0.0
        self.room: int | None = None
        self.gate: Gate | None = None
        self.shut = False
        self.sure_until = 0.0
        self.asked_at = 0.0
        self.leases: dict[int, str] = {}

    # ---- M1 --------------------------------------------------------------------------------------

    def _counts_as_open(self) -> int:
        """Rule M1: connecting, idle, in use, closing; and lost, until their end is proven (M3)."""
        return len(self.live) + len(self.closing) + len(self.lost)

    def _may_open(self) -> bool:
        """Rule M1: strictly below the limit, and (M4) only once this link has delivered a number. Rule F5: not while
        the gate is known to be shut."""
        return self._answered() and not self.shut and self._counts_as_open() < self.limit

    def _has_room(self) -> bool:
        """Not a rule of the budget: whether there is a descriptor for one more."""
        return self.room is None or self._counts_as_open() < self.room

    @property
    def open(self) -> int:
        return self._counts_as_open()

    @property
    def available(self) -> int:
        """Sockets that may be opened now."""
        return self.allowed - self._counts_as_open() if self._may_open() and self._has_room() else 0

    @property
    def allowed(self) -> int:
        """Sockets that may exist: the limit, or the room that descriptors leave if that is less."""
        return self.limit if self.room is None else min(self.limit, self.room)

    def take(self, serial: int, owner: Owner) -> bool:
        """Charge one socket about to be opened, if the rules let it."""
        if not (self._may_open() and self._has_room()):
            return False
        self.live[serial] = owner
        return True

    # ---- M3 --------------------------------------------------------------------------------------

    def start_closing(self, serial: int) -> bool:
        owner = self.live.pop(serial, None)
        if owner is None:
            return False
        self.closing[serial] = owner
        self.promised = max(0, self.promised - 1)
        return True

    def give_up_waiting(self, serial: int) -> bool:
        """Rule M3: no confirmation came in time. The socket is lost, and still counted."""
        owner = self.closing.pop(serial, None) or self.live.pop(serial, None)
        if owner is None:
            return False
        self.lost[serial] = owner
        return True

    def ended(self, serial: int) -> bool:
        """A socket's end is certain: never connected, end-of-file read, or proven."""
        self.leases.pop(serial, None)
        if self.live.pop(serial, None) is not None:
            self.promised = max(0, self.promised - 1)
            return True
        return self.closing.pop(serial, None) is not None or self.lost.pop(serial, None) is not None

    def proven(self, serial: int) -> bool:
        """The supervisor's proof counts for lost sockets only; it cannot know of any other."""
        self.leases.pop(serial, None)
        return self.lost.pop(serial, None) is not None

    # ---- F5 --------------------------------------------------------------------------------------

    def named(self, serial: int, lease: str) -> None:
        """The name of this socket's connection bears that lease."""
        self.leases[serial] = lease

    def shut_out(self, gate: Gate, now: float) -> bool:
        """Rule F5: a connection found this gate shut. False: another gate holds by now, or that is known."""
        if self.shut or gate is not self.gate:
            return False
        self.shut, self.asked_at = True, now
        return True

    def let_in(self, gate: Gate, until: float) -> None:
        """A connection found this gate open: the lease stands until then."""
        known = self.gate
        if known is not None and (gate.lease, gate.table) == (known.lease, known.table):
            self.sure_until = max(self.sure_until, until)

    def in_doubt(self, now: float) -> bool:
        """Whether others may have proven this host gone since it last heard of its lease: it was stopped, say. All its
        callers would then open connections that only the gate closes, and that nobody granted."""
        return self.gate is not None and not self.shut and now >= self.sure_until

    def leases_of_open(self) -> tuple[str, ...]:
        """The leases that open sockets bear; empty text: none."""
        found = {self.leases.get(serial, "") for states in (self.live, self.closing, self.lost) for serial in states}
        return tuple(sorted(found))

    # ---- M2 --------------------------------------------------------------------------------------

    @property
    def surplus(self) -> int:
        """Live sockets to ask for: above what is allowed, not counting those on their way out again.

        Without a number on this link there is no surplus: the process keeps what it has.
        """
        if not self._answered():
            return 0
        return max(0, min(len(self.live), len(self.live) + len(self.lost) - self.allowed) - self.promised)

    def give_up(self, now: float) -> bool:
        """Whether the releasing caller must close. Counted at once."""
        if self.surplus <= 0:
            return False
        self.promised += 1
        self.promised_at = now
        return True

    def told(self, seq: int, limit: int, gate: Gate | None = None) -> bool:
        """A numbered limit on the present link. False: an older or repeated one, ignored."""
        if seq <= self.seq:
            return False
        self.seq = seq
        self.gate, self.shut = gate, gate is not None and not gate.table
        if gate is not None and self.asked_at and not self.shut:
            self.sure_until, self.asked_at = max(self.sure_until, self.asked_at + gate.sure), 0.0
        self.limit = limit
        self.high = max(self.high, limit)
        return True

    def _obeyed(self) -> bool:
        """Rule M2: a sequence may be acknowledged only while ``open <= limit``."""
        return self._counts_as_open() <= self.limit

    def _ack_due(self) -> bool:
        """Rule M2: an acknowledgement now could free a charge."""
        return self.seq > self.acked and self.limit < self.high and self._obeyed()

    def ackable(self) -> int:
        """The sequence that a report may acknowledge now."""
        return self.seq if self._obeyed() else self.acked

    def acknowledged(self, seq: int) -> None:
        """A report with that acknowledgement is on its way."""
        if seq > self.acked:
            self.acked = seq
            self.high = self.limit

    # ---- M4 --------------------------------------------------------------------------------------

    def _answered(self) -> bool:
        """Rule M4: this link has delivered a number."""
        return self.seq > 0

    def _stated(self) -> int:
        """Rule M4: the holdings that a registration states."""
        return max(self.limit, self._counts_as_open())

    def forget_link(self) -> None:
        """Sequences and acknowledgements belong to a link, and that link has ended."""
        self.seq = 0
        self.acked = 0
        self.promised = 0
        self.asked_at = 0.0
        self.high = self._stated()
