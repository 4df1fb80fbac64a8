"""Counting commands and replies of classes that send or read in a way of their own: redis-py's order of calls, and
nothing left out. What :mod:`poolmgr.pool.sync.overridden` is for threads::

    Before        as a caller calls it
    the user's class, mixins, redis-py's Connection (with an agent's patches)
    Behind        the outcome of that, next to the transport
    redis-py's AbstractConnection

Also for a connection whose parser is not redis-py's for hiredis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from poolmgr.pool.aio.connection import FOREIGN
from poolmgr.pool.owed import Counts
from poolmgr.pool.session_state import STRANGE
from poolmgr.pool.unsent import sent_nothing

if TYPE_CHECKING:
    _Abstract: Any  # redis-py's methods are typed in part only
else:
    _Abstract = AbstractConnection


class Before(Counts):
    """In front of the class. It counts a call that never gets to :class:`Behind`."""

    _sends = 0
    """Calls counted here or behind."""
    _reads = 0

    async def send_command(self, *args: Any, **kwargs: Any) -> Any:
        sends = self._sends
        try:
            result = await super().send_command(*args, **kwargs)
        except BaseException as error:
            self._interrupted(sends, error)
            raise
        if self._sends == sends:
            self._sends += 1
            self._record((args,))
        return result

    async def send_packed_command(self, command: Any, *args: Any, **kwargs: Any) -> Any:
        sends = self._sends
        try:
            result = await super().send_packed_command(command, *args, **kwargs)
        except BaseException as error:
            self._interrupted(sends, error)
            raise
        if self._sends == sends:
            self._sends += 1
            self._record_packed(command)
        return result

    def _interrupted(self, sends: int, error: BaseException) -> None:
        """A call failed, and nothing was counted: unless nothing was sent, what is owed is unknown."""
        if self._sends == sends and self._stream is not None and not sent_nothing(error):
            self._owed |= STRANGE

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        reads = self._reads
        try:
            response = await super().read_response(*args, **kwargs)
        except ResponseError:
            if self._reads == reads:
                self._read_one(args, kwargs)
            raise
        if self._reads == reads:
            self._read_one(args, kwargs, response)
        return response

    def _read_one(self, args: Any, kwargs: dict[str, Any], response: Any = ...) -> None:
        self._reads += 1
        if kwargs.get("push_request"):
            return
        if response is None and (kwargs.get("timeout") is not None or len(args) > 1):
            return  # nothing came in time
        if self._owed:
            self._owed -= 1

    def _look(self) -> str:
        """Why the idle connection cannot be used; empty if it can."""
        stream, reader = self._stream, self._reader
        if stream is None or not self.is_connected:
            return "disconnected"
        if stream.error is not None or (reader is not None and reader.at_eof()):
            return "stale"
        if stream is not FOREIGN:
            stream.stirred = False
        waiting = bytes(getattr(reader, "_buffer", b""))
        return "" if not waiting or (waiting[:1] == b">" and self.protocol == 3) else "dirty"


class Behind(_Abstract):  # type: ignore[misc]
    """Behind the class, and before redis-py's ``AbstractConnection``: what is really sent and read, once each."""

    if TYPE_CHECKING:
        _sends: int

        def _record_packed(self, command: Any) -> None: ...

        def _read_one(self, args: Any, kwargs: dict[str, Any], response: Any = ...) -> None: ...

    async def send_packed_command(self, command: Any, check_health: bool = True) -> Any:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()
        self._sends += 1
        self._record_packed(command)  # after these two, which begin a session or send something themselves
        return await super().send_packed_command(command, check_health=False)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            response = await super().read_response(*args, **kwargs)
        except ResponseError:
            self._read_one(args, kwargs)
            raise
        self._read_one(args, kwargs, response)
        return response
