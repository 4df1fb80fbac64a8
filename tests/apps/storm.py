"""Applications of the storm, for tasks (``app``) and for threads (``threads``): each request says, as JSON, what its
commands have seen, and who has served it; ``/left`` says what is left."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import poolmgr
import poolmgr.asyncio
from tests.storm import command, command_of_thread

COMMANDS = 10
"""Of each request, at the same time where there are tasks."""


def left(stats: poolmgr.Stats) -> dict[str, int]:
    return {"left": stats.in_use + stats.opening + stats.waiting, "pid": os.getpid()}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/left":
        found: dict[str, int] = left(poolmgr.asyncio.get_pool().stats())
    else:
        seen: Counter[str] = Counter()
        await asyncio.gather(*(command(poolmgr.asyncio.get_client(), seen) for _ in range(COMMANDS)))
        found = seen
    body = json.dumps(found).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})


def threads(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/left":
        found: dict[str, int] = left(poolmgr.get_pool().stats())
    else:
        seen: Counter[str] = Counter()
        for _ in range(COMMANDS):
            command_of_thread(poolmgr.get_client(), seen)
        found = seen
    body = json.dumps(found).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
