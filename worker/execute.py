"""Running commands on this process's pool: one connection for a request, its replies raw.

No response callback touches a reply: the clients expect the shapes of RESP2. Everything is bounded:
the wait for a connection by the pool, all replies of one request together by :attr:`Runner.reply_timeout`,
including those to our own questions, and a blocking command below that. While a command blocks, its caller is
watched. When the caller goes away, we close the connection, which frees it and ends the command at the server too.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

from redis import exceptions as redis_errors

import poolmgr
from worker.catalog import Catalog
from worker.errors import Problem, is_busy, words
from worker.exchange import Exchange
from worker.policy import Allowed, Policy, Refused, malformed
from worker.protocol import Command
from worker.replies import Parser
from worker.scripts import Scripts

LATENESS = 0.1
"""Seconds by which a server may end a wait too late: it checks ten times a second, unless its ``hz`` differs."""

TOO_MANY = "ERR at most {} commands that may block are allowed in one request: each waits, one after the other"

ALONE = "ERR '{}' is allowed alone only, as the one command of a request"


PATIENCE = 0.25
"""Seconds for which a health check waits for a connection that others hold."""

BUSY = ("budget", "pool", "queue", "descriptors")
"""Reasons for which there is no connection, though the server may well answer."""


class Runner:
    """Runs commands for callers. One for a process; safe in all threads and greenlets.

    Args:
        reply_timeout: seconds within which all replies of one request must come.
        max_reply: bytes that the replies to one request may take; 0: no bound.
        readonly_scripts: whether read-only callers may run scripts that only read.
    """

    def __init__(self, reply_timeout: float, *, max_reply: int = 0, readonly_scripts: bool = False) -> None:
        self.reply_timeout = reply_timeout
        self.max_reply = max_reply
        self.longest_block = reply_timeout - min(1.0, reply_timeout / 5)
        self.most_blocking = max(1, int((self.longest_block + LATENESS) / (2 * LATENESS)))  # so that each has as long
        self._answered = time.monotonic()
        """When the server has last answered a request; the start has asked it."""
        self.catalog = Catalog(readonly_scripts=readonly_scripts)
        self.scripts = Scripts()

    def ping(self) -> None:
        """Check that the server answers through the pool. While others hold all its connections, the last answer that
        one of them has had says so: a service that is busy is not broken, and must not lose its callers to others. An
        answer says so for as long as two requests may take, one that waits for the other.

        Raises: the error of redis-py or the pool if it does not.
        """
        try:
            with self._pool().connection(PATIENCE) as connection, self._heard():
                Exchange(connection, self.reply_timeout).ask([[b"PING"]])
        except poolmgr.ConnectionPoolTimeoutError as error:
            if error.reason not in BUSY or time.monotonic() - self._answered > 2 * self.reply_timeout:
                raise

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
            readonly: whether only commands that cannot write are allowed.
            atomic: as a transaction; one refusal then discards all.
            caller: the caller's socket, watched while a command blocks.

        Raises:
            Problem: the transaction was discarded, the caller has gone, or the server does not list its commands.
            RedisError: the server or the pool failed; it is unknown which commands were run.
        """
        expected = self.catalog.latest
        verdicts = _judge(expected, commands, readonly=readonly, atomic=atomic)
        if all(isinstance(verdict, Refused) and not verdict.unknown for verdict in verdicts):
            return _outcome(verdicts, [], atomic=atomic)  # no server need be asked to know that
        with self._pool().connection() as connection, self._heard():
            exchange = Exchange(connection, self.reply_timeout)
            try:
                policy = self.catalog.policy(exchange)
            except redis_errors.ResponseError as error:
                if expected is None or not is_busy(error) or not _kills(verdicts):
                    raise
                policy = expected  # a BUSY server does not say who it is now
            if policy is not expected:
                verdicts = _judge(policy, commands, readonly=readonly, atomic=atomic)
            if any(isinstance(verdict, Refused) and verdict.unknown for verdict in verdicts):
                newer = self.catalog.newer(exchange)
                if newer is not policy:
                    policy, verdicts = newer, _judge(newer, commands, readonly=readonly, atomic=atomic)
            if not atomic:
                verdicts = self._few_blocking(verdicts)
            allowed = [verdict for verdict in verdicts if isinstance(verdict, Allowed)]
            if not allowed or (atomic and len(allowed) < len(verdicts)):
                return _outcome(verdicts, [], atomic=atomic)
            if not policy.knows(b"echo", b"ping"):
                raise Problem(503, "Redis does not know ECHO and PING by these names, which this service needs")
            if atomic:
                replies = self._transaction(exchange, policy, allowed)
            elif allowed[0].kills:
                replies = self._kill(exchange, allowed[0].command)
            else:
                replies = self._plain(exchange, allowed, caller)
        return _outcome(verdicts, replies, atomic=atomic)

    # ---- one connection ------------------------------------------------------------------------

    def _pool(self) -> Any:
        return poolmgr.get_pool(protocol=2, max_reply=self.max_reply, parser_class=Parser)

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        """Remember when the server has answered."""
        try:
            yield
        except (redis_errors.ConnectionError, redis_errors.TimeoutError):
            self._answered = -math.inf
            raise
        self._answered = time.monotonic()

    def _plain(self, exchange: Exchange, allowed: list[Allowed], caller: socket.socket | None) -> list[Any]:
        """One after the other. Those that block share the time."""
        blocking = sum(verdict.blocking is not None for verdict in allowed)
        share = (self.longest_block - LATENESS * (blocking - 1)) / blocking if blocking else 0.0
        return exchange.ask([self._sent(verdict, share) for verdict in allowed], caller=caller if blocking else None)

    def _few_blocking(self, verdicts: list[Allowed | Refused]) -> list[Allowed | Refused]:
        """Those that are too many refused: all of them may wait for the whole of their time."""
        left, found = self.most_blocking, list(verdicts)
        for at, verdict in enumerate(verdicts):
            if isinstance(verdict, Allowed) and verdict.blocking is not None:
                left -= 1
                if left < 0:
                    found[at] = Refused(TOO_MANY.format(self.most_blocking))
        return found

    def _transaction(self, exchange: Exchange, policy: Policy, allowed: list[Allowed]) -> list[Any]:
        """MULTI is said alone: where it is refused, what follows would be run one by one."""
        if not policy.knows(b"multi", b"exec"):
            raise Problem(503, "Redis does not know MULTI and EXEC by these names: there are no transactions here")
        begun = exchange.unbracketed([[b"multi"]])[0]
        if isinstance(begun, redis_errors.ResponseError):
            exchange.ask([])  # that it is MULTI's reply
            raise Problem(400, f"EXECABORT Transaction discarded because of: {words(begun)}")
        if begun != b"OK":
            raise exchange.stray("instead of the reply to MULTI")
        replies = exchange.ask([*(self._sent(verdict, self.longest_block) for verdict in allowed), [b"exec"]])
        result = replies[-1]
        if isinstance(result, list):
            return result
        causes = [reply for reply in replies[:-1] if isinstance(reply, redis_errors.ResponseError)]
        for cause in causes:
            if is_busy(cause):
                raise cause
        text = words(result) if isinstance(result, Exception) else "EXECABORT Transaction discarded"
        raise Problem(400, f"{text} ({words(causes[0])})" if causes else text)

    def _sent(self, verdict: Allowed, seconds: float) -> Command:
        """The command as it is sent; if it blocks, for so many seconds at most."""
        if verdict.blocking is not None:
            return verdict.blocking.cut(seconds)
        return self.scripts.translate(verdict.command)

    def _kill(self, exchange: Exchange, command: Command) -> list[Any]:
        """End the script that runs, if the server is BUSY with it: SCRIPT KILL names no target."""
        try:
            exchange.ask([[b"ping"]])
        except redis_errors.ResponseError as error:
            if not is_busy(error):
                raise
        else:
            return [redis_errors.ResponseError("NOTBUSY The server is not BUSY: there is no script to be killed")]
        try:
            reply = exchange.unbracketed([command])[0]
        finally:
            exchange.close()  # the script ends later than this reply comes, so no ECHO is answered yet
        if reply != b"OK" and not isinstance(reply, redis_errors.ResponseError):
            raise exchange.stray("instead of the last reply")
        return [reply]


def _judge(
    policy: Policy | None, commands: Sequence[Command], *, readonly: bool, atomic: bool
) -> list[Allowed | Refused]:
    """The verdicts. Without a policy only a name that cannot be one is refused for certain."""
    if policy is None:
        return [Refused(malformed(command), unknown=not malformed(command)) for command in commands]
    verdicts = [policy.decide(command, readonly=readonly) for command in commands]
    if atomic or len(verdicts) > 1:
        return [_alone(verdict) for verdict in verdicts]
    return verdicts


def _kills(verdicts: Sequence[Allowed | Refused]) -> bool:
    """Whether this is to end the script that the server is BUSY with."""
    return len(verdicts) == 1 and isinstance(verdicts[0], Allowed) and verdicts[0].kills


def _alone(verdict: Allowed | Refused) -> Allowed | Refused:
    if isinstance(verdict, Allowed) and verdict.kills:
        return Refused(ALONE.format(b" ".join(verdict.command[:2]).decode().upper()))
    return verdict


def _outcome(verdicts: Sequence[Allowed | Refused], replies: list[Any], *, atomic: bool) -> list[Any]:
    """A reply or a refusal for each command.

    Raises:
        Problem: something was refused in a transaction.
    """
    refused = [verdict for verdict in verdicts if isinstance(verdict, Refused)]
    if atomic and refused:
        raise Problem(400, f"EXECABORT Transaction discarded because of: {refused[0].why}")
    found = iter(replies)
    return [
        redis_errors.ResponseError(verdict.why) if isinstance(verdict, Refused) else next(found) for verdict in verdicts
    ]
