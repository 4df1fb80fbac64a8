"""The end of an application, in the words of ASGI: ``Starlette(lifespan=poolmgr.asyncio.lifespan)``.

Permits come back without it too: when the loop is closed, when the process says goodbye at its exit, and, of a process
that ends without a goodbye (under ``uvicorn_worker.UvicornWorker`` each does), when the server has shown that its
connections are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from poolmgr.pool import fork, membership
from poolmgr.pool.aio.aside import aside
from poolmgr.pool.aio.pool import ConnectionPool


@contextlib.asynccontextmanager
async def lifespan(app: object = None) -> AsyncIterator[None]:
    """Give this process's permits back when the application shuts down: for Starlette, FastAPI and others whose
    ``lifespan`` is an async context manager. Beside one of your own, use it there:
    ``async with poolmgr.asyncio.lifespan(app): yield``.

    Idle connections are closed, and unless another one is in use the process says goodbye to the supervisor. Nothing
    depends on it, and pools can be used afterwards.

    Args:
        app: the application; not used.
    """
    try:
        yield
    finally:
        loop = asyncio.get_running_loop()
        for pool in fork.watched():
            if isinstance(pool, ConnectionPool):
                pool._rest(loop)
        await aside(membership.say_goodbye)
