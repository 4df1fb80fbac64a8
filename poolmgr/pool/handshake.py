"""A new connection's handshake in two round trips instead of five or six.

redis-py sends the commands of its handshake one by one and waits for each reply: HELLO, CLIENT
MAINT_NOTIFICATIONS, CLIENT SETNAME, twice CLIENT SETINFO, SELECT. A caller that waits for a permit also waits
for these. Here redis-py's own code runs unchanged, but replies that can only be OK are taken for OK when
it asks for them. When it is done, their commands are sent in one packet, and the replies read. What stands for a
socket gets them one at a time. A reply other than OK then raises what redis-py would have raised, before any
caller has the connection.

A class that sends or reads commands in another way gets them one by one, as from redis-py.

The very first reply is always read at once: it may be the server's last word (``max number of clients
reached``), which would be lost to a broken pipe if more were sent.

Here is what is put off and how replies are judged; each flavour sends and reads in its way.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from redis.exceptions import AuthenticationError, ConnectionError as RedisConnectionError, ResponseError
from redis.utils import str_if_bytes

from poolmgr.pool.gate import Question, Words, question

OK = b"OK"


class Deferral:
    """What of one connection's handshake is put off."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._answered = False
        self._over = False
        """Nothing is put off any more. If an exception leaves this object before the connection's methods,
        it only passes calls on."""
        self._asked: deque[Words] = deque()
        """Commands whose replies redis-py has yet to read, in order: for tasks it sends three before it reads one."""
        self._unsent: list[Words] = []
        self.owed: deque[Words] = deque()
        """Commands whose replies are still to be read, in order."""
        self._refused = ""
        """Why the server refuses our name, if it does."""
        self._named = False
        self._question: Question | None = None
        """What the connection asks at its fleet's gate, once redis-py's handshake is done."""

    def puts_off(self, words: Words) -> bool:
        """redis-py sends this command: whether it can wait."""
        self._asked.append(words)
        if self._may_wait(words):
            self._unsent.append(words)
            return True
        return False

    def unsent(self) -> list[Words]:
        """The commands put off, which are sent now."""
        unsent, self._unsent = self._unsent, []
        return unsent

    def sends(self, words: Words) -> None:
        """This command is sent now."""
        if words[:2] == ("CLIENT", "SETNAME"):
            self._connection._naming = True

    def reads(self) -> tuple[Words, bool]:
        """redis-py reads a reply: the command that it belongs to, and whether it is taken for OK."""
        words = self._asked.popleft() if self._asked else ()
        if self._may_wait(words):
            self.owed.append(words)
            return words, True
        return words, False

    def replied(self, words: Words) -> None:
        """A reply that redis-py waits for has come."""
        self._named = self._named or words[:2] == ("CLIENT", "SETNAME")
        self._answered = True

    def forgives(self, words: Words, error: ResponseError) -> bool:
        """Whether this error reply, which redis-py waits for, is taken for OK."""
        if words[:2] != ("CLIENT", "SETNAME") or not self._may_fail(words):
            return False
        self._refused = str(error)
        self._answered = True
        return True

    def judge(self, words: Words, reply: object) -> None:
        """A reply that was taken for OK has come, or its error reply.

        Raises:
            redis.exceptions.RedisError: what redis-py raises for such a reply.
        """
        if self._question is not None and words in self._question.commands:
            self._question.take(words, reply)
        elif isinstance(reply, ResponseError):
            if not self._may_fail(words):
                raise reply
            if words[1] == "SETNAME":
                self._refused = str(reply)
        elif str_if_bytes(reply) == "OK":  # type: ignore[arg-type]
            self._named = self._named or words[1] == "SETNAME" or words[1:3] == ("SETINFO", "LIB-NAME")
        elif words[1] == "SETNAME" and self._may_fail(words):
            self._refused = f"it was answered with {reply!r}"
        elif not self._may_fail(words):
            if words[1] == "MAINT_NOTIFICATIONS":
                raise ResponseError("The server doesn't support maintenance notifications")
            raise RedisConnectionError(f"{words[0]} {words[1]} was answered with {reply!r}")

    def over(self) -> None:
        """redis-py's handshake is done: nothing is put off any more. A fleet's gate is asked in the same packet."""
        self._over = True
        self._question = question(self._connection)
        if self._question is not None:
            self._unsent += self._question.commands
            self.owed += self._question.commands

    def done(self) -> None:
        """All replies are read.

        Raises:
            GateShutError: the gate of its fleet is shut.
            FleetRightsError: it has no name, which a fleet needs.
        """
        nameless = self._refused if not self._named else ""
        if self._question is not None:
            self._question.pass_through(nameless)
        if nameless:
            self._connection._is_nameless(nameless)

    def _may_wait(self, words: Words) -> bool:
        return self._answered and not self._over and _can_only_be_ok(words)

    def _may_fail(self, words: Words) -> bool:
        """Whether redis-py goes on without it: servers before 7.2 lack SETINFO, few know MAINT_NOTIFICATIONS.
        And redis-py would not have sent a name that is ours alone."""
        if words[1] == "MAINT_NOTIFICATIONS":
            config = getattr(self._connection, "maint_notifications_config", None)
            return getattr(config, "enabled", None) == "auto"
        return bool(words[1] == "SETINFO" or (words[1] == "SETNAME" and self._connection._name_is_ours))


def _can_only_be_ok(words: Words) -> bool:
    if not words:
        return False
    if words[0] == "CLIENT":
        return words[1] in ("SETNAME", "SETINFO", "MAINT_NOTIFICATIONS")
    return bool(words[0] == "SELECT")


def name_login(error: BaseException, connection: Any) -> None:
    """Add to an error of redis-py's about a login where that login comes from. No part of it is shown."""
    if not isinstance(error, AuthenticationError) or not error.args:
        return
    provider = getattr(connection, "credential_provider", None)
    if provider is not None:
        words = f"its credentials come from credential_provider, a {type(provider).__name__}"
    elif getattr(connection, "password", None) or getattr(connection, "username", None):
        words = "check its username and password, which are arguments of the pool or stand in its URL (REDIS_URL)"
    else:
        words = (
            "this client has none: set its password, as an argument of the pool or in its URL: redis://:PASSWORD@HOST"
        )
    if words not in str(error):
        error.args = (f"{error.args[0]} ({words})", *error.args[1:])
