"""The pool's options: which values are allowed, and how a URL's query writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit


def _time_or_none(text: str) -> float | None:
    return None if text.lower() in ("none", "inf", "") else float(text)


PARSERS: dict[str, Callable[[str], Any]] = {
    "max_connections": int,
    "timeout": _time_or_none,
    "min_idle": int,
    "max_waiting": int,
    "idle_timeout": float,
    "max_lifetime": float,
    "order": str,
    "leak_after": float,
    "name": str,
    "max_connecting": int,
    "max_reply": int,
}
"""The options that may stand in a URL's query, and their parsers. ``timeout=none`` waits for ever."""


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


def check(
    *,
    max_connections: int | None,
    timeout: float | None,
    min_idle: int,
    max_waiting: int,
    idle_timeout: float,
    max_lifetime: float,
    order: str,
    leak_after: float,
    max_connecting: int,
    max_reply: int,
) -> None:
    """Raise ValueError, naming option, value and what is allowed, unless all values are allowed."""
    if max_connections is not None and (not isinstance(max_connections, int) or max_connections < 0):
        raise ValueError(f'"max_connections" must be a positive integer or None, not {max_connections!r}')
    for name, whole in (("min_idle", min_idle), ("max_waiting", max_waiting), ("max_reply", max_reply)):
        if not isinstance(whole, int) or whole < 0:
            raise ValueError(f'"{name}" must be a whole number, 0 or more, not {whole!r}')
    if max_connections and min_idle > max_connections:
        raise ValueError(f'"min_idle" ({min_idle}) must not be more than "max_connections" ({max_connections})')
    if not isinstance(max_connecting, int) or max_connecting < 1:
        raise ValueError(f'"max_connecting" must be a whole number, 1 or more, not {max_connecting!r}')
    times = {"idle_timeout": idle_timeout, "max_lifetime": max_lifetime, "leak_after": leak_after}
    if timeout is not None:
        times["timeout"] = timeout
    for name, seconds in times.items():
        if not isinstance(seconds, (int, float)) or not seconds >= 0:
            raise ValueError(f'"{name}" must be a number of seconds, 0 or more, not {seconds!r}')
    if order not in ("fifo", "lifo"):
        raise ValueError(f'"order" must be fifo or lifo, not {order!r}')
