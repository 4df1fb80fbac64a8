"""One connection's bytes in an event loop: what arrives goes straight into hiredis, and one task waits for it.

A :class:`Stream` is the protocol of its transport, and stands where redis-py expects a ``StreamReader`` and a
``StreamWriter``. It must not refer to its connection: the loop refers to the transport, the transport to the stream,
and a connection that its holder has lost would never end.

It owns no permit and decides nothing. The socket below its transport has a second descriptor, the connection's, so
ending the transport proves nothing and forges nothing (rule M3).

A task that waits is woken by the call that brings its reply, within it, and not at the loop's next turn: no callback is
queued, and no future is made for each reply. So a reply cannot have come and its task be cancelled before it sees it. A
wait that ends in another way, by an error, a cancellation or the clock, ends as every future does.

There is one timer for each stream, not one for each command: it is looked at when it fires, and set again if the time
has been put off meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from poolmgr.member.closer import close
from poolmgr.native import at_fork, monotonic

INFINITY = float("inf")

CLOSED = "Connection closed by server."
"""redis-py's words (``redis._parsers.socket.SERVER_CLOSED_CONNECTION_ERROR``)."""

ROUNDING = 0.001
"""Seconds by which a loop's timer may fire too early: uvloop counts in milliseconds."""

FULL = 1 << 20
"""Bytes that may lie here unread before the transport stops reading: a subscriber may be slower than its channel."""

streams: weakref.WeakSet[Stream] = weakref.WeakSet()
"""All streams of this process, for :func:`renounce`."""


REMEMBERS = sys.version_info >= (3, 14)
"""A future refers to the tasks that wait for it, until they are woken with it: one for each wait, then."""


class Turn(tuple[Any]):
    """What a task awaits, once for each reply: it hands the future that it holds to the task, which is woken by
    :meth:`Stream.data_received`. The future is not done by that, and serves the next wait."""

    __slots__ = ()

    __await__: Any = tuple.__iter__


def _raised(error: BaseException) -> None:
    raise error


class Stream(asyncio.Protocol):
    """See the module's docstring.

    Attributes:
        error: why nothing more will come: the peer has ended the connection, or what it sent could not be read. None:
            the connection works.
        stirred: something has come, or it has ended, while no task was waiting. A checkout looks closer then.
        choked: a future while the transport takes no more to write, else None.
        waiter: the future of the task that waits, else None.
    """

    __slots__ = (
        "__weakref__", "_at_end", "_came", "_chunks", "_deadline", "_feed", "_fires_at", "_loop", "_paused", "_sock",
        "_time", "_timer", "_turn", "_unread", "choked", "error", "stirred", "transport", "waiter",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        self._at_end: Callable[[], object] | None = None
        self._chunks: list[bytes] = []
        self._feed: Callable[[bytes], object] = self._chunks.append
        self.waiter: asyncio.Future[bool] | None = None
        self._turn = self._next()
        """Of the last wait, for the next one."""
        self._came: asyncio.Future[bool] = asyncio.Future(loop=loop)
        """Done: what a task is woken with."""
        self._came.set_result(True)
        self._time = monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time
        self._deadline = INFINITY
        self._fires_at = INFINITY
        """When its timer fires; infinity: there is none."""
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._paused = False
        self.transport: Any = None
        self.error: BaseException | None = None
        self.stirred = False
        self.choked: asyncio.Future[None] | None = None
        streams.add(self)

    # ---- what the transport calls ------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        feed = self._feed
        try:
            feed(data)
        except Exception as error:  # the reader's: it is the next reader's, not the loop's
            self._end(error)
            return
        waiter = self.waiter
        if waiter is None:
            self._unasked(len(data))
            return
        try:
            ((wake, context),) = waiter._callbacks
        except (AttributeError, TypeError, ValueError):  # it is done, no task has begun to wait, or futures hide this
            if not waiter.done():
                waiter.set_result(True)
            return
        self.waiter = None
        waiter.remove_done_callback(wake)
        try:
            context.run(wake, self._came)
        except RuntimeError:  # another task runs, and has brought this: the usual way
            self.waiter = waiter
            waiter.add_done_callback(wake, context=context)
            waiter.set_result(True)
        except (SystemExit, KeyboardInterrupt) as error:  # the task's: it ends the loop, not the connection
            self._loop.call_soon(_raised, error)

    def _unasked(self, size: int) -> None:
        """So much has come while no task waits."""
        self.stirred = True
        self._unread += size
        if self._unread > FULL and not self._paused and self._at_end is None:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> None:
        self._end(RedisConnectionError(CLOSED))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or RedisConnectionError(CLOSED))
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._fires_at = None, INFINITY

    def pause_writing(self) -> None:
        self.choked = self._loop.create_future()

    def resume_writing(self) -> None:
        choked, self.choked = self.choked, None
        if choked is not None and not choked.done():
            choked.set_result(None)

    def _end(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        self.stirred = True
        if self._at_end is not None:
            self._at_end()
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(True)
        self.resume_writing()

    # ---- reading -----------------------------------------------------------------------------------

    def attach(self, feed: Callable[[bytes], object], end: Callable[[], object] | None = None) -> None:
        """From now on feed this parser, with what has come before first.

        Args:
            end: to be called when nothing more will come, by a reader that has waits and a bound of its own.
        """
        self._feed, self._at_end = feed, end
        chunks, self._chunks = self._chunks, []
        for chunk in chunks:
            feed(chunk)
        if end is not None and self.error is not None:
            end()

    def more(self, seconds: float | None) -> Turn:
        """To be awaited, once, by the task that calls: until something has come, or the connection has ended, or the
        seconds are over. After it, if :attr:`waiter` is not None, call :meth:`woken`; :meth:`leave` if it was
        interrupted.

        Raises:
            RuntimeError: another task waits already.
        """
        if self.waiter is not None:
            raise RuntimeError("another task waits for a reply on this connection")
        if self._unread:
            self._calm()
        turn = self._next() if REMEMBERS else self._turn
        self.waiter = waiter = turn[0]
        waiter._asyncio_future_blocking = True
        if seconds is None:
            self._deadline = INFINITY
        else:
            self._deadline = deadline = self._time() + seconds
            if deadline < self._fires_at:
                self.reschedule(deadline)
        return turn

    def _calm(self) -> None:
        """What has come is about to be read."""
        self._unread = 0
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def woken(self) -> bool:
        """After a wait that no data has ended. False: the seconds were over."""
        waiter = self.waiter
        self.leave()
        return waiter is None or waiter.result()

    def leave(self) -> None:
        """Nothing waits any more."""
        self.waiter, self._turn = None, self._next()

    def _next(self) -> Turn:
        return Turn((asyncio.Future(loop=self._loop),))

    async def wait(self, seconds: float | None) -> bool:
        """Wait until something has come, or the connection has ended. False: the seconds were over first.

        Raises:
            RuntimeError: another task waits already.
        """
        turn = self.more(seconds)
        try:
            await turn
        except BaseException:
            self.leave()
            raise
        return self.waiter is None or self.woken()

    def reschedule(self, when: float | None) -> None:
        """The time of the loop at which the present wait ends; None: never. redis-py's handlers of maintenance
        notifications call it, as they would :meth:`asyncio.Timeout.reschedule`."""
        self._deadline = deadline = INFINITY if when is None else when
        if deadline >= self._fires_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = deadline
        self._timer = self._loop.call_later(deadline - self._time(), self._fire)

    def _fire(self) -> None:
        self._timer, self._fires_at = None, INFINITY
        waiter = self.waiter
        if waiter is None or waiter.done() or self._deadline == INFINITY:
            return
        if self._time() + ROUNDING >= self._deadline:
            waiter.set_result(False)
        else:
            self.reschedule(self._deadline)

    # ---- writing -----------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        self.transport.write(data)

    def writelines(self, chunks: Iterable[Any]) -> None:
        self.transport.write(b"".join(chunks))

    async def flush(self, seconds: float | None) -> bool:
        """Wait until the transport takes more. False: the seconds were over first."""
        choked = self.choked
        if choked is None:
            return True
        waiter: asyncio.Future[bool] = self._loop.create_future()

        def settle(result: bool) -> None:
            if not waiter.done():
                waiter.set_result(result)

        def resumed(_: object) -> None:
            settle(True)

        choked.add_done_callback(resumed)
        timer = None if seconds is None else self._loop.call_later(seconds, settle, False)
        try:
            return await waiter
        finally:
            choked.remove_done_callback(resumed)
            if timer is not None:
                timer.cancel()

    # ---- what redis-py's own code asks of a reader and a writer --------------------------------------

    @property
    def _buffer(self) -> bytes:
        return b""  # hiredis has it all

    def at_eof(self) -> bool:
        return self.error is not None

    async def drain(self) -> None:
        await self.flush(None)
        if self.error is not None:
            raise ConnectionResetError("Connection lost")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return bool(self.transport.is_closing())

    def close(self) -> None:
        self.abort()

    async def wait_closed(self) -> None:
        """Nothing to wait for: the member proves the connection's end."""

    # ---- its end -----------------------------------------------------------------------------------

    def abort(self, *, later: bool = False) -> None:
        """End the transport, from any thread, whether or not the loop still lives.

        Args:
            later: in the loop's own time. A finalizer may have interrupted the loop anywhere.
        """
        transport, loop = self.transport, self._loop
        if transport is None:
            return
        if not later and asyncio._get_running_loop() is loop:
            transport.abort()
            return
        try:
            loop.call_soon_threadsafe(transport.abort)
        except RuntimeError:  # it is closed
            self._bury()

    def _bury(self) -> None:
        """The loop has been closed with its transports in it: close the descriptor, which nothing else would do."""
        close(self._sock)
        # asyncio's transports warn of themselves when they are collected, unless they hold no socket.
        for part in (self.transport, getattr(self.transport, "_ssl_protocol", None)):
            below = getattr(part, "_transport", part)
            for one, attribute, value in ((below, "_sock", None), (part, "_closed", True)):
                if hasattr(one, attribute):
                    with contextlib.suppress(TypeError):
                        setattr(one, attribute, value)


_inherited: list[Stream] = []
"""The parent's, kept in a child so that none is ever finalised there."""


def renounce() -> None:
    """In a forked child: give the parent's sockets up without a word to the parent's loop, whose epoll both share.

    The number of each descriptor is kept, for a file that says nothing: objects of the parent's loop would close it
    again when they are collected, and by then it would be another file's.
    """
    global streams
    found = list(streams)
    streams = weakref.WeakSet()
    if not found:
        return
    _inherited.extend(found)
    try:
        silence = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    for stream in found:
        descriptor = stream._sock.fileno()
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.dup2(silence, descriptor, inheritable=False)
    os.close(silence)


at_fork(after_in_child=renounce)
