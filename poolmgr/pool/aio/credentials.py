"""What a provider of credentials says, for the endpoint that the supervisor looks at.

A provider may have methods for tasks only, which belong to its user's loop: they are awaited there, while a thread
beside the loop waits for the answer.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import TimeoutError as NotYet
from typing import Any

from redis.credentials import CredentialProvider

from poolmgr.pool.aio.aside import loop_beside

LOOK = 0.25
"""Seconds after which the thread looks whether the loop still lives."""


def ask(provider: Any) -> Any:
    """The user's name and password, or the password alone. Blocks, and so never in a loop's own thread, where only a
    method that does not wait can be asked."""
    method = getattr(type(provider), "get_credentials_async", None)
    if method is None or method is CredentialProvider.get_credentials_async or asyncio._get_running_loop() is not None:
        return provider.get_credentials()
    loop = loop_beside()
    if loop is None:
        return asyncio.run(provider.get_credentials_async())
    answer = asyncio.run_coroutine_threadsafe(provider.get_credentials_async(), loop)
    while True:
        try:
            return answer.result(LOOK)
        except NotYet:
            if answer.done() or loop.is_closed():
                raise
