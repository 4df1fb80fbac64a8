"""Counting commands and replies of classes that send or read in a way of their own: redis-py's order of calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.exceptions import ResponseError

from poolmgr.pool.aio.connection import FOREIGN
from poolmgr.pool.owed import Counts, Packed


class Counted(Counts):
    """In front of such a class, and for a connection whose parser is not redis-py's for hiredis.

    What is counted wrongly does not come to 0 in the end, and such a connection is closed when it comes back.
    """

    _sends = 0

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        sends = self._sends
        await super().send_command(*args, **kwargs)
        if self._sends == sends:  # it does not come by send_packed_command
            self._record((args,))

    async def send_packed_command(self, command: Any, *args: Any, **kwargs: Any) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        self._sends += 1
        self._record_packed(command)
        await super().send_packed_command(command, *args, **kwargs)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        limited = kwargs.get("timeout") is not None or len(args) > 1
        try:
            response = await super().read_response(*args, **kwargs)
        except ResponseError:
            if not kwargs.get("push_request"):
                self._owed -= 1
            raise
        if not kwargs.get("push_request") and not (limited and response is None):  # else nothing came in time
            self._owed -= 1
        return response

    def pack_command(self, *args: Any) -> Any:
        return Packed(super().pack_command(*args), [args])

    def pack_commands(self, commands: Iterable[Any]) -> Any:
        commands = list(commands)
        return Packed(super().pack_commands(commands), commands)

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
