"""One host's lease at one server: what it may hold, what it asks for, and what an answer means.

Pure: events bring their time, and :meth:`Lease.request` says what is to be sent. The host's own rules keep
``outstanding <= word``, and this module keeps ``word <= grant`` in the table, whose grants fit the fleet's budget (F1):

==================  =============================================================================== ==========
``answered``        the word rises, to what the answer to the newest request grants                 F3
``settle``          the word falls, once the host holds no more; it is saved before it is said      F2
``_over``           the name is over: the host has nothing, and joins under another one             F7
==================  =============================================================================== ==========

A word that is larger than what the host says would be free for others while it is held here; a smaller one costs
permits until the next renewal. So whatever is not known (an answer that did not come, a successor's start) leaves
the larger.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from poolmgr.fleet.script import Refused, Renewal, Renewed

UNKNOWN = "?"
"""A table that no server has: the answer to a request that speaks of it is the number of the one that is there."""

LINKS = 1_000_000_000
"""Requests that one supervisor can number: its own number stands before them, in multiples of this."""

LEARNING, GROWN, BUSY, QUIET = 0.05, 0.1, 0.2, 0.5
"""Parts of the lease after which it is renewed: while the table is new; after it has got more, and then twice as long
each time; while something changes; while nothing does."""

JITTER = 0.15
"""Part of an interval by which it is drawn shorter or longer."""

HERD = 0.2
"""Seconds over which the first requests of a thousand new hosts are spread."""

SOON = 0.12
"""Seconds after which a host that did not get what it needs asks again; twice as many each time, up to a busy interval.
Thousands of short hosts would keep the server busy else."""

GIVEN_UP = 2
"""Answers "old" in a row that mean: another host, a clone of this one, uses the name."""


class SavedLease(msgspec.Struct, frozen=True, omit_defaults=True):
    """A lease in the snapshot.

    Attributes:
        link: how many supervisors have had it.
        until: the end that it was last told, in the server's milliseconds.
        clearing: what is held beyond the word is an earlier lease's.
    """

    name: str = ""
    table: str = ""
    link: int = 0
    word: int = 0
    until: int = 0
    clearing: bool = False


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How this host takes part, by its settings.

    Attributes:
        lease: seconds that a lease lasts.
        floor: connections that a host with demand gets before others get more.
        host: for people. One word.
        unproven: seconds after which a marked lease is free although no host may list clients; None: never.
    """

    lease: float = 10.0
    floor: int = 1
    host: str = "-"
    unproven: float | None = None


class Lease:
    """See the module's docstring. Times are monotonic seconds of this host, and decide only when it asks.

    Args:
        name: makes a random name (:data:`poolmgr.fleet.script.NAME`).
        saved: what the predecessor left. A raise is in the snapshot together with the lease that allows it.
        held: what the ledger counts now (``outstanding``), after its recovery. More than the saved word is this
            lease's too, unless the predecessor was clearing: then nothing was handed out beyond its word.

    Attributes:
        name: the lease's; empty: none yet. table: the number of the table that gave it what it has. Members put both
            into the handshake of a new connection (:mod:`poolmgr.fleet.gate`).
        word: connections that this host may hold; what the next request says.
        limit: what the ledger may hand out now: less than the word while the word is to fall.
        target: its fair part, as last heard. wanted: others need what is beyond.
        end: when the gate shuts, in milliseconds of the server's clock, as the last good answer said.
        blocked: the gate was found shut, or the table learns: no member should try to open a connection before the next
            good answer.
        clearing: what it holds of an earlier name is still counted in what it holds (:meth:`settle`).
        fenced: how many names of this host are over.
        unsaved: the snapshot lacks something that must be in it before the next request.
    """

    def __init__(
        self,
        terms: Terms,
        name: Callable[[], str],
        rng: random.Random,
        *,
        saved: SavedLease | None = None,
        held: int = 0,
        now: float = 0.0,
    ) -> None:
        saved = saved or SavedLease()
        self.terms = terms
        self._make_name = name
        self._rng = rng
        self._link = saved.link + 1
        self._count = 0
        self.name = saved.name
        self.table = saved.table
        self._speaks = saved.table
        self.end = saved.until
        self.clearing = saved.clearing or not saved.name
        self.word = self.limit = saved.word if self.clearing else max(saved.word, held)
        self.target = self.word
        self.wanted = False
        self.answer: Renewed | None = None
        """The last good one."""
        self.blocked = False
        self.fenced = 0
        self.unsaved = True  # the link: two supervisors must not number their requests alike
        self._joining = ""
        self._newest = 0
        """Number of the request that is under way; 0: none."""
        self._old = 0
        self._unnumbered = bool(saved.name) and not saved.link
        """Only members know the name: how far its requests were numbered, the table has to say."""
        self._due = now if saved.name else now + rng.uniform(0.0, HERD)
        self._soon = -1e9
        self._short = 0
        """Requests in a row that did not bring what was needed."""
        self._calm = 0
        """Answers in a row that brought no more."""

    # ---- what is sent -----------------------------------------------------------------------------

    @property
    def under_way(self) -> bool:
        """A request was sent and is neither answered nor given up."""
        return self._newest > 0

    def saved(self) -> SavedLease:
        """What belongs into the snapshot now."""
        return SavedLease(self.name, self.table, self._link, self.word, self.end, self.clearing)

    def on_disk(self, saved: SavedLease) -> None:
        """The snapshot has this now."""
        self.unsaved = self.unsaved and saved != self.saved()

    def due(self, demand: int) -> float:
        """When the next request is due: at once if the host needs more than it has, and then after :data:`SOON`."""
        if demand > self.word:
            return min(self._due, self._soon)
        return self._due

    def request(
        self, run: str, demand: int, budget: int, slack: int, now: float, *, able: bool = True
    ) -> Renewal | None:
        """The request to be sent now; None: not yet.

        Args:
            run: the server process that will get it.
            demand: connections that this host could use.
            budget, slack: the fleet's, by this host's settings.
            able: the host may list and kill clients.
        """
        if self.under_way or self.unsaved or now < self.due(demand):
            return None
        self._count += 1
        self._newest = self._link * LINKS + self._count
        if not self.name:
            self._joining = self._make_name()  # F3: a join that was not answered is repeated under another name
        wait = min(SOON * 2**self._short, self.terms.lease * BUSY)
        self._soon = now + wait * self._rng.uniform(1 - JITTER, 1 + JITTER)
        self._short = min(self._short + 1, 16) if demand > self.word else 0
        return Renewal(
            run=run,
            table=(self._speaks or UNKNOWN) if self.name else "",
            name=self.name or self._joining,
            seq=self._newest,
            word=self.word,
            demand=demand,
            floor=self.terms.floor,
            budget=budget,
            slack=slack,
            lease=round(self.terms.lease * 1000),
            until=self.end,
            able=able,
            host=self.terms.host,
            unproven=round((self.terms.unproven or 0.0) * 1000),
        )

    # ---- what comes back --------------------------------------------------------------------------

    def answered(self, seq: int, answer: Renewed | Refused, now: float) -> None:
        """An answer has come. One to an earlier request, or to one that was given up, is ignored (F3)."""
        if seq != self._newest:
            return
        self._newest = 0
        if isinstance(answer, Renewed):
            self._renewed(answer, now)
        elif answer.why == "fenced":
            self._over(now)
        elif answer.why == "old" and self._unnumbered:
            self._unnumbered = False
            self._link, self._count = answer.last // LINKS + 1, 0
            self.unsaved = True
            self._due = now
        elif answer.why == "old":
            self._old += 1
            self._due = now
            if self._old >= GIVEN_UP:
                self._over(now)
        else:
            self._claim(answer.table, now)

    def shut(self, now: float) -> None:
        """A new connection of this name found its gate shut (F5): the table has to be asked why."""
        if not self.blocked:
            self.blocked = True
            self._due = now

    def hurry(self, now: float) -> None:
        """The next request is due now: a member asks whether the lease stands, or permits may have become free."""
        self._due = min(self._due, now)

    def failed(self, now: float) -> None:
        """The request under way was not answered, and will not be waited for. It may still be executed."""
        self._newest = 0
        self._joining = ""
        self._due = now + self._interval(BUSY) / 2

    def _renewed(self, answer: Renewed, now: float) -> None:
        if not self.name:
            self.name, self._joining = self._joining, ""
            self.unsaved = True
        if answer.table != self.table:
            self.table = self._speaks = answer.table
            self.unsaved = True
        self._old = 0
        self._calm = min(self._calm + 1, 16)
        if answer.grant > self.word:
            self._short = self._calm = 0
        self.answer = answer
        self.end = answer.end
        self.word = answer.grant
        self.target, self.wanted = answer.target, answer.wanted
        self.limit = min(self.word, self.target) if self.wanted else self.word
        self.blocked = answer.learning
        busy = self.wanted or answer.grant < answer.target
        # Others may have come together with a host that grows, and be short: what they can get is beyond its part.
        calm = min(QUIET, GROWN * 2**self._calm)
        self._due = now + self._interval(LEARNING if answer.learning else min(BUSY, calm) if busy else calm)

    def _claim(self, table: str, now: float) -> None:
        """Another table is there: the next request speaks of it, with the same name and word (F8)."""
        self._due = now
        if self.name:
            self._speaks = table

    def _over(self, now: float) -> None:
        """F7: nothing of that name may be used. What is open under it is closed, or killed by others."""
        self.fenced += 1
        self.name = self.table = self._speaks = ""
        self._joining = ""
        self.word = self.limit = self.target = self.end = 0
        self.wanted = self.blocked = False
        self.answer = None
        self._old = 0
        self.clearing = True
        self.unsaved = True
        self._due = now

    def _interval(self, part: float) -> float:
        return self.terms.lease * part * self._rng.uniform(1 - JITTER, 1 + JITTER)

    # ---- what the host holds ----------------------------------------------------------------------

    def give_back(self, down_to: int, now: float) -> None:
        """This host does not need more than that. What it has told members beyond must come back first."""
        if self.name and down_to < self.limit:
            self.limit = max(0, down_to)

    def settle(self, outstanding: int, now: float) -> None:
        """The ledger counts that many permits as held or handed out. Once that is within the limit, the word falls to
        it (F2). The word never says less than what is held; a ledger can only come to hold more than its word when a
        snapshot is lost, and then the truth is said.

        What is left of an earlier name is not this lease's: it is charged under that name until it is proven gone. It
        is over once all that is held fits the word, since the ledger hands out nothing before.
        """
        if not self.name:
            return
        if self.clearing:
            if outstanding > self.word:
                return
            self.clearing = False
        word = max(outstanding, self.limit)
        if word < self.word:
            self._due = now  # others may be waiting for it
        if word != self.word:
            self.word = word
            self.unsaved = True
