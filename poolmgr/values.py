"""From text to value: the parsers of the environment variables, and how secrets are hidden in text.

Each parser takes a text that is not empty and returns the value, or raises ValueError, whose text (if
it has one) says more than "not allowed". None of them looks at the machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import urlsplit

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


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return parse


_one_or_more = whole(1)


def budget(text: str) -> int | str:
    return "auto" if text.lower() == "auto" else _one_or_more(text)


def flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError


def split_host_port(text: str, *, port: int | None = None) -> tuple[str, int]:
    """``host:port`` and ``[::1]:port`` taken apart; ``port`` is used where none is given.

    Raises:
        ValueError: it is neither, or the port is not from 1 to 65535.
    """
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^\s:/@\[\]=,]+)(?::([0-9]{1,5}))?", text)
    if match is None:
        raise ValueError
    number = int(match[2]) if match[2] else port
    if number is None or not 1 <= number <= 65535:
        raise ValueError("the port must be from 1 to 65535" if match[2] else "the port is missing")
    return match[1].strip("[]"), number


def endpoint_key(server: str) -> str:
    """What people write for a server (``cache:6379``, ``cache``, ``/path``, a URL) as an endpoint key.

    Raises:
        ValueError: it names no server.
    """
    if "://" in server:
        parts = urlsplit(server)
        if parts.scheme == "unix":
            server = parts.path
        elif parts.scheme in ("tcp", "redis", "rediss"):
            server = parts.netloc.rpartition("@")[2]
        else:
            raise ValueError(f"{parts.scheme}:// names no server")
    if server.startswith("/"):
        return f"unix://{server}"
    host, port = split_host_port(server, port=6379)
    return f"tcp://{host}:{port}"


def budgets(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        server, equals, number = item.rpartition("=")
        if not equals:
            raise ValueError(f"{item!r} has no '='")
        try:
            key = endpoint_key(server.strip())
        except ValueError:
            raise ValueError(f"{server.strip()!r} is no server") from None
        try:
            value = _one_or_more(number.strip())
        except ValueError:
            raise ValueError(f"{number.strip()!r} is no budget") from None
        if found.setdefault(key, value) != value:
            raise ValueError(f"{server.strip()!r} is named twice")
    return found


def url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:  # its text repeats what may be a password
        raise ValueError from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError
    if parts.scheme == "unix":
        if not parts.path.startswith("/"):
            raise ValueError("the path must be absolute")
        return text
    try:
        port = parts.port
    except ValueError:
        place = text.partition("://")[2]
        hidden = HIDDEN in mask_url(text) and "@" not in place
        raise ValueError(
            "what stands where the port should is hidden, for it may be a password: it is no number; a password goes "
            "before the host, redis://USER:PASSWORD@HOST:PORT/DB"
            if hidden
            else "the port is no number from 1 to 65535"
        ) from None
    if port == 0:
        raise ValueError("the port is no number from 1 to 65535")
    if parts.path.strip("/") and not parts.path.strip("/").isdigit():
        raise ValueError("the database is no number")
    return text


def socket_path(text: str) -> str:
    if "\0" in text or not text.startswith("/"):
        raise ValueError("not an absolute path")
    size = len(os.fsencode(text))
    if size > SOCKET_PATH_MAX:
        raise ValueError(f"{size} bytes long")
    if text.endswith("/"):
        raise ValueError("a directory")
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


def token(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("it has spaces or other characters that no header can carry")
    return text


def size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})\s*(|k|m|g|kib|mib|gib)", text, re.IGNORECASE)
    if match is None:
        raise ValueError
    value = int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()[:1]]
    if not 1 <= value <= 512 << 20:
        raise ValueError
    return value


def mask_url(url: str) -> str:
    """The URL without its password, also where it is too broken to be parsed.

    Whatever stands before the last ``@`` may hold it, and so may the query's ``password``; and in
    ``redis://user:secret``, where the host was forgotten, what looks like a port.
    """
    scheme, separator, rest = url.rpartition("://") if "://" in url else ("", "", url)
    credentials, at, place = rest.rpartition("@")
    if at:
        name, colon, _ = credentials.partition(":")
        credentials = f"{name}:{HIDDEN}" if colon else HIDDEN
    elif separator and scheme != "unix":
        place = re.sub(r"^([^/?#\[\]]*):(?![0-9]*(?:[/?#]|$))[^/?#]*", rf"\1:{HIDDEN}", place)
    elif not separator:
        place = re.sub(r":(?![0-9]+(?:[/?#]|$)).*", f":{HIDDEN}", place)
    place = re.sub(r"(?i)((?:password|token|secret)[^=&]*=)[^&#]*", rf"\1{HIDDEN}", place)
    return f"{scheme}{separator}{credentials}{at}{place}"
