"""Running commands on this process's pool: one connection for a request, its replies raw.

No response callback touches a reply: the clients expect the shapes of RESP2. Everything is bounded:
waiting for a connection by the pool, the replies of one request by :attr:`Runner.reply_timeout`
together, and a blocking command below that. While one blocks its caller is watched; when the caller
goes away the connection is closed, which frees it, and ends the command at the server too.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from typing import Any

from redis import exceptions as redis_errors

import poolmgr
from worker import policy
from worker.errors import Problem, words
from worker.protocol import Command

WATCH_EVERY = 0.25
"""Seconds between two looks at a caller whose command blocks."""

TABLE_LIFETIME = 60.0
"""Seconds after which the server's command table is read again, whatever happens. A lost connection
has it read again at once: another server may have taken the place."""

TABLE_PATIENCE = 5.0
"""Seconds that one thread may take to read the table while others still use the old one."""

_HANGUP = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Runner:
    """Runs commands for callers. One for a process; safe in all threads and greenlets.

    Args:
        reply_timeout: seconds in which all replies of one request must have come.
    """

    def __init__(self, reply_timeout: float) -> None:
        self.reply_timeout = reply_timeout
        self.longest_block = reply_timeout - min(1.0, reply_timeout / 5)
        self._table: policy.Table = {}
        self._table_until = 0.0

    def ping(self) -> None:
        """That the server answers through the pool.

        Raises: whatever says that it does not.
        """
        with self._connection() as connection:
            self._exchange(connection, [[b"PING"]])

    def run(
        self,
        commands: Sequence[Command],
        *,
        readonly: bool,
        atomic: bool = False,
        caller: socket.socket | None = None,
    ) -> list[Any]:
        """A reply for each command, in order; error replies and refusals are exceptions among them.

        Args:
            readonly: whether only what cannot write is allowed.
            atomic: as a transaction; one refusal then discards all.
            caller: its socket, to be watched while a command blocks.

        Raises:
            Problem: the transaction was discarded, or the caller has gone.
            RedisError: the server or the pool failed; nothing is known of what was run.
        """
        table = self._current_table()
        ready: list[Command] = []
        outcome: list[Any] = [None] * len(commands)
        positions: list[int] = []
        blocking = 0
        for position, command in enumerate(commands):
            rule = policy.find(table, command)
            if rule is None:
                rule = self._ask(command)
            why = policy.refusal(rule, command, readonly=readonly)
            if why and atomic:
                raise Problem(400, f"EXECABORT Transaction discarded because of: {why}")
            if why:
                outcome[position] = redis_errors.ResponseError(why)
                continue
            if not atomic:  # inside a transaction nothing blocks
                _, blocks = policy.bounded(rule, command, self.longest_block)
                blocking += blocks
            ready.append(command)
            positions.append(position)
        if not ready:
            return outcome
        if blocking:
            share = self.longest_block / blocking
            ready = [policy.bounded(policy.find(table, command), command, share)[0] for command in ready]
        try:
            with self._connection() as connection:
                if atomic:
                    replies = self._transaction(connection, ready)
                else:
                    replies = self._exchange(connection, ready, caller if blocking else None)
        except (redis_errors.ConnectionError, redis_errors.TimeoutError):
            self._table_until = 0.0
            raise
        for position, reply in zip(positions, replies, strict=True):
            outcome[position] = reply
        return outcome

    # ---- the server's command table ------------------------------------------------------------

    def _current_table(self) -> policy.Table:
        now = time.monotonic()
        if self._table:
            if now <= self._table_until:
                return self._table
            self._table_until = now + TABLE_PATIENCE  # one thread reads; the others go on with what is there
        return self._read_table()

    def _read_table(self) -> policy.Table:
        """At first many threads may do this; the last one's is kept, and all are right."""
        with self._connection() as connection:
            reply = self._exchange(connection, [[b"COMMAND"]])[0]
        if not isinstance(reply, list) or not reply:
            detail = f": {words(reply)}" if isinstance(reply, Exception) else ""
            raise Problem(
                503,
                f"Redis does not tell its commands, so none can be judged (allow it +command){detail}",
                retry_after=5,
            )
        self._table = policy.table_of(reply)
        self._table_until = time.monotonic() + TABLE_LIFETIME
        return self._table

    def _ask(self, command: Command) -> policy.Rule | None:
        """What the server says of a name that is not in the table: a renamed command, a new module's."""
        with self._connection() as connection:
            reply = self._exchange(connection, [[b"COMMAND", b"INFO", command[0]]])[0]
        found = list(policy.table_of(reply).values()) if isinstance(reply, list) else []
        if not found:
            return None
        rule = found[0]
        return policy.find({policy.name_of(command): rule}, command)

    # ---- one connection ------------------------------------------------------------------------

    def _connection(self) -> Any:
        return poolmgr.get_pool(protocol=2).connection()

    def _transaction(self, connection: Any, commands: list[Command]) -> list[Any]:
        replies = self._exchange(connection, [[b"MULTI"], *commands, [b"EXEC"]])
        result = replies[-1]
        if isinstance(result, list):
            return result
        causes = [words(reply) for reply in replies[:-1] if isinstance(reply, Exception)]
        text = words(result) if isinstance(result, Exception) else "EXECABORT Transaction discarded"
        raise Problem(400, f"{text} ({causes[0]})" if causes else text)

    def _exchange(self, connection: Any, commands: list[Command], caller: socket.socket | None = None) -> list[Any]:
        """Send all, read all. Whatever is raised here, the connection is closed or all its replies are read."""
        deadline = time.monotonic() + self.reply_timeout
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies: list[Any] = []
        for _ in commands:
            if caller is not None:
                self._watch(connection, caller, deadline)
            try:
                replies.append(
                    connection.read_response(disable_decoding=True, timeout=self._left(connection, deadline))
                )
            except redis_errors.ResponseError as error:
                replies.append(error)
        return replies

    def _left(self, connection: Any, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            connection.disconnect()
            raise redis_errors.TimeoutError(f"no reply within {self.reply_timeout:g} s")
        return left

    def _watch(self, connection: Any, caller: socket.socket, deadline: float) -> None:
        """Until a reply begins to come; if the caller goes away first, close the connection."""
        poller = select.poll()
        try:
            poller.register(caller, _HANGUP)
        except (OSError, ValueError):
            connection.disconnect()
            raise Problem(503, "the caller has gone") from None
        while not connection.can_read(timeout=min(WATCH_EVERY, self._left(connection, deadline))):
            if poller.poll(0):
                connection.disconnect()
                raise Problem(503, "the caller has gone")
