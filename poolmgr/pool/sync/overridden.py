"""Counting commands and replies if a user's class, a mixin or an agent changes how they are sent or read.

Two mixins around the user's class, and between them redis-py's own order of calls, nothing left out::

    Before        as a caller calls it
    the user's class, mixins, redis-py's Connection (with an agent's patches)
    Behind        the outcome of that, next to the socket
    redis-py's AbstractConnection

:class:`Behind` counts what is really sent and read, once each, whatever was changed, added or left out before. A class
that writes to the socket or reads from the parser on its own never gets there: :class:`Before` notices that, and counts
the call that it has seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.connection import AbstractConnection
from redis.exceptions import ResponseError

from poolmgr.pool.owed import Counts
from poolmgr.pool.session_state import STRANGE
from poolmgr.pool.unsent import sent_nothing

if TYPE_CHECKING:
    _Abstract: Any  # redis-py's methods are typed in part only
else:
    _Abstract = AbstractConnection


class Before(Counts):
    """In front of the class."""

    _sends = 0
    """Calls counted here or behind."""
    _reads = 0

    def send_command(self, *args: Any, **kwargs: Any) -> Any:
        sends = self._sends
        try:
            result = super().send_command(*args, **kwargs)
        except BaseException as error:
            self._interrupted(sends, error)
            raise
        if self._sends == sends:
            self._sends += 1
            self._record((args,))
        return result

    def send_packed_command(self, command: Any, *args: Any, **kwargs: Any) -> Any:
        sends = self._sends
        try:
            result = super().send_packed_command(command, *args, **kwargs)
        except BaseException as error:
            self._interrupted(sends, error)
            raise
        if self._sends == sends:
            self._sends += 1
            self._record_packed(command)
        return result

    def _interrupted(self, sends: int, error: BaseException) -> None:
        """A call failed, and nothing was counted: unless nothing was sent, what is owed is unknown."""
        if self._sends == sends and self._sock is not None and not sent_nothing(error):
            self._owed |= STRANGE

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        reads = self._reads
        try:
            response = super().read_response(*args, **kwargs)
        except ResponseError:
            if self._reads == reads:
                self._read_one(kwargs)
            raise
        if self._reads == reads:
            self._read_one(kwargs)
        return response

    def _read_one(self, kwargs: dict[str, Any]) -> None:
        self._reads += 1
        if self._owed and not kwargs.get("push_request"):
            self._owed -= 1


class Behind(_Abstract):  # type: ignore[misc]
    """Behind the class, and before redis-py's :class:`~redis.connection.AbstractConnection`."""

    if TYPE_CHECKING:
        _owed: int
        _sends: int
        _reads: int

        def _record_packed(self, command: Any) -> None: ...

        def _read_one(self, kwargs: dict[str, Any]) -> None: ...

    def send_packed_command(self, command: Any, check_health: bool = True) -> Any:
        if self._sock is None:
            self.connect_check_health(check_health=False)
        if check_health:
            self.check_health()
        self._sends += 1
        self._record_packed(command)  # after these two, which begin a session or send something themselves
        return super().send_packed_command(command, check_health=False)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            response = super().read_response(*args, **kwargs)
        except ResponseError:
            self._read_one(kwargs)
            raise
        self._read_one(kwargs)
        return response
