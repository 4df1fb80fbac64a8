"""The policy for a connection, made from the table of commands of the server at its other end.

A server is known by its ``run_id``, which a restart changes. The catalog asks each new connection for it. So a server
that replaces another one, or shares its address, gets its own table. The catalog reads a table
again every :data:`LIFETIME` seconds, and sooner for a name that it does not have, since modules come and go.
"""

from __future__ import annotations

import re
import time
from typing import Any

from redis import exceptions as redis_errors

from worker.errors import Problem, words
from worker.exchange import Exchange
from worker.policy import Policy
from worker.table import names_of, table_of

LIFETIME = 60.0
"""Seconds after which a table is read again in any case."""

UNKNOWN_AFTER = 5.0
"""Seconds after which it is read again because a caller named a command that it does not have."""

PATIENCE = 5.0
"""Seconds for which other threads go on with the old table while one reads it again."""

MOST = 16
"""Servers whose tables are kept."""

_RUN_ID = re.compile(rb"^run_id:(\w+)", re.MULTILINE)


class _Known:
    """A server, and the policy over its table."""

    def __init__(self, policy: Policy, now: float) -> None:
        self.policy = policy
        self.read_at = now
        self.read_again = now + LIFETIME


class Catalog:
    """One for a process; safe in all threads and greenlets. No lock: at worst two threads read the same table."""

    def __init__(self, *, readonly_scripts: bool = False) -> None:
        self._scripts = readonly_scripts
        self._servers: dict[bytes, _Known] = {}
        self.latest: Policy | None = None
        """For requests without any allowed command: they need no connection."""

    def policy(self, exchange: Exchange) -> Policy:
        """The policy for the server at the other end.

        Raises:
            Problem: the server does not list its commands (503).
            redis_errors.RedisError: the server failed.
        """
        known = self._known(exchange)
        now = time.monotonic()
        if now >= known.read_again:
            known.read_again = now + PATIENCE
            self._read_again(exchange, known)
        return known.policy

    def newer(self, exchange: Exchange) -> Policy:
        """The same, where it lacks a name: read again, unless that was done a moment ago."""
        known = self._known(exchange)
        if time.monotonic() >= known.read_at + UNKNOWN_AFTER:
            known.read_at = time.monotonic()
            self._read_again(exchange, known)
        return known.policy

    def _known(self, exchange: Exchange) -> _Known:
        connection = exchange.connection
        known: _Known | None = getattr(connection, "worker_server", None)
        if known is None:
            connection.register_connect_callback(self._reconnected)
            known = connection.worker_server = self._identify(exchange)
        return known

    def _reconnected(self, connection: Any) -> None:
        """redis-py calls this when the connection has a new socket, which may lead to another server."""
        connection.worker_server = None

    def _identify(self, exchange: Exchange) -> _Known:
        """If the server does not say its ``run_id``, the table is read for each connection."""
        reply = exchange.ask([[b"INFO", b"server"]])[0]
        found = _RUN_ID.search(reply) if isinstance(reply, bytes) else None
        name = found[1] if found else b""
        known = self._servers.get(name)
        if known is None:
            known = _Known(self._read(exchange), time.monotonic())
            if name:
                while len(self._servers) >= MOST:
                    self._servers.pop(next(iter(self._servers)), None)
                self._servers[name] = known
        self.latest = known.policy
        return known

    def _read_again(self, exchange: Exchange, known: _Known) -> None:
        try:
            policy = self._read(exchange)
        except Problem:  # it answered once, and no longer does: drop the judgement
            self.latest = None
            known.read_again = 0.0
            raise
        known.policy = self.latest = policy
        known.read_at = time.monotonic()
        known.read_again = known.read_at + LIFETIME

    def _read(self, exchange: Exchange) -> Policy:
        reply = exchange.ask([[b"COMMAND"]])[0]
        names = names_of(reply)
        if names:
            reply = exchange.ask([[b"COMMAND", b"INFO", *names]])[0]
        policy = Policy(table_of(names, reply), readonly_scripts=self._scripts)
        if not policy.table:
            detail = f": {words(reply)}" if isinstance(reply, redis_errors.RedisError) else ""
            raise Problem(
                503,
                "Redis does not list its commands, so this service cannot judge any "
                f"(allow +command and +command|info){detail}",
                retry_after=5,
            )
        return policy
