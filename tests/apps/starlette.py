"""A Starlette application on the default clients for tasks and for threads, which says goodbye at its end; it answers
as ``asgi`` does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import poolmgr
import poolmgr.asyncio
from tests.apps.asgi import said


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with poolmgr.asyncio.lifespan(app):
        yield
    assert poolmgr.asyncio.get_pool().stats().idle == 0
    print("said goodbye", flush=True)


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await said(request.url.path))


def from_a_thread(request: Request) -> PlainTextResponse:
    """Starlette calls plain functions in threads."""
    word = request.url.path
    found = poolmgr.get_client().echo(word)
    return PlainTextResponse(f"{os.getpid()} {'ok' if found == word.encode() else 'crossed'}")


app = Starlette(routes=[Route("/threads/{word}", from_a_thread), Route("/{word:path}", answer)], lifespan=lifespan)
