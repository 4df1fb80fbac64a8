"""Environments and URLs: each setting has the value that its text says, within its bounds, or an error of one line;
each URL makes a pool where redis-py makes one, with options within theirs, or an error as there; and no output has the
password. :mod:`tests.fuzz.meaning` says what a text means and which values there are.

The first byte says what the others are: a URL, or lines, each with a variable's name and ``=`` before its value, or a
byte that stands for one of them. (Entries of the corpus have names: a byte would name another variable one day.)
"""

from __future__ import annotations

import warnings
from urllib.parse import urlsplit

import redis

import poolmgr
from poolmgr import settings
from poolmgr.errors import SettingsError
from poolmgr.pool import options
from poolmgr.settings import parsers
from poolmgr.settings.table import BY_NAME, VARIABLES
from tests.fuzz import meaning

PASSWORD = "hunter2hunter2"


def play(data: bytes) -> None:
    if data[:1] > b"\x7f":
        _url(data[1:].decode("utf-8", "surrogateescape"))
    else:
        _environment(data[1:])


def _environment(data: bytes) -> None:
    environ = {}
    for line in data.replace(b"\0", b"").split(b"\n"):
        if line:
            name, _, value = line.decode("utf-8", "surrogateescape").partition("=")
            if name not in BY_NAME:
                name, value = VARIABLES[line[0] % len(VARIABLES)].name, line[1:].decode("utf-8", "surrogateescape")
            environ[name] = value
    meaning.check_each(environ)
    said = []
    try:
        loaded = settings.load(environ)
        said.append(repr(loaded))
        meaning.check(loaded, environ)
    except SettingsError as error:
        said.append(str(error))
    assert "\n" not in said[0], said[0]
    rows = settings.describe(environ)
    said += [row.value + row.error for row in rows]
    assert any(row.error for row in rows) == (said[0] in {row.error for row in rows}), "both say the same"
    if secret_of(environ.get("REDIS_URL", "").strip()):
        assert all(PASSWORD not in line for line in said), said


def secret_of(url: str) -> str:
    """The password in a URL, if it is ours, and is nowhere else in it."""
    try:
        found = urlsplit(url).password or ""
    except ValueError:
        return ""
    return found if PASSWORD in found and url.count(PASSWORD) == 1 else ""


def _url(url: str) -> None:
    try:
        rest, ours = options.split(url)
    except ValueError:
        return
    assert options.split(rest)[1] == {} or not ours, "taken out, they are gone"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, same = _pool(redis.ConnectionPool, rest), _pool(poolmgr.ConnectionPool, rest)
        assert theirs == same, f"{rest!r}: redis-py: {theirs}, we: {same}"
        if ours:
            mine = _pool(poolmgr.ConnectionPool, url)
            if mine != "ValueError":
                meaning.check_options(ours)
            assert mine in (theirs, "ValueError"), f"{url!r}: {mine}, and without options {theirs}"
    if secret_of(url):
        assert PASSWORD not in parsers.mask_url(url), url
    try:
        key = parsers.endpoint_key(url)
    except ValueError:
        return
    # In a key these may be a path's. In a URL they end the path, or urlsplit drops them.
    if not {"?", "#", "\n", "\r", "\t"} & {*key}:
        assert parsers.endpoint_key(key) == key, f"{url!r}: {key!r}"


def _pool(kind: type[redis.ConnectionPool], url: str) -> str:
    """The error's type, or what connections would be made with."""
    try:
        pool = kind.from_url(url)
    except (ValueError, TypeError, AttributeError) as error:
        return type(error).__name__
    return repr({name: value for name, value in pool.connection_kwargs.items() if name in NAMES})


NAMES = frozenset(["host", "port", "path", "db", "username", "password", "decode_responses", "socket_timeout"])
