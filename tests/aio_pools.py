"""Pools for tasks, each in a loop of its own, of which nothing is left in the end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import redis.asyncio

from poolmgr.asyncio import ConnectionPool
from tests.helpers import RedisServer
from tests.permits import FakeMember
from tests.stopwatch import Stopwatch
from tests.walker import run, short_stacks

Work = Callable[[ConnectionPool, redis.asyncio.Redis], Coroutine[Any, Any, Any]]


def with_pool(loop: str, server: RedisServer, work: Work, **options: Any) -> Any:
    """What the work returns, in a loop of its own with a pool of its own; nothing is left of it afterwards."""
    member = FakeMember(prompt=True)

    async def main() -> Any:
        pool = ConnectionPool(host="127.0.0.1", port=server.port, member=options.pop("member", member), **options)
        client = redis.asyncio.Redis(connection_pool=pool)
        try:
            return await work(pool, client)
        finally:
            await pool.aclose()
            await nothing_is_out(member)

    return run(loop, main(), debug=True)


async def eventually(predicate: Callable[[], Any], seconds: float = 10.0) -> None:
    watch = Stopwatch()
    while not predicate():
        assert not watch.exceeds(seconds), "not in time"
        await asyncio.sleep(0.002)


def with_kind(pool: Callable[..., ConnectionPool], work: Work, **options: Any) -> FakeMember:
    """Have the work done; nothing is left of it afterwards. The member that gave the permits."""
    member = FakeMember(limit=2, prompt=True, tag="tag")

    async def main() -> None:
        made = pool(member=member, timeout=0.2, **options)
        try:
            await work(made, redis.asyncio.Redis(connection_pool=made))
        finally:
            assert made.stats().in_use == 0
            await made.aclose()
            assert made.stats().idle == 0
            await nothing_is_out(member)

    with asyncio.Runner(debug=True) as runner, short_stacks():
        runner.run(main())
    return member


async def nothing_is_out(member: FakeMember) -> None:
    """Each transport has heard of its end, or is garbage, and its permit is back."""

    def all_back() -> bool:
        gc.collect()
        return not any(permits.out for permits in member.all.values())

    await eventually(all_back)
