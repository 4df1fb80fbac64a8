"""The table of every environment variable this project reads.

:data:`VARIABLES` is the only place that declares a variable's name, default, meaning and allowed
values. The loader (:mod:`poolmgr.settings`), ``poolmgr config``, the README's table and the example
environment file are made from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from poolmgr.errors import SettingsError
from poolmgr.settings import parsers


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    Attributes:
        name: in the environment.
        attribute: in :class:`Settings`.
        parse: text to value; raises ValueError, whose text (if any) is added to the message.
        allowed: the values to set, for the message of an error.
        default: the value if it is not set; a function if it depends on the machine.
        default_text: the default as documents show it.
        meaning: for people, one line.
        secret: how much of the value is hidden: not at all, the whole, or a URL's credentials.
        example: a value for the example environment file.
    """

    name: str
    attribute: str
    parse: Callable[[str], Any]
    allowed: str
    default: Any
    default_text: str
    meaning: str
    secret: Literal["", "whole", "url"] = ""
    example: str = ""

    def show(self, value: object) -> str:
        """The value as text, without its secrets."""
        if value is None:
            return ""
        if self.secret == "url":
            return parsers.mask_url(str(value))
        if self.secret:
            return parsers.HIDDEN
        if isinstance(value, bool):
            return "1" if value else "0"
        if isinstance(value, dict):
            return ",".join(f"{key}={number}" for key, number in value.items())
        if isinstance(value, float):
            return f"{value:g}"
        return str(value)

    def show_wrong(self, text: str) -> str:
        """The same of a text that is not allowed: it may be anything."""
        return self.show(text) if self.secret else parsers.conceal(text)

    def default_value(self) -> Any:
        return self.default() if callable(self.default) else self.default

    def read(self, text: str) -> Any:
        """The value of a text that is set.

        Raises:
            SettingsError: one line with the name, the value (secrets hidden) and the values to set.
        """
        try:
            return self.parse(text)
        except ValueError as error:
            shown = self.show_wrong(text)
            if len(shown) > 120:
                shown = shown[:117] + "..."
            detail = f" ({error})" if str(error) else ""
            raise SettingsError(
                f"{self.name}={shown!r} is not allowed{detail}; set it to {self.allowed}, or unset it"
            ) from None


def default_directory() -> Path:
    """``/tmp/redis-poolmgr-UID``. Not below ``TMPDIR`` or ``XDG_RUNTIME_DIR``: both differ between a
    login session, cron and services, and all of them must find the same supervisor."""
    user = os.getuid() if hasattr(os, "getuid") else 0  # Windows has none, and no supervisor
    return Path("/tmp", f"redis-poolmgr-{user}")


def _default_socket() -> str:
    return str(default_directory() / "supervisor")


_FROM_1 = "a whole number from 1 to 1000000"
_FROM_0 = "a whole number from 0 to 1000000"
_TIME = "a number of seconds, 0 or more"
_POSITIVE_TIME = "a number of seconds above 0"

VARIABLES: tuple[Variable, ...] = (
    Variable(
        name="REDIS_URL",
        attribute="redis_url",
        parse=parsers.url,
        allowed="redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH",
        default=None,
        default_text="an embedded server",
        meaning="the server; unset, a private embedded one that keeps nothing after the service ends",
        secret="url",
        example="redis://user:password@cache.example:6379/0",
    ),
    Variable(
        name="REDIS_CONNECTION_BUDGET",
        attribute="budget",
        parse=parsers.budget,
        allowed=f"{_FROM_1}, or auto, or off",
        default="auto",
        default_text="`auto`",
        meaning="connections of all processes of this host to one server; `auto` asks the server, `off` shares nothing",
        example="200",
    ),
    Variable(
        name="REDIS_CONNECTION_BUDGETS",
        attribute="budgets",
        parse=parsers.budgets,
        allowed="SERVER=NUMBER,... with numbers from 1 to 1000000, as in cache:6379=200,queue:6379=50",
        default=dict,
        default_text="",
        meaning="the same for single servers; overrides `REDIS_CONNECTION_BUDGET`: `cache:6379=200,queue:6379=50`",
        example="cache.example:6379=200,queue.example:6379=50",
    ),
    Variable(
        name="REDIS_CONNECTION_RESERVE",
        attribute="reserve",
        parse=parsers.whole(0),
        allowed=_FROM_0,
        default=None,
        default_text="10% of `maxclients`, at least 8",
        meaning="connections that `auto` leaves to everyone else",
        example="100",
    ),
    Variable(
        name="REDIS_CONNECTION_HOSTS",
        attribute="hosts",
        parse=parsers.whole(1, 100_000),
        allowed="a whole number from 1 to 100000",
        default=1,
        default_text="1",
        meaning="how many hosts share the server: `auto` divides by it",
        example="3",
    ),
    Variable(
        name="REDIS_POOL_MAX_CONNECTIONS",
        attribute="pool_max_connections",
        parse=parsers.whole(1),
        allowed=_FROM_1,
        default=None,
        default_text="the budget",
        meaning="one pool's own ceiling",
        example="50",
    ),
    Variable(
        name="REDIS_POOL_TIMEOUT",
        attribute="pool_timeout",
        parse=parsers.seconds(zero=True),
        allowed=_TIME,
        default=5.0,
        default_text="5",
        meaning="seconds to wait for a connection; 0: do not wait",
    ),
    Variable(
        name="REDIS_POOL_MIN_IDLE",
        attribute="pool_min_idle",
        parse=parsers.whole(0),
        allowed=_FROM_0,
        default=0,
        default_text="0",
        meaning="connections that each pool keeps warm",
    ),
    Variable(
        name="REDIS_POOL_MAX_WAITING",
        attribute="pool_max_waiting",
        parse=parsers.whole(0),
        allowed=_FROM_0,
        default=0,
        default_text="0 (no bound)",
        meaning="refuse at once when so many callers of a pool already wait; 0: all may wait",
    ),
    Variable(
        name="REDIS_POOL_IDLE_TIMEOUT",
        attribute="pool_idle_timeout",
        parse=parsers.seconds(zero=True),
        allowed=_TIME,
        default=60.0,
        default_text="60",
        meaning="seconds after which connections beyond the peak use of that time are closed; 0: never",
    ),
    Variable(
        name="REDIS_POOL_MAX_LIFETIME",
        attribute="pool_max_lifetime",
        parse=parsers.seconds(zero=True),
        allowed=_TIME,
        default=3600.0,
        default_text="3600",
        meaning="seconds after which a connection is replaced, jittered; 0: never",
    ),
    Variable(
        name="REDIS_POOL_ORDER",
        attribute="pool_order",
        parse=parsers.one_of("fifo", "lifo"),
        allowed="fifo or lifo",
        default="fifo",
        default_text="`fifo`",
        meaning="which idle connection is lent next: the longest idle (`fifo`) or the last used (`lifo`)",
    ),
    Variable(
        name="REDIS_POOL_LEAK_AFTER",
        attribute="pool_leak_after",
        parse=parsers.seconds(zero=True),
        allowed=_TIME,
        default=0.0,
        default_text="0 (off)",
        meaning="seconds after which a connection still out is logged with the stack of its checkout; 0: never",
    ),
    Variable(
        name="REDIS_POOL_NAME",
        attribute="pool_name",
        parse=parsers.name,
        allowed="a word of letters, digits and _ . : + -",
        default="default",
        default_text="`default`",
        meaning="what messages and metrics call the pool of `get_pool()`",
        example="cache",
    ),
    Variable(
        name="REDIS_POOL_MAX_CONNECTING",
        attribute="pool_max_connecting",
        parse=parsers.whole(1),
        allowed=_FROM_1,
        default=2,
        default_text="2",
        meaning="connections that one pool opens at the same time",
    ),
    Variable(
        name="REDIS_POOL_MAX_REPLY",
        attribute="pool_max_reply",
        parse=parsers.size_or_none,
        allowed="bytes up to 64G, with K, M or G (of 1024) if wanted, or 0",
        default=0,
        default_text="0 (no bound)",
        meaning="bytes that a reply may take, or those of a pipeline together, 48 more for each element; 0: no bound",
    ),
    Variable(
        name="REDIS_SOCKET_TIMEOUT",
        attribute="socket_timeout",
        parse=parsers.seconds(zero=False),
        allowed=_POSITIVE_TIME,
        default=5.0,
        default_text="5",
        meaning="seconds to wait for a reply",
    ),
    Variable(
        name="REDIS_SOCKET_CONNECT_TIMEOUT",
        attribute="socket_connect_timeout",
        parse=parsers.seconds(zero=False),
        allowed=_POSITIVE_TIME,
        default=2.0,
        default_text="2",
        meaning="seconds to wait for a connect",
    ),
    Variable(
        name="POOLMGR_SOCKET",
        attribute="socket",
        parse=parsers.socket_path,
        allowed=f"an absolute path of at most {parsers.SOCKET_PATH_MAX} bytes",
        default=_default_socket,
        default_text="`/tmp/redis-poolmgr-UID/supervisor`",
        meaning="the supervisor's Unix socket; processes with the same one share a budget",
        example="/run/poolmgr/supervisor",
    ),
    Variable(
        name="POOLMGR_LINGER",
        attribute="linger",
        parse=parsers.seconds(zero=True),
        allowed=_TIME,
        default=3.0,
        default_text="3",
        meaning="seconds the supervisor outlives its last client; at most 3 if that client ended in good order, "
        "0 after a service",
    ),
    Variable(
        name="POOLMGR_AUTOSTART",
        attribute="autostart",
        parse=parsers.flag,
        allowed="1 or 0",
        default=True,
        default_text="1",
        meaning="start a supervisor if there is none; 0 where systemd does it",
    ),
    Variable(
        name="POOLMGR_METRICS",
        attribute="metrics",
        parse=parsers.address,
        allowed="HOST:PORT or off",
        default=None,
        default_text="off (`deploy/conf.py`: `127.0.0.1:9108`)",
        meaning="where the supervisor serves `/metrics`",
        example="127.0.0.1:9108",
    ),
    Variable(
        name="POOLMGR_LOG_LEVEL",
        attribute="log_level",
        parse=parsers.one_of("debug", "info", "warning", "error", "critical"),
        allowed="debug, info, warning, error or critical",
        default="info",
        default_text="`info`",
        meaning="the least severe events that are logged",
    ),
    Variable(
        name="POOLMGR_LOG_FORMAT",
        attribute="log_format",
        parse=parsers.one_of("auto", "console", "json"),
        allowed="auto, console or json",
        default="auto",
        default_text="`auto`",
        meaning="`auto` is `console` on a terminal, else `json`",
    ),
    Variable(
        name="WORKER_CLASS",
        attribute="worker_class",
        parse=parsers.name,
        allowed="a worker class of gunicorn: gthread, sync, gevent or a dotted path",
        default="gthread",
        default_text="`gthread`",
        meaning="gunicorn's worker class",
    ),
    Variable(
        name="WORKER_THREADS",
        attribute="worker_threads",
        parse=parsers.whole(1, 10_000),
        allowed="a whole number from 1 to 10000",
        default=4,
        default_text="4",
        meaning="threads of each gthread worker",
    ),
    Variable(
        name="WORKER_TOKEN",
        attribute="worker_token",
        parse=parsers.token,
        allowed="printable ASCII without spaces",
        default=None,
        default_text="made, kept in a private file",
        meaning="what callers of the HTTP service must send as `Authorization: Bearer`",
        secret="whole",
        example="a-long-random-text",
    ),
    Variable(
        name="WORKER_READONLY_TOKEN",
        attribute="worker_readonly_token",
        parse=parsers.token,
        allowed="printable ASCII without spaces",
        default=None,
        default_text="none",
        meaning="a second token that only reads (`docs/http.md` says what that is)",
        secret="whole",
        example="another-long-random-text",
    ),
    Variable(
        name="WORKER_READONLY_SCRIPTS",
        attribute="worker_readonly_scripts",
        parse=parsers.flag,
        allowed="1 or 0",
        default=False,
        default_text="0",
        meaning="1: the read-only token may run EVAL_RO, EVALSHA_RO and FCALL_RO",
    ),
    Variable(
        name="WORKER_MAX_BODY",
        attribute="worker_max_body",
        parse=parsers.size,
        allowed="bytes from 1 to 512M, with K, M or G (of 1024) if wanted",
        default=1 << 20,
        default_text="1M",
        meaning="longest body in bytes that the HTTP service takes",
    ),
    Variable(
        name="WORKER_MAX_REPLY",
        attribute="worker_max_reply",
        parse=parsers.reply_size,
        allowed="bytes from 4M (a server's table of commands needs that) to 64G, with K, M or G (of 1024) if wanted",
        default=64 << 20,
        default_text="64M",
        meaning="most bytes that the replies to one request of the HTTP service may take, 48 more for each element",
    ),
    Variable(
        name="WORKER_REQUEST_TIMEOUT",
        attribute="worker_request_timeout",
        parse=parsers.seconds(zero=False),
        allowed=_POSITIVE_TIME,
        default=10.0,
        default_text="10",
        meaning="seconds for a caller of the HTTP service to send its request, and again to take its answer",
    ),
)

BY_NAME: dict[str, Variable] = {variable.name: variable for variable in VARIABLES}
