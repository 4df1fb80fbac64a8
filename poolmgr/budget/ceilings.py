"""The effective budget of one server, and how it came about in words.

Pure: facts in, a number with its derivation out. Who finds the facts out is
:mod:`poolmgr.supervisor.inspection`; who acts on the number is the ledger.

The operator's number is taken as it is, unless the server itself allows less. ``auto`` is what is left
of ``maxclients`` after a reserve for everyone else and after the clients that are not ours, divided
by the hosts that share the server, and no more than the members' file descriptors can carry.

The world changes while we run. A number that falls is followed at once; one that grows is followed
slowly, so that a foreign client that comes and goes does not make connections be torn down and made
again. A refusal (``max number of clients reached``) is a fact about *now* that no arithmetic knew:
it lowers the budget at once to what the server had let us have, and that cap is lifted step by step.
"""

from __future__ import annotations

import msgspec

MINUS = "\N{MINUS SIGN}"

UNKNOWN_SERVER = 64
"""Budget of a server that does not say its ``maxclients`` and for which the operator said none."""

SETTLE = 5.0
"""Seconds for which a budget must have been larger before it is followed upwards."""

STEP_EVERY = 1.0
"""Seconds between two steps upwards; each is a twentieth of the budget, at least one."""

HERD = 1.0
"""Refusals within this many seconds of one another are one event: all members meet it at once."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a server. None: not known.

    Attributes:
        operator: the operator's number; None for ``auto``.
        source: where the operator's number comes from, for people.
        maxclients: as the server says.
        reserve: the operator's reserve; None for the rule.
        others: clients of the server that are none of ours, replicas and the cluster bus included.
        hosts: how many hosts share the server.
        descriptors: connections that the members' file-descriptor limits leave, all together.
        remark: why something is not known, for people.
    """

    operator: int | None = None
    source: str = "REDIS_CONNECTION_BUDGET"
    maxclients: int | None = None
    reserve: int | None = None
    others: int | None = None
    hosts: int = 1
    descriptors: int | None = None
    remark: str = ""


class Derivation(msgspec.Struct, frozen=True):
    """A budget and why. ``parts``: every bound looked at, (name, value, remark)."""

    budget: int
    text: str
    parts: tuple[tuple[str, int | None, str], ...] = ()


def reserve_of(maxclients: int, reserve: int | None) -> int:
    """What is left to everyone else: a tenth of ``maxclients``, at least 8, unless the operator says."""
    return max(8, maxclients // 10) if reserve is None else reserve


def derive(facts: Facts) -> Derivation:
    """The budget that the facts allow; at least 1."""
    parts: list[tuple[str, int | None, str]] = []
    if facts.operator is not None:
        budget, words = _operator(facts)
    else:
        budget, words = _auto(facts)
    parts.append(("operator", facts.operator, facts.source if facts.operator is not None else "auto"))
    parts.append(("maxclients", facts.maxclients, facts.remark if facts.maxclients is None else "the server's"))
    kept = None if facts.maxclients is None else reserve_of(facts.maxclients, facts.reserve)
    rule = "a tenth of maxclients, at least 8" if facts.reserve is None else "REDIS_CONNECTION_RESERVE"
    parts.append(("reserve", kept, rule if facts.operator is None else "not used: the operator's number holds"))
    parts.append(("other clients", facts.others, "not ours, replicas and cluster bus included"))
    parts.append(("hosts", facts.hosts, "REDIS_CONNECTION_HOSTS"))
    bounds = facts.descriptors is not None and 0 < facts.descriptors < budget and facts.operator is None
    remedy = ": for more, raise LimitNOFILE or ulimit -n" if bounds else ""
    parts.append(("descriptors", facts.descriptors, f"what the members' file-descriptor limits leave{remedy}"))
    if facts.descriptors is not None and bounds:
        budget, words = facts.descriptors, f"what the members' file-descriptor limits leave (not {budget}: {words})"
    if budget < 1:
        budget, words = 1, f"the least there can be ({words} leaves {budget})"
    return Derivation(budget, f"budget {budget} = {words}", tuple(parts))


def _operator(facts: Facts) -> tuple[int, str]:
    assert facts.operator is not None
    if facts.maxclients is not None and facts.operator > facts.maxclients:
        return facts.maxclients, f"redis maxclients {facts.maxclients}, less than {facts.source} {facts.operator}"
    return facts.operator, facts.source


def _auto(facts: Facts) -> tuple[int, str]:
    if facts.maxclients is None:
        why = facts.remark or "not known yet"
        return (
            UNKNOWN_SERVER,
            f"assumed, as redis maxclients is unknown ({why}); set REDIS_CONNECTION_BUDGET, or let the user ask INFO",
        )
    kept = reserve_of(facts.maxclients, facts.reserve)
    budget = facts.maxclients - kept
    words = f"redis maxclients {facts.maxclients} {MINUS} reserve {kept}"
    if facts.others:
        budget -= facts.others
        words += f" {MINUS} {facts.others} other client{'s' if facts.others != 1 else ''}"
    if facts.hosts > 1:
        budget //= facts.hosts
        words = f"({words}) / {facts.hosts} hosts"
    return budget, words


class Governor:
    """Follows a budget over time: down at once, up slowly. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.budget: int | None = None
        """The effective budget; None before the first derivation."""
        self.cap: int | None = None
        """What a refusal has left; None when none holds."""
        self._larger_since: float | None = None
        self._stepped = 0.0
        self._refused = -1e9

    def follow(self, target: int, now: float, *, at_once: bool = False) -> int:
        """The effective budget when ``target`` is what the facts allow.

        Args:
            at_once: the operator has said so: no slow growth, and what a refusal left is forgotten.
        """
        if at_once:
            self.cap = None
        if self.budget is None or at_once or target <= self.budget:
            self._larger_since = None
            self.budget = target if self.cap is None else min(target, self.cap)
            self._lift_cap(target, now)
            return self.budget
        if self._larger_since is None:
            self._larger_since = now
        if now - self._larger_since >= SETTLE and now - self._stepped >= STEP_EVERY:
            self._stepped = now
            self.budget = min(target, self.budget + max(1, self.budget // 20))
            if self.budget >= target:
                self._larger_since = None
                self.cap = None
            elif self.cap is not None:
                self.cap = self.budget
        return self.budget

    def _lift_cap(self, target: int, now: float) -> None:
        """A cap no smaller than what the facts allow says nothing any more."""
        if self.cap is not None and target <= self.cap:
            self.cap = None

    def refused(self, opened: int, now: float) -> int | None:
        """The server refused a connection while ``opened`` of ours were open; the budget that holds now,
        or None if this belongs to a refusal that has been acted on."""
        if self.budget is None or now - self._refused < HERD:
            return None
        self._refused = now
        self.cap = self.budget = max(1, min(self.budget, opened))
        self._larger_since = None
        return self.budget
