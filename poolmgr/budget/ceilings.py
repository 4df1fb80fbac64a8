"""The effective budget of one server, and how it came about in words.

Pure: facts in, a number with its derivation out. :mod:`poolmgr.supervisor.upstreams.inspection` finds the facts;
the ledger acts on the number.

The operator's number is taken as it is, unless the server itself allows less. ``auto`` is what is left
of ``maxclients`` after a reserve for everyone else and after the clients that are not ours, divided
by the hosts that share the server, and at most what the members' file descriptors can carry.

The world changes while we run. The budget follows a falling number at once, and a growing one once the growth has
lasted, so that a foreign client that comes and goes does not make permits come and go. Growth of other clients never
takes connections that are open and used: only unused ones come back. A refusal (``max number of clients reached``) is
a fact about *now* that no arithmetic knew: it lowers the budget at once to what the server had let us have. That cap
holds until the server reports room, and then rises to that. If the server does not report it, the cap grows fourfold
each second.
"""

from __future__ import annotations

import msgspec

MINUS = "\N{MINUS SIGN}"

UNKNOWN_SERVER = 64
"""Budget of a server that does not report ``maxclients`` and for which the operator set none."""

SETTLE = 1.0
"""Seconds for which a budget must have been larger before it rises, to the least of that time."""

FACTOR = 4
"""A cap grows by this factor at a time if the server does not report what room it has."""

HERD = 1.0
"""Refusals within this many seconds are one event: all members meet it at once."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a server. None: not known.

    Attributes:
        operator: the operator's number; None for ``auto``.
        source: where the operator's number comes from, for people.
        maxclients: as the server says.
        reserve: the operator's reserve; None for the rule.
        others: clients of the server that are not ours, replicas and the cluster bus included.
        hosts: how many hosts share the server.
        supervisors: how many of ours on this host use it, this one included; theirs: what the others have open now.
        used: connections of ours that are open and used; they stay whatever others do.
        descriptors: connections that all members' file-descriptor limits together leave.
        remark: why something is not known, for people.
        lease: what this host may hold of a fleet's budget, which then divides the server instead of ``hosts`` and
            ``auto``; its words, for people.
    """

    operator: int | None = None
    source: str = "REDIS_CONNECTION_BUDGET"
    maxclients: int | None = None
    reserve: int | None = None
    others: int | None = None
    hosts: int = 1
    supervisors: int = 1
    theirs: int = 0
    used: int = 0
    descriptors: int | None = None
    remark: str = ""
    lease: int | None = None
    lease_words: str = "lease"


class Derivation(msgspec.Struct, frozen=True):
    """A budget and why.

    Attributes:
        parts: every bound looked at, (name, value, remark).
        alone: what it would be if the server had no other clients.
    """

    budget: int
    text: str
    parts: tuple[tuple[str, int | None, str], ...] = ()
    alone: int = 0


def reserve_of(maxclients: int, reserve: int | None) -> int:
    """What is left to everyone else: a tenth of ``maxclients``, at least 8, unless the operator sets it."""
    return max(8, maxclients // 10) if reserve is None else reserve


def derive(facts: Facts) -> Derivation:
    """The budget that the facts allow; at least 1, except in a fleet."""
    parts: list[tuple[str, int | None, str]] = []
    if facts.lease is not None:
        budget, words = _leased(facts, facts.lease)
        parts.append(("lease", facts.lease, facts.lease_words))
    elif facts.operator is not None:
        budget, words = _operator(facts)
    else:
        budget, words = _auto(facts)
    parts.append(("operator", facts.operator, facts.source if facts.operator is not None else "auto"))
    parts.append(("maxclients", facts.maxclients, facts.remark if facts.maxclients is None else "the server's"))
    kept = None if facts.maxclients is None else reserve_of(facts.maxclients, facts.reserve)
    rule = "a tenth of maxclients, at least 8" if facts.reserve is None else "REDIS_CONNECTION_RESERVE"
    parts.append(("reserve", kept, rule if facts.operator is None else "not used: the operator's number holds"))
    parts.append(("other clients", facts.others, "not ours, replicas and cluster bus included"))
    if facts.lease is None:  # a lease is this supervisor's alone
        parts.append(("hosts", facts.hosts, "REDIS_CONNECTION_HOSTS"))
        parts.append(("supervisors", facts.supervisors, "of this host, each with a POOLMGR_SOCKET of its own"))
    bounds = facts.descriptors is not None and 0 < facts.descriptors < budget and facts.operator is None
    remedy = ": for more, raise LimitNOFILE or ulimit -n" if bounds else ""
    parts.append(("descriptors", facts.descriptors, f"what the members' file-descriptor limits leave{remedy}"))
    if facts.descriptors is not None and bounds:
        budget, words = facts.descriptors, f"what the members' file-descriptor limits leave (not {budget}: {words})"
    if budget < 1 and facts.lease is None:
        budget, words = 1, f"the minimum ({words} leaves {budget})"
    alone = derive(msgspec.structs.replace(facts, others=0, theirs=0, used=0)).budget if facts.others else budget
    return Derivation(budget, f"budget {budget} = {words}", tuple(parts), alone)


def _operator(facts: Facts) -> tuple[int, str]:
    assert facts.operator is not None
    if facts.maxclients is not None and facts.operator > facts.maxclients:
        return facts.maxclients, f"redis maxclients {facts.maxclients}, less than {facts.source} {facts.operator}"
    return facts.operator, facts.source


def _leased(facts: Facts, lease: int) -> tuple[int, str]:
    """A host's own number stays its ceiling."""
    if facts.operator is not None and facts.operator < lease:
        return facts.operator, f"{facts.source}, less than {lease}, the {facts.lease_words}"
    return lease, facts.lease_words


def _auto(facts: Facts) -> tuple[int, str]:
    if facts.maxclients is None:
        why = facts.remark or "not known yet"
        return (
            UNKNOWN_SERVER,
            f"assumed, because redis maxclients is unknown ({why}); set REDIS_CONNECTION_BUDGET, "
            "or allow the user INFO",
        )
    kept = reserve_of(facts.maxclients, facts.reserve)
    budget = facts.maxclients - kept
    words = f"redis maxclients {facts.maxclients} {MINUS} reserve {kept}"
    others = max(0, (facts.others or 0) - facts.theirs)
    if others:
        budget -= others
        words += f" {MINUS} {others} other client{'s' if others != 1 else ''}"
    if facts.hosts > 1:
        budget //= facts.hosts
        words = f"({words}) / {facts.hosts} hosts"
    if facts.supervisors > 1:
        room, budget = budget - facts.theirs, budget // facts.supervisors
        words = f"({words}) / {facts.supervisors} supervisors of this host"
        if room < budget:
            budget, words = room, f"{words}, of which {facts.theirs} connections of the others leave {room}"
    stays = min(facts.used, facts.maxclients)
    if budget < stays:
        return stays, f"the connections in use, which stay ({words} leaves {budget})"
    return budget, words


class Governor:
    """Follows a budget over time: down at once, up once the growth has lasted. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.budget: int | None = None
        """The effective budget; None before the first derivation."""
        self.target = 0
        """What the facts allow, refusals apart."""
        self.cap: int | None = None
        """What a refusal has left; None: no cap holds."""
        self._larger_since: float | None = None
        self._least = 0
        """The smallest target allowed since then."""
        self._refused = -1e9

    @property
    def rising(self) -> bool:
        """It will grow soon, if the growth lasts."""
        return self._larger_since is not None

    def follow(
        self, target: int, now: float, *, at_once: bool = False, fits: int | None = None, quick: bool = False
    ) -> int:
        """The effective budget when ``target`` is what the facts allow.

        Args:
            at_once: the operator set it: do not wait, and forget what a refusal left.
            quick: growth need not last: it is granted, and not guessed.
            fits: how many of ours the server has room for, open ones included; None: it does not say.
        """
        self.target = target
        if at_once:
            self.cap = None
        allowed = self._allowed(target, fits)
        if self.budget is None or at_once or allowed <= self.budget:
            self._larger_since = None
            self.budget = allowed
        else:
            if self._larger_since is None:
                self._larger_since, self._least = now, allowed
            self._least = min(self._least, allowed)
            if quick or now - self._larger_since >= SETTLE:
                self._larger_since = None
                self.budget = self._least
                if self.cap is not None and fits is None:
                    self.cap = self.budget
        if self.cap is not None and self.budget >= target:
            self.cap = None  # it no longer limits anything
        return self.budget

    def _allowed(self, target: int, fits: int | None) -> int:
        if self.cap is None:
            return target
        return min(target, FACTOR * self.cap if fits is None else max(self.cap, fits))

    def refused(self, opened: int, now: float) -> int | None:
        """The server refused a connection while ``opened`` of ours were open. The budget that holds now,
        or None if an earlier refusal of the same event has been acted on."""
        if self.budget is None or now - self._refused < HERD:
            return None
        self._refused = now
        self.cap = self.budget = max(1, min(self.budget, opened))
        self._larger_since = None
        return self.budget
