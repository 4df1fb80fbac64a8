"""One thread that does blocking work for the event loop, one piece at a time.

It is a daemon thread, unlike those of :mod:`concurrent.futures`: an unresponsive server must not hold up the
supervisor's own end.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonExecutor:
    """Started with the first piece of work. Used from one event loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it in the thread; its result, or what it raised."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
            self._thread.start()
        future: asyncio.Future[T] = self._loop.create_future()
        self._work.put((lambda: function(*args, **kwargs), future))
        return await future

    def stop(self) -> None:
        """End the thread after its current work."""
        if self._thread is not None:
            self._work.put(None)
            self._thread = None

    def _main(self) -> None:
        while (item := self._work.get()) is not None:
            call, future = item
            try:
                result, error = call(), None
            except BaseException as raised:  # the waiter gets it, whatever it is
                result, error = None, raised
            try:
                self._loop.call_soon_threadsafe(_finish, future, result, error)
            except RuntimeError:  # the loop is closed: nothing waits any more
                return


def _finish(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
