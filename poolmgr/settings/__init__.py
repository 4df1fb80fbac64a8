"""The settings of a process, from its environment.

Every variable is declared in :class:`poolmgr.settings.table.Settings`; this module turns an environment into such a
value. It must never connect, start or log anything. Of packages from outside it loads only msgspec, because every
worker imports it.

A variable that is set to an empty text counts as not set, so that a line ``NAME=`` in an environment
file means the default.

- ``table``: every variable, declared once; ``variable``: its text and its errors
- ``parsers``: text to values, and secrets hidden; ``paths``: where files lie
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import msgspec

from poolmgr.errors import SettingsError
from poolmgr.settings.parsers import OFF, SOCKET_PATH_MAX
from poolmgr.settings.paths import EMBEDDED_SUFFIX
from poolmgr.settings.table import BY_NAME, VARIABLES, Settings as Settings

INTERNAL = frozenset({"POOLMGR_STARTUP_FD", "POOLMGR_STARTUP_OUTPUT", "POOLMGR_STARTUP_PATH"})
"""Names that only our own processes hand to each other; see :mod:`poolmgr.spawn`."""


ALMOST = 0.9
"""How similar a name must be to a name of ours: REDIS_POOL_TIMOUT has 0.97, REDIS_POOL_MIN_SIZE 0.89."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One variable as ``poolmgr config`` shows it.

    Attributes:
        value: as text, secrets hidden; empty for none.
        source: ``environment``, ``default``, or ``unknown`` for a name that looks like ours and is not.
        error: what is wrong with it, or empty.
    """

    name: str
    value: str
    source: str
    meaning: str
    error: str = ""


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of an environment, by default this process's.

    Raises:
        SettingsError: one line about the first variable that has a value that is not allowed.
    """
    environ = os.environ if environ is None else environ
    texts = ((variable, environ.get(variable.name, "").strip()) for variable in VARIABLES)
    settings = Settings(**{variable.attribute: variable.read(text) for variable, text in texts if text})
    problem = _contradiction(settings)
    if problem:
        raise SettingsError(problem)
    return settings


def _contradiction(settings: Settings) -> str:
    ceiling = settings.pool_max_connections
    if ceiling is not None and settings.pool_min_idle > ceiling:
        return (
            f"REDIS_POOL_MIN_IDLE={settings.pool_min_idle} exceeds REDIS_POOL_MAX_CONNECTIONS={ceiling}; "
            f"set it to {ceiling} or less, or unset it"
        )
    least = settings.fleet_slack if settings.fleet_slack is not None else 2
    if settings.fleet and settings.fleet_budget != "auto" and int(settings.fleet_budget) <= least:
        return (
            f"REDIS_FLEET_BUDGET={settings.fleet_budget} leaves nothing beside the slack of {least}; "
            f"set it to {least + 1} or more, or REDIS_FLEET_SLACK to less"
        )
    if settings.worker_readonly_token and settings.worker_readonly_token == settings.worker_token:
        return (
            "WORKER_READONLY_TOKEN equals WORKER_TOKEN, so it would allow everything; "
            "set it to another token, or unset it"
        )
    for name, text, path in (
        ("WORKER_TOKEN", settings.worker_token, settings.worker_token_file),
        ("WORKER_READONLY_TOKEN", settings.worker_readonly_token, settings.worker_readonly_token_file),
    ):
        if text is not None and path is not None:
            return f"{name}_FILE and {name} are both set; unset one of them"
    longest = SOCKET_PATH_MAX - len(EMBEDDED_SUFFIX)
    size = len(os.fsencode(settings.socket))
    if settings.redis_url is None and size > longest:
        return (
            f"POOLMGR_SOCKET={settings.socket!r} is {size} bytes long and leaves no room for the embedded server's "
            f"socket beside it; set it to a path of at most {longest} bytes, or set REDIS_URL"
        )
    return ""


def unenforced(environ: Mapping[str, str] | None = None) -> str:
    """Why no budget is enforced in a process with this environment; empty if one is enforced. A wrong value of another
    variable does not matter here."""
    text = (os.environ if environ is None else environ).get("REDIS_CONNECTION_BUDGET", "").strip()
    if text.lower() == OFF:
        return "REDIS_CONNECTION_BUDGET=off"
    if sys.platform != "linux":
        return f"a budget needs Linux, and this is {sys.platform}"
    return ""


def describe(environ: Mapping[str, str] | None = None) -> list[Row]:
    """Every variable with its value and where it came from; wrong values are reported, not raised."""
    environ = os.environ if environ is None else environ
    rows = []
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        source = "environment" if text else "default"
        error = ""
        try:
            value = variable.show(variable.read(text) if text else variable.default_value())
        except SettingsError as problem:
            value, error = variable.show_wrong(text), str(problem)
        if not text and not value:
            value = variable.default_text.replace("`", "")
        rows.append(Row(name=variable.name, value=value, source=source, meaning=variable.meaning, error=error))
    if not any(row.error for row in rows):
        try:
            load(environ)
        except SettingsError as problem:
            name = str(problem).partition(" ")[0].partition("=")[0]
            rows = [msgspec.structs.replace(row, error=str(problem)) if row.name == name else row for row in rows]
    return rows + [
        Row(
            name=name,
            value="",
            source="unknown",
            meaning="",
            error=f"{name} is not a setting of redis-poolmgr; did you mean {meant}?",
        )
        for name, meant in misspelt(environ).items()
    ]


def misspelt(environ: Mapping[str, str]) -> dict[str, str]:
    """Names that are almost a name of ours, with that name, so that a typing error does not stay silent. Other names
    with our prefixes belong to other programs."""
    prefixes = ("POOLMGR_", "REDIS_POOL_", "REDIS_CONNECTION_", "REDIS_SOCKET_", "WORKER_")
    others = sorted(n for n in environ if n.startswith(prefixes) and n not in BY_NAME and n not in INTERNAL)
    if not others:
        return {}
    import difflib  # every worker loads this module, and few need difflib

    found = {name: difflib.get_close_matches(name, BY_NAME, 1, ALMOST) for name in others}
    return {name: meant[0] for name, meant in found.items() if meant}
