"""7. Growth and recall: the cost of a permit that the process does not have yet.

Three ways to get a connection, each timed from the call to the connection in hand:

- *growth*: past the process's limit, while the host's budget has spare permits. One message to the
  supervisor and back, and a connect;
- *recall*: the budget is taken, and another process holds a connection that it does not use. The supervisor asks it;
  it closes its connection with the server's confirmation, and reports that; then a connect;
- *kill*: the other process is killed while it uses all of the budget. The kernel has to report its death, and the
  server that its connections are gone; then a connect.

The peer of all three is the part that none can avoid: a new connection from redis-py's pool, with a client
name, as ours have. redis-py alone has no peer for the last two: there another process never gives a permit back.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import redis

from bench.lib import pools, servers
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table
from tests.helpers import wait_for

TITLE = "Growth, recall and kill"
SECONDS = 70

CONNECT = "redis.ConnectionPool: a new connection"
OURS = "poolmgr: a connection past the limit"
RECALL = "poolmgr: another process's idle one"
KILL = "poolmgr: after SIGKILL of its holder"


def run(context: Context) -> Part:
    growth = Table(key="growth", title="Growth by one past the limit", unit="ms", reference=CONNECT)
    recall = Table(key="recall", title="A permit moves from an idle holder", unit="ms", reference=CONNECT)
    kill = Table(key="kill", title="A permit is usable again after SIGKILL", unit="ms", reference=CONNECT)
    context.steps(context.rounds(30) + 2 * context.rounds(20), TITLE)
    others = multiprocessing.get_context("fork")
    with servers.server(context.directory) as server:
        with servers.supervisor(context.directory / "g", REDIS_CONNECTION_BUDGET="20"):
            _growth(context, growth, server.port, others)
        with servers.supervisor(context.directory / "m", REDIS_CONNECTION_BUDGET="8"):
            _recall(context, recall, server.port, others)
            _kill(context, kill, server.port, others)
    return Part(
        key="moves",
        title=TITLE,
        text="Each time ends when the caller has the connection. It begins with the call; after a kill it begins with "
        "the signal, for a caller that waits already. Each includes at least what a new connection of redis-py's pool "
        "takes in the same seconds.",
        tables=[growth, recall, kill],
        goals=[
            Goal(
                what="growth by one, against a new connection of redis-py's",
                table="growth",
                variant=OURS,
                against=CONNECT,
                at_most=1.1,
            ),
            Goal(what="recall of an idle permit", table="recall", variant=RECALL, at_most=20),
            Goal(what="permits of a killed process usable again", table="kill", variant=KILL, at_most=50),
        ],
    )


def _connect(port: int) -> float:
    """Seconds for a new connection from redis-py's pool, with a client name as long as ours."""
    pool = redis.ConnectionPool(host="127.0.0.1", port=port, client_name="pm1.01234567.012345.12345.1234567.012345-12")
    took, _ = _take(pool)
    pool.disconnect()
    return took


def _take(pool: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    connection = pool.get_connection()
    return time.perf_counter() - start, connection


# ---- growth ----------------------------------------------------------------------------------------


def _growth(context: Context, table: Table, port: int, others: BaseContext) -> None:
    near, far = others.Pipe()
    rounds = context.rounds(30)
    process = others.Process(target=_grower, args=(far, port, rounds), daemon=True)  # type: ignore[attr-defined]
    process.start()
    try:
        for _ in range(rounds):
            ours, peer = _receive(near)
            table.add(OURS, ours * 1e3)
            table.add(CONNECT, peer * 1e3)
            context.step("growth")
    finally:
        process.kill()
        process.join()


def _grower(pipe: Connection, port: int, rounds: int) -> None:
    """Each time: take all that the limit allows, then one more, which alone is timed; then begin again."""
    observer = servers.Observer()
    pool = pools.ours(port)
    pool.release(pool.get_connection())
    me = os.getpid()
    usual = wait_for(lambda: _settled(observer), 10, what="the first limit")
    for number in range(rounds):
        held = [pool.get_connection() for _ in range(usual)]
        if observer.limit_of(me) != usual:
            raise RuntimeError(f"the limit is {observer.limit_of(me)} and not {usual}")
        if number % 2:
            peer, (ours, connection) = _connect(port), _take(pool)
        else:
            (ours, connection), peer = _take(pool), _connect(port)
        pipe.send((ours, peer))
        for each in (*held, connection):
            pool.release(each)
        pool.disconnect()
        wait_for(lambda: observer.limit_of(me) == usual and pool.stats().idle == 0, 10, what="the usual limit")
    pipe.recv()


def _settled(observer: servers.Observer) -> int:
    """The limit with all headroom in it, once it has stopped to change."""
    first = observer.limit_of(os.getpid())
    time.sleep(0.3)
    return first if first > 1 and observer.limit_of(os.getpid()) == first else 0


# ---- recall and kill -------------------------------------------------------------------------------


def _recall(context: Context, table: Table, port: int, others: BaseContext) -> None:
    near, far = others.Pipe()
    process = others.Process(target=_holder, args=(far, port, False), daemon=True)  # type: ignore[attr-defined]
    process.start()
    try:
        pool = pools.ours(port)
        for _ in range(context.rounds(20)):
            near.send("fill")
            _receive(near)
            time.sleep(0.05)  # longer than a connection must be idle to be recalled as idle
            ours, connection = _take(pool)
            pool.release(connection)
            table.add(RECALL, ours * 1e3)
            table.add(CONNECT, _connect(port) * 1e3)
            context.step("recall")
        pool.disconnect()
    finally:
        process.kill()
        process.join()


def _kill(context: Context, table: Table, port: int, others: BaseContext) -> None:
    pool = pools.ours(port)
    for _ in range(context.rounds(20)):
        near, far = others.Pipe()
        process = others.Process(target=_holder, args=(far, port, True), daemon=True)  # type: ignore[attr-defined]
        process.start()
        near.send("fill")
        _receive(near)
        end = 0.0

        def wait() -> None:
            nonlocal end
            connection = pool.get_connection()
            end = time.perf_counter()
            pool.release(connection)

        waiter = threading.Thread(target=wait)
        waiter.start()
        wait_for(lambda: pool.stats().waiting == 1, 5, what="a caller waits")
        time.sleep(0.1)
        assert not end, "there was a permit all the time"
        start = time.perf_counter()
        process.kill()
        waiter.join()
        process.join()
        table.add(KILL, (end - start) * 1e3)
        table.add(CONNECT, _connect(port) * 1e3)
        context.step("kill")


def _holder(pipe: Connection, port: int, busy: bool) -> None:
    """On command, take every permit. Then give them back and be idle, or keep them."""
    pool = pools.ours(port, timeout=0.3)
    while True:
        pipe.recv()
        held = []
        try:
            while True:
                held.append(pool.get_connection())
        except redis.exceptions.MaxConnectionsError:
            pass  # that is all of the budget
        if not busy:
            for connection in held:
                pool.release(connection)
        pipe.send(len(held))


def _receive(pipe: Connection) -> Any:
    if not pipe.poll(60):
        raise RuntimeError("the other process does not answer")
    return pipe.recv()
