"""The pool's options, each declared once.

A field of :class:`Options` has the option's type and default; the :class:`Option` in its annotation has the meaning,
the values that are allowed, and how a URL's query writes them. A pool's documentation (:func:`documented`), its
defaults (:data:`DEFAULT`), its errors and :func:`split` follow from both. A test compares them with the constructors
and with the environment's variables.
"""

from __future__ import annotations

import secrets  # redis-py's pools load it in their constructor: here a fork waits for it
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, get_args
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from poolmgr.pool.stats import Hooks


class Option(msgspec.Struct, frozen=True):
    """What :class:`Options` says about a field beside its type and its default.

    Attributes:
        meaning: for people.
        parse: a URL's text to value; None: it cannot stand there.
        allowed: the values, in words.
        fits: whether a value is among them.
    """

    meaning: str
    parse: Callable[[str], Any] | None = None
    allowed: str = ""
    fits: Callable[[Any], bool] = lambda _: True


def _count(meaning: str, least: int = 0) -> Option:
    return Option(
        meaning, int, f"a whole number, {least} or more", lambda value: isinstance(value, int) and value >= least
    )


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and value >= 0  # NaN is not


def _is_time_or_none(value: object) -> bool:
    return value is None or _is_time(value)


def _is_ceiling(value: object) -> bool:
    return value is None or (isinstance(value, int) and value >= 0)


def _time(meaning: str) -> Option:
    return Option(meaning, float, "a number of seconds, 0 or more", _is_time)


def _time_or_none(text: str) -> float | None:
    return None if text.lower() in ("none", "inf", "") else float(text)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one pool. Times are in seconds.

    Raises:
        ValueError: names option, value and what is allowed.
    """

    max_connections: Annotated[
        int | None,
        Option(
            "this pool's own ceiling. None (and, as redis-py reads it, 0): only the budget bounds it, and the pool's "
            "attribute then reads 2**31. If no budget is enforced (``REDIS_CONNECTION_BUDGET=off``, connections in "
            "memory) None means 100, as in redis-py.",
            int,
            "a positive integer or None",
            _is_ceiling,
        ),
    ] = None
    min_idle: Annotated[int, _count("connections kept ready, refilled in the background.")] = 0
    max_waiting: Annotated[int, _count("callers that may wait; further ones are refused at once. 0: no bound.")] = 0
    max_reply: Annotated[
        int,
        _count(
            "bytes that a reply, or the replies of a pipeline together, may take, plus 48 for each element; a longer "
            "one raises :class:`poolmgr.ReplyTooLargeError`. 0: no bound."
        ),
    ] = 0
    max_connecting: Annotated[int, _count("connections opened at the same time.", least=1)] = 2
    idle_timeout: Annotated[float, _time("close connections that stayed idle this long; 0: never.")] = 60.0
    max_lifetime: Annotated[float, _time("replace connections older than this (less up to a tenth); 0: never.")] = (
        3600.0
    )
    leak_after: Annotated[float, _time("report a connection held longer, with the stack of its checkout; 0: off.")] = (
        0.0
    )
    timeout: Annotated[
        float | None,
        Option(
            "how long a caller waits for a connection that others hold; None (in a URL, ``none``): forever; 0: not at "
            "all. Steps before there can be a connection have bounds of their own (``docs/times.md``).",
            _time_or_none,
            "a number of seconds, 0 or more",
            _is_time_or_none,
        ),
    ] = 5.0
    order: Annotated[
        str,
        Option(
            "``fifo`` uses all connections in turn, ``lifo`` the last used first.",
            str,
            "fifo or lifo",
            ("fifo", "lifo").__contains__,
        ),
    ] = "fifo"
    name: Annotated[str | None, Option("what messages and metrics call the pool.", str)] = None
    hooks: Annotated[Hooks | None, Option("functions to call on events (:class:`poolmgr.Hooks`).")] = None

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if not option.fits(value):
                raise ValueError(f'"{name}" must be {option.allowed}, not {value!r}')
        if self.max_connections and self.min_idle > self.max_connections:
            raise ValueError(
                f'"min_idle" ({self.min_idle}) must not be more than "max_connections" ({self.max_connections})'
            )

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Options:
        """The options among the arguments of a constructor."""
        return cls(**{name: arguments[name] for name in OPTIONS})

    def settle_on(self, pool: Any) -> None:
        """Set what a pool keeps as attributes of the same name: all but its size, which has its own places."""
        for name in ("timeout", "max_waiting", "max_reply", "idle_timeout", "max_lifetime", "order", "leak_after"):
            setattr(pool, name, getattr(self, name))
        pool.name = self.name or f"pool-{secrets.token_hex(3)}"
        pool.hooks = self.hooks or Hooks()


OPTIONS: dict[str, Option] = {field.name: get_args(field.type)[1] for field in msgspec.structs.fields(Options)}
DEFAULT = Options()
PARSERS = {name: option.parse for name, option in OPTIONS.items() if option.parse is not None}
"""The options that may stand in a URL's query, and their parsers."""

Kind = TypeVar("Kind", bound=type)


def documented(kind: Kind) -> Kind:
    """Put the options' meanings into the documentation of a class."""
    if kind.__doc__:  # not under -OO
        lines = (f"{name}: {option.meaning}" for name, option in OPTIONS.items())
        before = kind.__doc__.partition("OPTIONS")[0]
        margin = before[before.rindex("\n") :]  # from Python 3.13 on the compiler takes the common one away
        kind.__doc__ = kind.__doc__.replace("OPTIONS", margin.join(lines))
    return kind


def split(url: str) -> tuple[str, dict[str, Any]]:
    """A URL without our options, and our options.

    Raises:
        ValueError: an option needs a number, and its value is not one.
    """
    parts = urlsplit(url)
    rest: list[tuple[str, str]] = []
    ours: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        parse = PARSERS.get(name)
        if parse is None:
            rest.append((name, value))
        elif name not in ours:
            try:
                ours[name] = parse(value)
            except ValueError:
                raise ValueError(f"Invalid value for '{name}' in connection URL.") from None
    if not ours:
        return url, ours
    return urlunsplit(parts._replace(query=urlencode(rest))), ours
