"""A process that connects when its parent asks for it: ``python -m bench.apps.connects PORT sync|asyncio``.

It reads how often from a line, and answers with the seconds that each took from asking the pool until its connection
could be used. The supervisor and the fleet are the environment's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable

import poolmgr
import poolmgr.asyncio


def threads(port: int) -> Callable[[int], list[float]]:
    pool = poolmgr.ConnectionPool(host="127.0.0.1", port=port, timeout=30)

    def connect(times: int) -> list[float]:
        took = []
        for _ in range(times):
            began = time.perf_counter()
            connection = pool.get_connection()
            took.append(time.perf_counter() - began)
            connection.disconnect()
            pool.release(connection)
        return took

    return connect


def tasks(port: int) -> Callable[[int], list[float]]:
    loop = asyncio.new_event_loop()

    async def make() -> poolmgr.asyncio.ConnectionPool:
        return poolmgr.asyncio.ConnectionPool(host="127.0.0.1", port=port, timeout=30)

    pool = loop.run_until_complete(make())

    async def connect(times: int) -> list[float]:
        took = []
        for _ in range(times):
            began = time.perf_counter()
            connection = await pool.get_connection()
            took.append(time.perf_counter() - began)
            await connection.disconnect()
            await pool.release(connection)
        return took

    return lambda times: loop.run_until_complete(connect(times))


def main(port: str, flavour: str) -> None:
    connect = (tasks if flavour == "asyncio" else threads)(int(port))
    connect(3)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(connect(int(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
