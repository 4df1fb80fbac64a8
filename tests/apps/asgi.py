"""An ASGI application on the default client for tasks: it answers with what the server echoes, and with its pid."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from poolmgr.asyncio import get_client


async def said(word: str) -> str:
    """``PID ok``, or ``PID crossed`` if a reply was another command's."""
    found = await asyncio.gather(*(get_client().echo(word) for _ in range(5)))
    wrong = [one for one in found if one != word.encode()]
    return f"{os.getpid()} {'crossed' if wrong else 'ok'}"


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = (await said(scope["path"])).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})
