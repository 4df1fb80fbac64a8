"""The pool's options: which values are allowed, and how a URL's query writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from poolmgr.pool.stats import Hooks


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


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one pool.

    Raises:
        ValueError: names option, value and what is allowed.
    """

    max_connections: int | None = None
    timeout: float | None = 5.0
    min_idle: int = 0
    max_waiting: int = 0
    idle_timeout: float = 60.0
    max_lifetime: float = 3600.0
    order: str = "fifo"
    leak_after: float = 0.0
    name: str | None = None
    max_connecting: int = 2
    max_reply: int = 0
    hooks: Hooks | None = None

    def __post_init__(self) -> None:
        ceiling = self.max_connections
        if ceiling is not None and (not isinstance(ceiling, int) or ceiling < 0):
            raise ValueError(f'"max_connections" must be a positive integer or None, not {ceiling!r}')
        for name in ("min_idle", "max_waiting", "max_reply"):
            self._whole(name, 0)
        if ceiling and self.min_idle > ceiling:
            raise ValueError(f'"min_idle" ({self.min_idle}) must not be more than "max_connections" ({ceiling})')
        self._whole("max_connecting", 1)
        for name in ("idle_timeout", "max_lifetime", "leak_after", "timeout"):
            seconds = getattr(self, name)
            if name == "timeout" and seconds is None:
                continue
            if not isinstance(seconds, (int, float)) or not seconds >= 0:
                raise ValueError(f'"{name}" must be a number of seconds, 0 or more, not {seconds!r}')
        if self.order not in ("fifo", "lifo"):
            raise ValueError(f'"order" must be fifo or lifo, not {self.order!r}')

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or value < least:
            raise ValueError(f'"{name}" must be a whole number, {least} or more, not {value!r}')
