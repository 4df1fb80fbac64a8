"""The handshake of :mod:`poolmgr.pool.handshake`, for tasks."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from poolmgr.pool.handshake import OK, Deferral


class Later(Deferral):
    """Stands before ``send_command`` and ``read_response`` of one connection during its handshake."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._send = connection.send_command
        self._read = connection.read_response

    async def send(self, *words: Any, **options: Any) -> None:
        if self.puts_off(words):
            return
        await self._flush()
        self.sends(words)
        await self._send(*words, **options)

    async def _flush(self) -> None:
        unsent = self.unsent()
        for words in unsent:
            self.sends(words)
        if unsent:
            await self._connection.send_packed_command(self._connection.pack_commands(unsent), check_health=False)

    async def read(self, *arguments: Any, **options: Any) -> Any:
        words, taken_for_ok = self.reads()
        if taken_for_ok:
            return OK
        await self.settle()
        try:
            reply = await self._read(*arguments, **options)
        except ResponseError as error:
            if not self.forgives(words, error):
                raise
            return OK
        self.replied(words)
        return reply

    async def end(self) -> None:
        """The handshake is done, except the replies still owed.

        Raises:
            redis.exceptions.RedisError: what redis-py raises for such a reply.
        """
        self.over()
        await self.settle()
        self.done()

    async def settle(self) -> None:
        """Read the replies still owed.

        Raises:
            redis.exceptions.RedisError: what redis-py raises for such a reply.
        """
        await self._flush()
        while self.owed:
            words = self.owed.popleft()
            try:
                reply = await self._read()
            except ResponseError as error:
                self.judge(words, error)
            else:
                self.judge(words, reply)
