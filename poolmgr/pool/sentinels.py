"""Asking the Sentinels where a service's servers are: the rules of every flavour. redis-py's ``Sentinel`` asks.

- A Sentinel is a server with a budget of its own: :func:`adopt` has its connections counted.
- One question at a time: redis-py's pools ask for every reconnect on a connection of its own. A caller takes the answer
  to any question that was asked after it came (:class:`Rounds`), so twenty reconnects at once ask twice.
- A refused permit is not an answer. redis-py takes it for a Sentinel or a replica that cannot be reached, and
  concludes that no primary or replica exists. Here the refusal reaches the caller (:func:`refusal`). A caller waits
  for a permit of the first replica only, and tries the others without waiting
  (:meth:`poolmgr.pool.permit_source.PermitSource.patience`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.native import monotonic
from poolmgr.pool.refusal import again
from poolmgr.pool.stats import Hooks

NAME = "sentinel"
"""Of the pools for questions, in messages and metrics."""


# ---- counted ---------------------------------------------------------------------------------


class Refusals:
    """The last refusal that a pool for questions has given."""

    def __init__(self) -> None:
        self.at = float("-inf")
        self._text, self._reason = "", ""

    def note(self, error: BaseException) -> None:
        if isinstance(error, ConnectionPoolTimeoutError):
            self.at, self._text, self._reason = monotonic(), str(error), error.reason

    def error(self) -> ConnectionPoolTimeoutError:
        return ConnectionPoolTimeoutError(self._text, reason=self._reason)


def adopt(manager: Any, theirs: tuple[type, ...], ours: Any, options: dict[str, Any]) -> None:
    """Give the clients with which a ``Sentinel`` asks pools of ours, unless a user has given them pools.

    Args:
        theirs: redis-py's own pools, of this flavour.
        ours: this flavour's pool.
        options: of the pool that is to find its servers through them.
    """
    for client in getattr(manager, "sentinels", ()):
        pool: Any = getattr(client, "connection_pool", None)
        if type(pool) not in theirs:
            continue
        arguments = {name: value for name, value in pool.connection_kwargs.items() if name not in ours.OMIT_REPR_KEYS}
        refusals = Refusals()
        client.connection_pool = adopted = ours(
            connection_class=pool.connection_class,
            max_connections=pool.max_connections,
            maint_notifications_config=pool.connection_kwargs.get("maint_notifications_config"),
            name=NAME,
            hooks=Hooks(timed_out=refusals.note),
            **{name: options[name] for name in ("timeout", "member") if name in options},
            **arguments,
        )
        adopted._refusals = refusals


def refusal(manager: Any, since: float) -> ConnectionPoolTimeoutError | None:
    """Why a question could not be asked since then, if it was for want of a permit."""
    for client in getattr(manager, "sentinels", ()):
        found: Refusals | None = getattr(getattr(client, "connection_pool", None), "_refusals", None)
        if found is not None and found.at >= since:
            return found.error()
    return None


# ---- one question at a time ------------------------------------------------------------------


class Rounds:
    """The questions of one kind. All but :meth:`come` under the flavour's lock, which is held while one is asked."""

    def __init__(self) -> None:
        self._begun = self._answered = 0
        self._value: Any = None
        self._error: BaseException | None = None

    def come(self) -> int:
        """A caller has come; to be given to :meth:`has_answer`."""
        return self._begun

    def has_answer(self, came: int) -> bool:
        """Whether the last question that was answered began after the caller had come."""
        return self._answered > came

    def answer(self) -> Any:
        """To the last question.

        Raises:
            BaseException: what the question came to.
        """
        if self._error is not None:
            raise again(self._error)
        return self._value

    def ask(self, manager: Any, not_found: type[Exception]) -> Question:
        """A question begins: ``with rounds.ask(...) as question: question.value = ...``.

        Args:
            not_found: the flavour's error that says so.

        Raises:
            ConnectionPoolTimeoutError: at the end, if nothing was found for want of a permit.
        """
        self._begun += 1
        return Question(self, self._begun, manager, not_found)

    def came_to(self, number: int, value: Any, error: BaseException | None) -> None:
        self._answered, self._value, self._error = number, value, error


class Question:
    """One that is being asked. If its caller is cancelled, another caller asks."""

    def __init__(self, rounds: Rounds, number: int, manager: Any, not_found: type[Exception]) -> None:
        self._rounds = rounds
        self._number = number
        self._manager = manager
        self._not_found = not_found
        self._began = monotonic()
        self.value: Any = None

    def __enter__(self) -> Question:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        refused = None
        if isinstance(error, self._not_found) or (error is None and not self.value):
            refused = refusal(self._manager, self._began)
        if error is None and refused is None:
            self._rounds.came_to(self._number, self.value, None)
        elif error is None or isinstance(error, Exception):
            failure = refused if error is None or refused is not None else again(error)
            assert failure is not None
            failure.__cause__ = None  # a traceback belongs to one thread, and keeps what is in its frames
            self._rounds.came_to(self._number, None, failure)
        if refused is not None:
            raise again(refused) from None


# ---- the servers that were found -------------------------------------------------------------


@contextlib.contextmanager
def trying(connection: Any) -> Iterator[None]:
    """A connection connects to one of the servers that were found."""
    try:
        yield
    except ConnectionPoolTimeoutError as error:
        connection._refused = connection._refused or error
        raise


@contextlib.contextmanager
def choosing(connection: Any, not_found: type[Exception]) -> Iterator[None]:
    """A connection connects to any of the servers that were found.

    Args:
        not_found: what redis-py raises if all of them fail.
    """
    try:
        yield
    except not_found:
        if connection._refused is None:
            raise
        raise connection._refused from None
    finally:
        connection._refused = None
