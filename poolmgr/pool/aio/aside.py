"""Calls that block, off the loop: the member's first start, a name server, a file of certificates.

In a thread of our own for each call, and not in the loop's executor: that one may be a user's, and full.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from poolmgr import threads

T = TypeVar("T")


class _Beside(threading.local):
    loop: asyncio.AbstractEventLoop | None = None


_beside = _Beside()


def loop_beside() -> asyncio.AbstractEventLoop | None:
    """In a call that :func:`aside` makes: the loop in which its task waits. Else None."""
    return _beside.loop


async def aside(call: Callable[[], T]) -> T:
    """What the call returns, or raises. If its task is cancelled the call goes on, and its result is dropped."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def run() -> None:
        value, error = None, None
        _beside.loop = loop
        try:
            value = call()
        except Exception as failure:
            error = failure
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:  # the loop is closed
            pass

    if not threads.started(threads.make(run, "poolmgr-aside")):
        return call()  # there can be no thread
    return await future
