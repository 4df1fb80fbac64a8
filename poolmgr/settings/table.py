"""Every environment variable that this project reads, each declared once.

A field of :class:`Settings` has the variable's type; :func:`setting` has its default, name, meaning and bounds. The
parser, ``poolmgr config``, the README's table and the example environment file follow from both. ``msgspec.Meta`` is
not used: it bounds what msgspec decodes, and an environment's errors need more words than its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from poolmgr.settings import parsers, paths
from poolmgr.settings.variable import Variable, declared, setting

_SIZE = "with K, M or G (of 1024) if wanted"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The values of all variables, typed. Times in seconds."""

    redis_url: str | None = setting(
        None,
        "REDIS_URL",
        "the server; unset, a private embedded one that keeps nothing after the service ends",
        parse=parsers.url,
        allowed="redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH",
        default_text="an embedded server",
        secret="url",
        example="redis://user:password@cache.example:6379/0",
    )
    budget: int | Literal["auto", "off"] = setting(
        "auto",
        "REDIS_CONNECTION_BUDGET",
        "connections of all processes of this host to one server; `auto` asks the server, `off` shares nothing",
        parse=parsers.budget,
        allowed="a whole number from 1 to 1000000, or auto, or off",
        example="200",
    )
    budgets: dict[str, int] = setting(
        dict,
        "REDIS_CONNECTION_BUDGETS",
        "the same for single servers; overrides `REDIS_CONNECTION_BUDGET`: `cache:6379=200,queue:6379=50`",
        parse=parsers.budgets,
        allowed="SERVER=NUMBER,... with numbers from 1 to 1000000, as in cache:6379=200,queue:6379=50",
        example="cache.example:6379=200,queue.example:6379=50",
    )
    reserve: int | None = setting(
        None,
        "REDIS_CONNECTION_RESERVE",
        "connections that `auto` leaves to everyone else",
        default_text="10% of `maxclients`, at least 8",
        example="100",
    )
    hosts: int = setting(
        1,
        "REDIS_CONNECTION_HOSTS",
        "how many hosts share the server: `auto` divides by it",
        zero=False,
        most=100_000,
        example="3",
    )
    fleet: str | None = setting(
        None,
        "REDIS_FLEET",
        "hosts with the same word share one budget at each server (`docs/fleet.md`)",
        parse=parsers.fleet_name,
        allowed="a word of at most 64 ASCII letters, digits and _ . : + -",
        default_text="none: each host has its own budget",
        example="web",
    )
    fleet_budget: int | Literal["auto"] = setting(
        "auto",
        "REDIS_FLEET_BUDGET",
        "connections of all the fleet's hosts to one server; `auto` asks the server",
        parse=parsers.fleet_budget,
        allowed="a whole number from 1 to 1000000, or auto",
        example="2400",
    )
    fleet_slack: int | None = setting(
        None,
        "REDIS_FLEET_SLACK",
        "connections of the fleet's budget that no host is given: for those of hosts that are over and do not know it",
        default_text="2% of the budget, at least 2",
        example="20",
    )
    fleet_floor: int = setting(
        1, "REDIS_FLEET_FLOOR", "connections that this host gets before others get more, if it needs them"
    )
    fleet_lease: float = setting(
        10.0,
        "REDIS_FLEET_LEASE",
        "seconds after which a host that was not heard of may be fenced; the same on all hosts",
        parse=parsers.lease,
        allowed="seconds from 2 to 3600",
    )
    fleet_unproven: float | None = setting(
        None,
        "REDIS_FLEET_UNPROVEN",
        "where no host of the fleet may list clients: seconds after which the part of a host that was fenced is free "
        "without a proof; the same on all hosts",
        parse=parsers.unproven,
        allowed="seconds from 1 to 86400, or never",
        default_text="never",
        example="60",
    )
    pool_max_connections: int | None = setting(
        None,
        "REDIS_POOL_MAX_CONNECTIONS",
        "one pool's own ceiling",
        zero=False,
        default_text="the budget",
        example="50",
    )
    pool_timeout: float = setting(5.0, "REDIS_POOL_TIMEOUT", "seconds to wait for a connection; 0: do not wait")
    pool_min_idle: int = setting(0, "REDIS_POOL_MIN_IDLE", "connections that each pool keeps warm")
    pool_max_waiting: int = setting(
        0,
        "REDIS_POOL_MAX_WAITING",
        "refuse at once when this many callers of a pool already wait; 0: all may wait",
        default_text="0 (no bound)",
    )
    pool_idle_timeout: float = setting(
        60.0,
        "REDIS_POOL_IDLE_TIMEOUT",
        "seconds after which connections beyond the peak use of that time are closed; 0: never",
    )
    pool_max_lifetime: float = setting(
        3600.0, "REDIS_POOL_MAX_LIFETIME", "seconds after which a connection is replaced, jittered; 0: never"
    )
    pool_order: Literal["fifo", "lifo"] = setting(
        "fifo",
        "REDIS_POOL_ORDER",
        "which idle connection is lent next: the longest idle (`fifo`) or the last used (`lifo`)",
    )
    pool_leak_after: float = setting(
        0.0,
        "REDIS_POOL_LEAK_AFTER",
        "seconds after which a connection still out is logged with the stack of its checkout; 0: never",
        default_text="0 (off)",
    )
    pool_name: str = setting(
        "default",
        "REDIS_POOL_NAME",
        "what messages and metrics call the pool of `get_pool()`",
        parse=parsers.name,
        allowed="a word of letters, digits and _ . : + -",
        example="cache",
    )
    pool_max_connecting: int = setting(
        2, "REDIS_POOL_MAX_CONNECTING", "connections that one pool opens at the same time", zero=False
    )
    pool_max_reply: int = setting(
        0,
        "REDIS_POOL_MAX_REPLY",
        "bytes that a reply may take, or those of a pipeline together, plus 48 for each element; 0: no bound",
        parse=parsers.size(0, 64 << 30),
        allowed=f"bytes up to 64G, {_SIZE}, or 0",
        default_text="0 (no bound)",
    )
    socket_timeout: float = setting(5.0, "REDIS_SOCKET_TIMEOUT", "seconds to wait for a reply", zero=False)
    socket_connect_timeout: float = setting(
        2.0, "REDIS_SOCKET_CONNECT_TIMEOUT", "seconds to wait for a connect", zero=False
    )
    socket: str = setting(
        paths.default_socket,
        "POOLMGR_SOCKET",
        "the supervisor's Unix socket; processes with the same one share a budget",
        parse=parsers.socket_path,
        allowed=f"an absolute path of at most {parsers.SOCKET_PATH_MAX} bytes",
        default_text="`/tmp/redis-poolmgr-UID/supervisor`",
        example="/run/poolmgr/supervisor",
    )
    volume: str | None = setting(
        None,
        "POOLMGR_VOLUME",
        "a directory that others may write to by its mode and that only our processes can reach: a pod's volume",
        parse=parsers.directory,
        allowed="an absolute path",
        default_text="none",
        example="/run/pod",
    )
    linger: float = setting(
        3.0,
        "POOLMGR_LINGER",
        "seconds the supervisor outlives its last client; at most 3 if that client ended in good order, "
        "0 after a service; `forever`: it ends at SIGTERM only",
        parse=parsers.seconds_or_forever,
        allowed="a number of seconds, 0 or more, or forever",
    )
    autostart: bool = setting(True, "POOLMGR_AUTOSTART", "start a supervisor if there is none; 0 where systemd does it")
    metrics: str | None = setting(
        None,
        "POOLMGR_METRICS",
        "where the supervisor serves `/metrics`",
        parse=parsers.address,
        allowed="HOST:PORT or off",
        default_text="off (`deploy/conf.py`: `127.0.0.1:9108`)",
        example="127.0.0.1:9108",
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = setting(
        "info", "POOLMGR_LOG_LEVEL", "the least severe events that are logged"
    )
    log_format: Literal["auto", "console", "json"] = setting(
        "auto", "POOLMGR_LOG_FORMAT", "`auto` is `console` on a terminal, else `json`"
    )
    worker_class: str = setting(
        "gthread",
        "WORKER_CLASS",
        "gunicorn's worker class",
        parse=parsers.name,
        allowed="a worker class of gunicorn: gthread, sync, gevent or a dotted path",
    )
    worker_threads: int = setting(4, "WORKER_THREADS", "threads of each gthread worker", zero=False, most=10_000)
    worker_token: str | None = setting(
        None,
        "WORKER_TOKEN",
        "what callers of the HTTP service must send as `Authorization: Bearer`",
        parse=parsers.token,
        allowed="printable ASCII without spaces",
        default_text="made, kept in a private file",
        secret="whole",
        example="a-long-random-text",
    )
    worker_token_file: str | None = setting(
        None,
        "WORKER_TOKEN_FILE",
        "a file with that token, for secrets that containers get as files; it is read again when it changes",
        parse=parsers.file_path,
        allowed="an absolute path",
        default_text="none",
        example="/run/secrets/worker-token",
    )
    worker_readonly_token: str | None = setting(
        None,
        "WORKER_READONLY_TOKEN",
        "a second token that only reads (`docs/http.md` says what that is)",
        parse=parsers.token,
        allowed="printable ASCII without spaces",
        default_text="none",
        secret="whole",
        example="another-long-random-text",
    )
    worker_readonly_token_file: str | None = setting(
        None,
        "WORKER_READONLY_TOKEN_FILE",
        "a file with the second token",
        parse=parsers.file_path,
        allowed="an absolute path",
        default_text="none",
        example="/run/secrets/worker-readonly-token",
    )
    worker_readonly_scripts: bool = setting(
        False, "WORKER_READONLY_SCRIPTS", "1: the read-only token may run EVAL_RO, EVALSHA_RO and FCALL_RO"
    )
    worker_max_body: int = setting(
        1 << 20,
        "WORKER_MAX_BODY",
        "longest body in bytes that the HTTP service takes",
        parse=parsers.size(1, 512 << 20),
        allowed=f"bytes from 1 to 512M, {_SIZE}",
        default_text="1M",
    )
    worker_max_reply: int = setting(
        64 << 20,
        "WORKER_MAX_REPLY",
        "most bytes that the replies to one request of the HTTP service may take, plus 48 for each element",
        parse=parsers.size(4 << 20, 64 << 30),
        allowed=f"bytes from 4M (a server's table of commands needs that) to 64G, {_SIZE}",
        default_text="64M",
    )
    worker_request_timeout: float = setting(
        10.0,
        "WORKER_REQUEST_TIMEOUT",
        "seconds for a caller of the HTTP service to send its request, and again to take its answer",
        zero=False,
    )

    def budget_of(self, keys: Iterable[str]) -> int | Literal["auto", "off"]:
        """The budget of one server, known by these endpoint keys (``tcp://host:port``, ``unix:///path``).

        ``REDIS_CONNECTION_BUDGETS`` overrides ``REDIS_CONNECTION_BUDGET``. If several keys of one server have
        different numbers, the smallest holds, since none of them may be exceeded.
        """
        named = [self.budgets[key] for key in keys if key in self.budgets]
        return min(named) if named else self.budget

    def private_directory(self) -> Path:
        """A directory that only this user can enter: for the embedded server, the token, the socket.

        It is the directory of the supervisor's socket if that is private, so that services with their own
        sockets do not meet. Otherwise it is the default directory, which is made if it is missing.

        Raises:
            SettingsError: the default one is not ours or open to others.
        """
        parent = Path(self.socket).parent
        if parent != paths.default_directory() and paths.is_private(parent):
            return parent
        return paths.private_directory()

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={shown!r}' for name, shown in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(v.attribute, v.show(getattr(self, v.attribute))) for v in VARIABLES]


VARIABLES: tuple[Variable, ...] = tuple(map(declared, msgspec.structs.fields(Settings)))
BY_NAME: dict[str, Variable] = {variable.name: variable for variable in VARIABLES}
