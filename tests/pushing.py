"""A server that says more than it is asked: a proxy before a real one, which puts pushes between its replies.

Over RESP2 a push looks like a reply. Where one gets through, every later answer on that connection is another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import Any

import hiredis

PUSHES = (
    b'+1700000000.000001 [0 127.0.0.1:5] "GET" "stolen"\r\n',
    b"$6\r\nstolen\r\n",
    b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$6\r\nstolen\r\n",
    b":0\r\n",
    b"-ERR stolen\r\n",
    b"$-1\r\n",
)

MONITOR = b"*1\r\n$7\r\nMONITOR\r\n"


class PushingServer:
    """Listens on a port of 127.0.0.1.

    Args:
        target: the port of the real server.
        often: of how many replies one is pushed before, between or after them; and the real server is told to
            MONITOR as often, so that the pushes are other callers' commands.
        marked: only connections that have sent this are pushed on.
    """

    def __init__(self, target: int, *, often: int, marked: bytes) -> None:
        self.target, self.often, self.marked = target, often, marked
        self.pushed = 0
        self.monitors = 0
        self.port = 0
        self._random = random.Random(7)
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, out = await asyncio.open_connection("127.0.0.1", self.target)
        state = {"marked": False}
        pumps = [
            asyncio.ensure_future(self._requests(reader, out, state)),
            asyncio.ensure_future(self._replies(there, writer, state)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for end in (writer, out):
            end.close()

    async def _requests(self, reader: asyncio.StreamReader, out: asyncio.StreamWriter, state: Any) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                state["marked"] |= self.marked in data.lower()
                if state["marked"] and not self._random.randrange(self.often):
                    self.monitors += 1
                    data = MONITOR + data if self._random.random() < 0.5 else data + MONITOR
                out.write(data)

    async def _replies(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, state: Any) -> None:
        parser = hiredis.Reader(notEnoughData=self)
        with contextlib.suppress(OSError):
            while data := await there.read(65536):
                for reply in _whole(parser, data, self):
                    if state["marked"] and not self._random.randrange(self.often):
                        self.pushed += 1
                        writer.write(self._random.choice(PUSHES))
                    writer.write(reply)
                if state["marked"] and not self._random.randrange(self.often):  # with nobody waiting for a reply
                    self.pushed += 1
                    writer.write(self._random.choice(PUSHES))


def _whole(parser: Any, data: bytes, nothing: object) -> list[bytes]:
    """The data, cut behind each reply that ends in it."""
    parts, begin = [], 0
    for end in range(1, len(data) + 1):
        parser.feed(data, end - 1, 1)
        if parser.gets() is not nothing:
            parts.append(data[begin:end])
            begin = end
    return [*parts, data[begin:]] if begin < len(data) else parts
