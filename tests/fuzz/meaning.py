"""What a setting's text means, and which values there are: said a second time, in other words than the product's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from poolmgr.errors import SettingsError
from poolmgr.settings.table import BY_NAME, VARIABLES, Settings

K = 1024
YEAR = 365 * 86400

WHOLE = {
    "budget": (1, 10**6), "reserve": (0, 10**6), "hosts": (1, 10**5), "fleet_budget": (1, 10**6),
    "fleet_slack": (0, 10**6), "fleet_floor": (0, 10**6), "pool_max_connections": (1, 10**6),
    "pool_min_idle": (0, 10**6), "pool_max_waiting": (0, 10**6), "pool_max_connecting": (1, 10**6),
    "worker_threads": (1, 10**4),
}  # fmt: skip
SIZES = {
    "pool_max_reply": (0, 64 * K**3),
    "worker_max_body": (1, 512 * K**2),
    "worker_max_reply": (4 * K**2, 64 * K**3),
}
LEAST = 5e-324
"""The smallest number above 0."""
SECONDS = {
    "fleet_lease": (2, 3600), "fleet_unproven": (1, 86400), "pool_timeout": (0, YEAR), "pool_idle_timeout": (0, YEAR),
    "pool_max_lifetime": (0, YEAR), "pool_leak_after": (0, YEAR), "socket_timeout": (LEAST, YEAR),
    "socket_connect_timeout": (LEAST, YEAR), "linger": (0, YEAR), "worker_request_timeout": (LEAST, YEAR),
}  # fmt: skip
WORDS = {
    "pool_order": {"fifo", "lifo"},
    "log_level": {"debug", "info", "warning", "error", "critical"},
    "log_format": {"auto", "console", "json"},
}
FLAGS = {"autostart", "worker_readonly_scripts"}
CONTROL = {chr(number) for number in (*range(32), 127)}
NAMES: dict[str, dict[str, Any]] = {
    "budget": {"auto": "auto", "off": "off"},
    "fleet_budget": {"auto": "auto"},
    "fleet_unproven": {"never": None},
    "linger": {"forever": math.inf},
}
"""Words that stand for a value among numbers."""


def check_each(environ: Mapping[str, str]) -> None:
    """Raise AssertionError where a text is taken for something else; the others may be wrong, so nothing is loaded."""
    for name, text in environ.items():
        if text.strip():
            variable = BY_NAME[name]
            try:
                value = variable.read(text.strip())
            except SettingsError:
                continue
            assert _right(variable.attribute, text.strip(), value), f"{name}={text!r} is {value!r}"


def check(loaded: Settings, environ: Mapping[str, str]) -> None:
    """Raise AssertionError where a setting is not what its text says."""
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        value = getattr(loaded, variable.attribute)
        if text:
            assert _right(variable.attribute, text, value), f"{variable.name}={text!r} is {value!r}"
        else:
            assert value == variable.default_value(), f"{variable.name} is unset, and {value!r}"


def _right(attribute: str, text: str, value: Any) -> bool:
    names = NAMES.get(attribute, {})
    if text.lower() in names:
        return bool(value == names[text.lower()])
    if attribute in WHOLE:
        return type(value) is int and _between(WHOLE[attribute], value) and int(text) == value
    if attribute in SIZES:
        number, unit = re.fullmatch(r"([0-9]+)\s*(.*)", text).groups()  # type: ignore[union-attr]
        return (
            _between(SIZES[attribute], value)
            and int(number) * K ** ("KMG".find(unit[:1].upper()) + 1 if unit else 0) == value
        )
    if attribute in SECONDS:
        return _between(SECONDS[attribute], value) and float(text) == value
    if attribute in WORDS:
        return value in WORDS[attribute] and value == text.lower()
    if attribute in FLAGS:
        return value is (text.lower() in ("1", "true", "yes", "on"))
    return _named(attribute, text, value)


def _named(attribute: str, text: str, value: Any) -> bool:
    """Of names, paths and addresses."""
    if attribute == "budgets":
        return _budgets(text, value)
    if attribute == "metrics":
        return value is None or (value == text and 0 < int(text.rpartition(":")[2]) < 1 << 16)
    if value != text:
        return False
    if attribute in ("socket", "volume") or attribute.endswith("_file"):
        longest = 107 if attribute == "socket" else len(text) * 4
        place = text.startswith("/") and (attribute == "volume" or not text.endswith("/"))
        return place and len(text.encode("utf-8", "surrogateescape")) <= longest
    if attribute.endswith("_token"):
        return all("!" <= character <= "~" for character in text)
    if attribute == "fleet":
        return len(text) <= 64 and text.isascii() and text.isprintable() and not {*text} & {*" {}\"'/@,=\\"}
    if attribute in ("pool_name", "worker_class"):
        return text.isprintable() and not {*text} & {*" {}\"'/@,=\\"}
    return attribute == "redis_url" and text.startswith(("redis://", "rediss://", "unix://")) and not CONTROL & {*text}


def _budgets(text: str, value: dict[str, int]) -> bool:
    """Each number belongs to a server, and no server has two."""
    said = sorted(int(item.rpartition("=")[2].strip()) for item in text.split(",") if item.strip())
    each = all(_between((1, 10**6), number) for number in value.values())
    return each and {*said} == {*value.values()} and all(re.match(r"(tcp|unix)://.", key) for key in value)


def _between(bounds: tuple[float, float], value: float) -> bool:
    return bounds[0] <= value <= bounds[1]


OPTIONS = {"max_connections": 0, "min_idle": 0, "max_waiting": 0, "max_reply": 0, "max_connecting": 1}
TIMES = ("idle_timeout", "max_lifetime", "leak_after", "timeout")


def check_options(options: Mapping[str, Any]) -> None:
    """Raise AssertionError where a URL's options are beyond their bounds."""
    for name, value in options.items():
        if name in OPTIONS:
            assert type(value) is int and value >= OPTIONS[name], f"{name} is {value!r}"
        elif name in TIMES:
            assert value is None or value >= 0, f"{name} is {value!r}"  # NaN is not
        elif name == "order":
            assert value in ("fifo", "lifo"), f"{name} is {value!r}"
