"""How a thread or a greenlet waits for a connection. :mod:`poolmgr.pool.waiting` has the rules."""

from __future__ import annotations

from typing import Any

from poolmgr.member.waker import Parker
from poolmgr.pool.queue import Served
from poolmgr.pool.sync import connector
from poolmgr.pool.sync.redis_interface import RedisInterface
from poolmgr.pool.waiting import Caller


def queue_up(pool: RedisInterface, started: float, timeout: float | None) -> tuple[Any, bool]:
    """Wait in the queue for a connection, or make one if granted; and whether it is a used one."""
    parker = Parker()
    caller = Caller(pool, started, timeout, parker.ring)
    try:
        caller.join()
        while (pause := caller.pause()) is not None:
            caller.slept(woken=sleep(pool, parker, pause))
    except BaseException:
        caller.give_up()
        raise
    fate = caller.outcome()
    if isinstance(fate, Served):
        return fate.connection, True
    return connector.open_here(pool, fate.ticket, caller.deadline()), False


def sleep(pool: RedisInterface, parker: Parker, seconds: float) -> bool:
    """Sleep until woken, or for ``seconds``; whether it was woken."""
    permits = pool._origin.attach()
    if permits is not None and permits.attend(seconds):
        return parker.wait(0.0)
    return parker.wait(seconds)
