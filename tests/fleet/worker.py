"""A worker of a host in a fleet: it keeps some callers busy, and says what became of them.

``python -m tests.fleet.worker URL [sync|asyncio]`` reads a line and answers with one: ``callers N`` sets how many
callers there are, each of which keeps a connection for ``HOLD`` seconds at a time; ``stats`` answers with JSON, where
``late`` has the errors of the last minute and when they came. ``sentinel://HOST:PORT``, for threads, is what the
Sentinel there calls ``main``.

``OFF`` in the environment: ``gate``: nothing asks whether the host's lease stands.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import sys
import threading
import time
from collections import Counter
from typing import Any

HOLD = float(os.environ.get("HOLD", "0.2"))
TIMEOUT = float(os.environ.get("PATIENCE", "20"))


class Tally:
    """What became of the requests."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.good = 0
        self.wanted = 0
        self.errors: Counter[str] = Counter()
        self.late: list[tuple[float, str]] = []

    def failed(self, error: BaseException) -> None:
        with self.lock:
            text = f"{type(error).__name__}: {str(error)[:400]}"
            self.errors[text] += 1
            self.late = [entry for entry in self.late if entry[0] > time.time() - 60][-500:]
            self.late.append((time.time(), text))

    def done(self) -> None:
        with self.lock:
            self.good += 1

    def said(self) -> str:
        with self.lock:
            return json.dumps({"good": self.good, "errors": dict(self.errors), "late": self.late})


def words(tally: Tally, wanted: Any) -> None:
    """Obey what is said on standard input."""
    for line in sys.stdin:
        what, _, number = line.strip().partition(" ")
        if what == "callers":
            wanted(int(number))
            print("ok", flush=True)
        elif what == "stats":
            print(tally.said(), flush=True)
        elif what == "end":
            faulthandler.dump_traceback_later(45)  # a worker that does not end says where it is
            wanted(0)
            print("ok", flush=True)
            return


def _pool(url: str) -> Any:
    import redis.sentinel

    import poolmgr

    if not url.startswith("sentinel://"):
        return poolmgr.ConnectionPool.from_url(url, timeout=TIMEOUT)
    host, _, port = url.removeprefix("sentinel://").partition(":")
    sentinel = redis.sentinel.Sentinel([(host, int(port))])
    return poolmgr.SentinelConnectionPool("main", sentinel, timeout=TIMEOUT)


def threads(url: str) -> None:
    import redis

    pool = _pool(url)
    client = redis.Redis(connection_pool=pool)
    tally = Tally()
    running: list[threading.Thread] = []

    def caller(number: int) -> None:
        while number < tally.wanted:
            try:
                client.xread({"no-such-stream": "$"}, block=round(HOLD * 1000))
                tally.done()
            except Exception as error:
                tally.failed(error)
                time.sleep(0.05)

    def wanted(count: int) -> None:
        tally.wanted = count
        running[:] = [thread for thread in running if thread.is_alive()]
        for number in range(len(running), count):
            running.append(threading.Thread(target=caller, args=(number,), daemon=True))
            running[-1].start()
        if count < len(running):
            for thread in running[count:]:
                thread.join()
            del running[count:]

    words(tally, wanted)
    pool.close()


async def tasks(url: str) -> None:
    import redis.asyncio

    import poolmgr.asyncio

    pool = poolmgr.asyncio.ConnectionPool.from_url(url, timeout=TIMEOUT)
    client = redis.asyncio.Redis(connection_pool=pool)
    tally = Tally()
    running: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    async def caller(number: int) -> None:
        while number < tally.wanted:
            try:
                await client.xread({"no-such-stream": "$"}, block=round(HOLD * 1000))
                tally.done()
            except Exception as error:
                tally.failed(error)
                await asyncio.sleep(0.05)

    def start(count: int) -> None:
        before, tally.wanted = tally.wanted, count
        for number in range(before, count):
            task = loop.create_task(caller(number))
            running.add(task)
            task.add_done_callback(running.discard)

    await asyncio.to_thread(words, tally, lambda count: loop.call_soon_threadsafe(start, count))
    while running:
        await asyncio.wait(running)
    await pool.aclose()


def without_gate() -> None:
    """For the proof that a test would notice."""
    from poolmgr.member.core import account
    from poolmgr.pool import handshake
    from poolmgr.pool.sync import handshake as greeting

    handshake.question = greeting.question = lambda connection: None  # type: ignore[attr-defined]
    account.Account.in_doubt = lambda self, now: False  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ.get("OFF") == "gate":
        without_gate()
    _, url, *flavour = sys.argv
    if flavour == ["asyncio"]:
        asyncio.run(tasks(url))
    else:
        threads(url)
