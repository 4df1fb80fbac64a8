"""Where this process's default pool leads and what its options are, in every flavour: the environment says it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.backoff import ExponentialWithJitterBackoff

from poolmgr import settings
from poolmgr.lazy import load
from poolmgr.pool.options import PARSERS

RETRIES = 3
"""How often redis-py repeats a command of the default client whose connection broke. ``redis.Redis()`` made
without a pool also repeats (ten times); few and quick, so that callers learn of an outage and do not wait it out."""


def arguments(
    retry: Callable[..., object], *, protocol: int | None, max_reply: int, parser_class: type | None
) -> tuple[str, dict[str, Any]]:
    """The URL and the arguments of a default pool.

    Args:
        retry: the class of retries, of the client's flavour.
        protocol: 2 or 3 for connections that speak that version of RESP whatever the URL says.
        max_reply: a bound of this pool's own; 0: the environment's.
        parser_class: redis-py's argument.

    Raises:
        SettingsError: an environment variable has a value that is not allowed.
        SupervisorError: the embedded server cannot be started.
    """
    values = settings.load()
    url, options = values.redis_url or _embedded(values), options_of(values)
    options["retry"] = retry(ExponentialWithJitterBackoff(base=0.01, cap=0.1), RETRIES)
    if protocol is not None:
        url = _without_protocol(url)
        prefix = "" if values.pool_name == "default" else f"{values.pool_name}-"
        options |= {"protocol": protocol, "name": f"{prefix}resp{protocol}"}
    if max_reply:
        options["max_reply"] = max_reply
    if parser_class is not None:
        options["parser_class"] = parser_class
    return url, options


def options_of(values: settings.Settings) -> dict[str, Any]:
    """The arguments of a pool that the environment sets; the URL's query overrides them."""
    return {
        **{name: getattr(values, f"pool_{name}") for name in PARSERS},
        "socket_timeout": values.socket_timeout,
        "socket_connect_timeout": values.socket_connect_timeout,
    }


def _without_protocol(url: str) -> str:
    """In redis-py the URL's query overrides keyword arguments."""
    place, question, query = url.partition("?")
    kept = [pair for pair in query.split("&") if pair.partition("=")[0] != "protocol"]
    return place + question + "&".join(kept)


def _embedded(values: settings.Settings) -> str:
    embedded = load("poolmgr.embedded")  # its dependencies are an extra, which other users need not load
    url: str = embedded.ensure(values)
    return url
