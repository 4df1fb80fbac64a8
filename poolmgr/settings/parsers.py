"""From text to value: the parsers of the environment variables, and how secrets are hidden in text.

Each parser takes a text that is not empty and returns the value, or raises ValueError. The error's text, if any, says
more than "not allowed". No parser looks at the machine.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from urllib.parse import unquote_plus, urlsplit

SOCKET_PATH_MAX = 107
"""Longest path of a Unix socket in bytes: ``sun_path`` is 108 with its final zero (unix(7))."""

HIDDEN = "***"


def whole(least: int, most: int = 1_000_000) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,12}", text):
            raise ValueError
        value = int(text)
        if not least <= value <= most:
            raise ValueError
        return value

    return parse


def seconds(*, zero: bool, most: float = 31_536_000.0) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", text, re.IGNORECASE):
            raise ValueError
        value = float(text)
        if not 0 <= value <= most or (value == 0 and not zero):
            raise ValueError
        return value

    return parse


FOREVER = "forever"


def seconds_or_forever(text: str) -> float:
    return math.inf if text.lower() == FOREVER else _seconds(text)


_seconds = seconds(zero=True)


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return parse


_one_or_more = whole(1)


OFF = "off"
"""The value of the budget that switches it off."""


def budget(text: str) -> int | str:
    return text.lower() if text.lower() in ("auto", OFF) else _one_or_more(text)


def fleet_budget(text: str) -> int | str:
    return "auto" if text.lower() == "auto" else _one_or_more(text)


def lease(text: str) -> float:
    value = seconds(zero=False, most=3600.0)(text)
    if value < 2.0:
        raise ValueError("a lease is renewed several times while it lasts")
    return value


def unproven(text: str) -> float | None:
    if text.lower() == "never":
        return None
    value = seconds(zero=False, most=86_400.0)(text)
    if value < 1.0:
        raise ValueError("a second at least")
    return value


def flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError


def split_host_port(text: str, *, port: int | None = None) -> tuple[str, int]:
    """``host:port`` and ``[::1]:port`` taken apart; ``port`` is used where none is given.

    Raises:
        ValueError: the text is neither, or the port is not from 1 to 65535.
    """
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^\s\0-\x1f:/?#@\[\]=,]+)(?::([0-9]{1,5}))?", text)
    if match is None:
        raise ValueError
    number = int(match[2]) if match[2] else port
    if number is None or not 1 <= number <= 65535:
        raise ValueError("the port must be from 1 to 65535" if match[2] else "the port is missing")
    return match[1].strip("[]"), number


_KEY_OF_IPV6 = r"(?:[0-9a-fA-F]*:){2,}[0-9a-fA-F.]*(?:%\w+)?:[0-9]{1,5}"
"""A pattern, which :mod:`re` compiles at its first use: every process loads this module, and few need one.

It is an address with colons and a port after them, without brackets: so a key has it, which ``poolmgr status`` shows.
"""


def endpoint_key(server: str) -> str:
    """What people write for a server (``cache:6379``, ``cache``, ``/path``, a URL) as an endpoint key.

    Raises:
        ValueError: the text does not name a server.
    """
    if "://" in server:
        parts = urlsplit(server)
        if parts.scheme == "unix":
            server = parts.path
        elif parts.scheme in ("tcp", "redis", "rediss"):
            server = parts.netloc.rpartition("@")[2]
        else:
            raise ValueError(f"{parts.scheme}:// does not name a server")
    if server.startswith("/"):
        return f"unix://{server}"
    if re.fullmatch(_KEY_OF_IPV6, server):
        host, _, number = server.rpartition(":")
        server = f"[{host}]:{number}"
    host, port = split_host_port(server, port=6379)
    return f"tcp://{host}:{port}"


def budgets(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    # No message repeats an item: it may be a URL with a password, and have commas of its own.
    for place, item in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        server, equals, number = item.rpartition("=")
        if not equals:
            raise ValueError(f"item {place} has no '='")
        try:
            key = endpoint_key(server.strip())
        except ValueError:
            raise ValueError(f"item {place} does not name a server") from None
        try:
            value = _one_or_more(number.strip())
        except ValueError:
            raise ValueError(f"the number of item {place} is not a budget") from None
        if found.setdefault(key, value) != value:
            raise ValueError(f"item {place} names a server again, with another number")
    return found


def url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:  # the error's text repeats what may be a password
        raise ValueError from None
    # urlsplit takes a scheme in any case and without slashes, and drops tabs and line breaks; redis-py does not.
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("it has a tab, a line break or another control character")
    if parts.scheme == "unix":
        if parts.netloc.rpartition("@")[2]:  # redis-py ignores it; mostly it is half of a password with a slash in it
            raise ValueError("a Unix socket has no host; write unix://USER:PASSWORD@/PATH, with a / in PASSWORD as %2F")
        if not parts.path.startswith("/"):
            raise ValueError("the path must be absolute")
        return text
    try:
        port = parts.port
    except ValueError:
        place = text.partition("://")[2]
        hidden = HIDDEN in mask_url(text) and "@" not in place
        raise ValueError(
            "the port is not a number (hidden, in case it is a password); write redis://USER:PASSWORD@HOST:PORT/DB"
            if hidden
            else "the port is not a number from 1 to 65535"
        ) from None
    if port == 0:
        raise ValueError("the port is not a number from 1 to 65535")
    if parts.path.strip("/") and not parts.path.strip("/").isdigit():
        raise ValueError("the database is not a number")
    return text


def socket_path(text: str) -> str:
    if "\0" in text or not text.startswith("/"):
        raise ValueError("it is not an absolute path")
    size = len(os.fsencode(text))
    if size > SOCKET_PATH_MAX:
        raise ValueError(f"it is {size} bytes long")
    if text.endswith("/"):
        raise ValueError("it is a directory")
    return text


def file_path(text: str) -> str:
    if "\0" in text or not text.startswith("/"):
        raise ValueError("it is not an absolute path")
    if text.endswith("/"):
        raise ValueError("it is a directory")
    return text


def directory(text: str) -> str:
    if "\0" in text or not text.startswith("/"):
        raise ValueError("it is not an absolute path")
    return text


def address(text: str) -> str | None:
    if text.lower() in ("off", "no", "0"):
        return None
    split_host_port(text)
    return text


def name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.:+-]*", text):
        raise ValueError
    return text


def fleet_name(text: str) -> str:
    """It is part of a key, between the braces that name a cluster's slot, and of lines that people read."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,63}", text):
        raise ValueError
    return text


def token(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("it has spaces or other characters that a header cannot carry")
    return text


def size(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,12})\s*(|k|m|g|kib|mib|gib)", text, re.IGNORECASE)
        if match is None:
            raise ValueError
        value = int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()[:1]]
        if not least <= value <= most:
            raise ValueError
        return value

    return parse


def mask_url(url: str) -> str:
    """The URL without its password, also where it is too broken to be parsed.

    The password may be anywhere before the last ``@``, and in the query's ``password`` and all that follows it. In
    ``redis://user:secret``, where the host was forgotten, it looks like a port.
    """
    scheme, separator, rest = url.partition("://")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):  # what stands before a later one may be a password
        scheme, separator, rest = "", "", url
    rest, secret = _cut_query(rest)
    credentials, at, place = rest.rpartition("@")
    if at:
        name, colon, _ = credentials.partition(":")
        credentials = f"{name}:{HIDDEN}" if colon else HIDDEN
    elif "@" in secret and not place.startswith("/"):  # so the query may be part of a password
        place = f"{HIDDEN}?"
    elif not separator or scheme != "unix":
        place = re.sub(_NO_PORT, rf"\1:{HIDDEN}", place)
    return f"{scheme}{separator}{credentials}{at}{place}" + (HIDDEN if secret else "")


_NO_PORT = r"(?s)^([^:/?#\[\]]*):(?![0-9]*(?:/[0-9]*/?)?(?:[?#]|$)).*"
"""Text in the place of a URL's port that is not a port, or has no database after it: the rest may be a password."""

_PAIR = r"(?<=[?&])([^=&]*)="


def _cut_query(rest: str) -> tuple[str, str]:
    """The text before the first secret of the query, and that secret with what follows: an ``&`` may be part of it."""
    for pair in re.finditer(_PAIR, rest):
        if re.search("(?i)pass|token|secret|pwd|credential", unquote_plus(pair[1])):
            return rest[: pair.end()], rest[pair.end() :]
    return rest, ""


def conceal(text: str) -> str:
    """A value that is not allowed, as a message may show it: without what could be a password, in case the value is a
    URL in the wrong place. Only the end of a list is shown, since a password may have commas."""
    before, at, after = text.rpartition("@")
    if at and "," in before:  # what follows may be the end of a secret in a query
        return HIDDEN if _cut_query(text)[1] else f"{HIDDEN}@{after}"
    return mask_url(text) if at or "://" in text or "?" in text else text
