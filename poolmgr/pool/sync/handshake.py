"""A new connection's handshake in two round trips instead of five or six.

redis-py sends the commands of its handshake one by one and waits for each reply: HELLO, CLIENT
MAINT_NOTIFICATIONS, CLIENT SETNAME, twice CLIENT SETINFO, SELECT. A caller that waits for a permit also waits
for these. Here redis-py's own code runs unchanged, but replies that can only be OK are taken for OK when
it asks for them. When it is done, their commands are sent one after the other, without a wait in between, and
the replies read. A reply other than OK then raises what redis-py would have raised, before any caller has
the connection.

A class that sends or reads commands in another way gets them one by one, as from redis-py.

The very first reply is always read at once: it may be the server's last word (``max number of clients
reached``), which would be lost to a broken pipe if more were sent.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError, ResponseError
from redis.utils import str_if_bytes


class _Later:
    """Stands before ``send_command`` and ``read_response`` of one connection during its handshake."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._send = connection.send_command
        self._read = connection.read_response
        self._answered = False
        self._over = False
        """Nothing is put off any more. If an exception leaves this object before the connection's methods,
        it only passes calls on."""
        self._asked: tuple[Any, ...] = ()
        self._unsent: list[tuple[Any, ...]] = []
        self._owed: deque[tuple[Any, ...]] = deque()
        self._refused = ""
        """Why the server refuses our name, if it does."""
        self._named = False

    def send(self, *words: Any, **options: Any) -> None:
        self._asked = words
        if self._may_wait(words):
            self._unsent.append(words)
            return
        self._flush()
        if words[:2] == ("CLIENT", "SETNAME"):
            self._connection._naming = True
        self._send(*words, **options)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        for words in unsent:
            if words[1] == "SETNAME":
                self._connection._naming = True
            self._send(*words, check_health=False)

    def _may_wait(self, words: tuple[Any, ...]) -> bool:
        return self._answered and not self._over and _can_only_be_ok(words)

    def read(self, *arguments: Any, **options: Any) -> Any:
        words, self._asked = self._asked, ()
        if self._may_wait(words):
            self._owed.append(words)
            return b"OK"
        self.settle()
        try:
            reply = self._read(*arguments, **options)
        except ResponseError as error:
            if words[:2] != ("CLIENT", "SETNAME") or not self._may_fail(words):
                raise
            self._refused, reply = str(error), b"OK"
        else:
            self._named = self._named or words[:2] == ("CLIENT", "SETNAME")
        self._answered = True
        return reply

    def end(self) -> None:
        """The handshake is done, except the replies still owed.

        Raises:
            redis.exceptions.RedisError: what redis-py raises for such a reply.
        """
        self._over = True
        self.settle()
        if self._refused and not self._named:
            self._connection._is_nameless(self._refused)

    def settle(self) -> None:
        """Read the replies still owed.

        Raises:
            redis.exceptions.RedisError: what redis-py raises for such a reply.
        """
        self._flush()
        while self._owed:
            words = self._owed.popleft()
            try:
                reply = self._read()
            except ResponseError as error:
                if not self._may_fail(words):
                    raise
                if words[1] == "SETNAME":
                    self._refused = str(error)
            else:
                if str_if_bytes(reply) == "OK":
                    self._named = self._named or words[1] == "SETNAME" or words[1:3] == ("SETINFO", "LIB-NAME")
                elif words[1] == "SETNAME" and self._may_fail(words):
                    self._refused = f"it was answered with {reply!r}"
                elif not self._may_fail(words):
                    if words[1] == "MAINT_NOTIFICATIONS":
                        raise ResponseError("The server doesn't support maintenance notifications")
                    raise RedisConnectionError(f"{words[0]} {words[1]} was answered with {reply!r}")

    def _may_fail(self, words: tuple[Any, ...]) -> bool:
        """Whether redis-py goes on without it: servers before 7.2 lack SETINFO, few know MAINT_NOTIFICATIONS.
        And redis-py would not have sent a name that is ours alone."""
        if words[1] == "MAINT_NOTIFICATIONS":
            config = getattr(self._connection, "maint_notifications_config", None)
            return getattr(config, "enabled", None) == "auto"
        return bool(words[1] == "SETINFO" or (words[1] == "SETNAME" and self._connection._name_is_ours))


def _can_only_be_ok(words: tuple[Any, ...]) -> bool:
    if not words:
        return False
    if words[0] == "CLIENT":
        return words[1] in ("SETNAME", "SETINFO", "MAINT_NOTIFICATIONS")
    return bool(words[0] == "SELECT")


class Handshake(AbstractConnection if TYPE_CHECKING else object):  # type: ignore[misc]
    """Mixed in before a connection class of redis-py, or a user's."""

    _together = True
    """Whether commands may be sent together: in a class that sends and reads as redis-py does."""

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """As redis-py's; waits once for all replies after that to HELLO, not one by one."""
        if not self._together:
            try:
                super().on_connect_check_health(check_health=check_health)
            except BaseException:
                self.disconnect()
                raise
            return
        later = _Later(self)
        mine = self.__dict__  # for this connection and moment only: the usual methods stay as quick as they are
        try:
            mine["send_command"], mine["read_response"] = later.send, later.read
            super().on_connect_check_health(check_health=check_health)
            later.end()
        except BaseException:
            self.disconnect()  # half a handshake: it may be on another database than its user believes
            raise
        finally:
            mine.pop("send_command", None)
            mine.pop("read_response", None)
