"""A WSGI application that runs an event loop for each request; it answers as ``asgi`` does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from tests.apps.asgi import said


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    body = asyncio.run(said(environ["PATH_INFO"])).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
