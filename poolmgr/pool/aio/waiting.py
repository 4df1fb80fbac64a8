"""How a task waits for a connection. :mod:`poolmgr.pool.waiting` has the rules."""

from __future__ import annotations

from typing import Any

from poolmgr.pool.aio import connector
from poolmgr.pool.aio.claims import sleep
from poolmgr.pool.aio.parker import TaskParker
from poolmgr.pool.aio.shard import Shard
from poolmgr.pool.queue import Served
from poolmgr.pool.waiting import Caller


async def queue_up(shard: Shard, started: float, timeout: float | None) -> tuple[Any, bool]:
    """Wait in the queue for a connection, or make one if granted; and whether it is a used one."""
    parker = TaskParker(shard.loop)
    caller = Caller(shard, started, timeout, parker.ring)
    try:
        caller.join()
        while (pause := caller.pause()) is not None:
            caller.slept(woken=await sleep(shard._origin.attach(), parker, pause))
    except BaseException:
        caller.give_up()
        raise
    fate = caller.outcome()
    if isinstance(fate, Served):
        return fate.connection, True
    return await connector.open_here(shard, fate.ticket, caller.deadline()), False
