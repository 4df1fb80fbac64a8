"""What a caller waits for, and how long it may: one bound for each cause, and their sum is the total.

A user's ``timeout`` bounds only one of them: the wait for a connection that others hold. The steps needed before
there can be any connection have bounds of their own, whatever the ``timeout`` is: otherwise the first caller of a host
would pay for the supervisor's start out of a patience that was meant for full pools.

Pure. A waiting caller states at each look what it waits for *now*; the time since its last look is charged to its
previous cause. ``docs/times.md`` adds these bounds up for every call.
"""

from __future__ import annotations

from typing import Literal

Cause = Literal["others", "supervisor", "server", "answer", "connecting"]

OTHERS: Cause = "others"
"""Connections, or permits, that other callers and processes hold. Bounded by ``timeout``."""
SUPERVISOR: Cause = "supervisor"
"""There is no link to a supervisor: a search, a start or a replacement goes on."""
SERVER: Cause = "server"
"""The supervisor has not sent a limit yet: it asks for the server's identity, or takes a census."""
ANSWER: Cause = "answer"
"""The supervisor was asked for more and has not answered that there is no more."""
CONNECTING: Cause = "connecting"
"""A connection is being opened, or will be when an earlier attempt (``max_connecting``) or a pause has ended."""

JOINING = 10.0
"""Seconds for :data:`SUPERVISOR` and :data:`SERVER` together. A supervisor starts in 0.3 s on an idle machine and in
some 4 s with twenty processes to a core; a hung one is replaced within 4 s."""

ANSWERING = 0.25
"""Seconds for :data:`ANSWER`. An answer takes a millisecond, and a refusal is one. If a supervisor gives none (it has
lost its ledger and waits for the members to register), the caller waits as for :data:`OTHERS`."""

CONNECT_WITHIN = 5.0
"""Seconds for :data:`CONNECTING`, after which no further attempt begins. ``socket_connect_timeout`` and
``socket_timeout`` bound one that has begun."""

LOOK = 1.0
"""The most seconds charged to :data:`CONNECTING` from one look to the next. A caller looks four times a second. If it
takes longer, its process did not run (SIGSTOP, a frozen container, a starved host), nor did its attempts."""

INFINITY = float("inf")

LONGEST: dict[Cause, float] = {SUPERVISOR: JOINING, ANSWER: ANSWERING, CONNECTING: CONNECT_WITHIN}
"""The bounds that users do not set."""

_SHARED: dict[Cause, Cause] = {SERVER: SUPERVISOR}
"""Both share one bound."""


class Wait:
    """One caller's wait.

    Args:
        timeout: seconds it waits for others; None: forever.
        now: monotonic seconds.
    """

    __slots__ = ("_cause", "_left", "_since")

    def __init__(self, timeout: float | None, now: float) -> None:
        self._left = {**LONGEST, OTHERS: INFINITY if timeout is None else timeout}
        self._cause: Cause = CONNECTING
        self._since = now

    def left(self, cause: Cause, now: float, *, lent: bool = False) -> float:
        """Seconds left of the bound of ``cause``, for which it waits from now on; 0 or less: none.

        Args:
            lent: whether other callers of the pool have connections: these come back, whatever keeps the pool from
                opening more.
        """
        passed = max(0.0, now - self._since)
        if self._cause == CONNECTING:
            passed = min(passed, LOOK)
        self._left[_SHARED.get(self._cause, self._cause)] -= passed
        bound = _SHARED.get(cause, cause)
        if self._left[bound] <= 0 and (cause == ANSWER or (lent and bound == SUPERVISOR)):
            cause = bound = OTHERS
        self._cause, self._since = cause, now
        return self._left[bound]
