"""``python -m tests.sentinel_programs threads|tasks PORT...``: until SIGTERM, eight callers write to the master that
these Sentinels name. Then what was seen, as JSON."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import time
from collections import Counter
from typing import Any

import redis
import redis.asyncio

import poolmgr
import poolmgr.asyncio

CALLERS = 8
PAUSE = 0.005

seen: Counter[str] = Counter(crossed=0)
over = threading.Event()


def failed(error: Exception) -> None:
    seen[type(error).__name__] += 1


def threads(places: list[tuple[str, int]]) -> None:
    manager = redis.Sentinel(places, socket_timeout=2)
    client = manager.master_for("main", connection_pool_class=poolmgr.SentinelConnectionPool, timeout=5)

    def one(number: int) -> None:
        while not over.is_set():
            word = f"{number}-{seen['written']}"
            try:
                client.incr("k")
                seen["crossed"] += client.echo(word) != word.encode()
                seen["written"] += 1
            except redis.RedisError as error:
                failed(error)
            time.sleep(PAUSE)

    callers = [threading.Thread(target=one, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    seen["left"] = client.connection_pool.stats().in_use
    client.close()
    manager.close()


async def tasks(places: list[tuple[str, int]]) -> None:
    manager = redis.asyncio.Sentinel(places, socket_timeout=2)
    kind: Any = poolmgr.asyncio.SentinelConnectionPool
    client = manager.master_for("main", connection_pool_class=kind, timeout=5)

    async def one(number: int) -> None:
        while not over.is_set():
            word = f"{number}-{seen['written']}"
            try:
                await client.incr("k")
                seen["crossed"] += await client.echo(word) != word.encode()
                seen["written"] += 1
            except redis.RedisError as error:
                failed(error)
            await asyncio.sleep(PAUSE)

    await asyncio.gather(*(one(number) for number in range(CALLERS)))
    seen["left"] = client.connection_pool.stats().in_use
    await client.aclose()
    await manager.aclose()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    places = [("127.0.0.1", int(port)) for port in sys.argv[2:]]
    if sys.argv[1] == "threads":
        threads(places)
    else:
        asyncio.run(tasks(places))
    print(json.dumps(seen), flush=True)
