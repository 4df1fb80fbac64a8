"""A caller without an idle connection queues, and waits for its fate: served, granted, failed, or too late."""

from __future__ import annotations

from typing import Any

from redis.observability import recorder
from redis.observability.attributes import get_pool_name

from poolmgr.member.core.bounds import ANSWER, CONNECTING, OTHERS, SUPERVISOR, Cause, Wait
from poolmgr.member.ports import SERVES_HERE, Shortage
from poolmgr.member.waker import Parker
from poolmgr.native import monotonic
from poolmgr.pool.core import Failed, Granted, Served, Waiter
from poolmgr.pool.refusal import again, refused, too_late, why
from poolmgr.pool.sync import connector
from poolmgr.pool.sync.redis_interface import RedisInterface

SLICE = 0.25
"""Seconds after which a waiter looks for itself."""

SOON = 0.05
"""The same while it waits for something other than a connection in use: no wake-up comes when that changes."""

AT_ONCE = 0.005
"""The same while it waits for the supervisor's answer, which takes a millisecond."""


def queue_up(pool: RedisInterface, started: float, timeout: float | None) -> tuple[Any, bool]:
    """Wait in the queue for a connection, or make one if granted; and whether it is a used one."""
    core = pool._core
    if pool.max_waiting and core.waiting >= pool.max_waiting:
        raise too_late(pool, Shortage("queue", f"{pool.max_waiting} callers wait already (max_waiting)"), 0.0)
    if any(permits.serves_here for permits in pool._origin.known):
        raise too_late(pool, Shortage("supervisor", SERVES_HERE), 0.0)
    wait = Wait(timeout, started)
    cause: Cause = OTHERS
    parker = Parker()
    waiter = Waiter(started, parker.ring)
    waited = False
    try:
        core.join(waiter)
        pool._advance()
        while (fate := waiter.fate) is None:
            now, (cause, in_vain) = monotonic(), held_up_by(pool, waiter)
            left = wait.left(cause, now, lent=pool._core.lent > 0)
            if left <= 0 or in_vain:
                fate = core.leave(waiter)
                break
            pause = min(left, SLICE if cause == OTHERS else SOON if cause != ANSWER else AT_ONCE)
            if core.is_head(waiter):
                pause = min(pause, core.due(now))
            waited = True
            if not sleep(pool, parker, max(0.0, pause)):
                core.starved = False
                core.audit()
            if waiter.fate is None:
                down = pool._origin.down()
                if down is not None:
                    waiter.settle(Failed(down))
                pool._advance()
    except BaseException:
        give_up(pool, waiter)
        raise
    seconds = monotonic() - started
    if waited:
        pool._tally.waited(seconds)
        if recorder._metrics_collector is not None:
            recorder.record_connection_wait_time(get_pool_name(pool), seconds)
    if isinstance(fate, Served):
        return fate.connection, True
    if isinstance(fate, Granted):
        now = monotonic()
        return connector.open_here(pool, fate.ticket, now + wait.left(CONNECTING, now)), False
    if pool._queue:
        pool._advance()  # the next one's turn, with what this one leaves
    if isinstance(fate, Failed):
        error = again(fate.error)
        refused(pool, error)
        raise error
    raise too_late(pool, why(pool, cause), seconds)


def sleep(pool: RedisInterface, parker: Parker, seconds: float) -> bool:
    """Sleep until woken, or for ``seconds``; whether it was woken."""
    permits = pool._origin.attach()
    if permits is not None and permits.attend(seconds):
        return parker.wait(0.0)
    return parker.wait(seconds)


def held_up_by(pool: RedisInterface, waiter: Waiter) -> tuple[Cause, bool]:
    """What a caller waits for now, and so which bound holds; and whether waiting is in vain."""
    cause = pool._core.held_up_by(waiter)
    if cause != "permit":
        return cause, False
    permits = pool._origin.attach()
    if permits is None:
        return OTHERS, False
    if permits.pending != SUPERVISOR or not permits.obstacle:
        return permits.pending, False
    if pool._core.lent:
        return OTHERS, False  # none can be opened, but lent ones come back
    return SUPERVISOR, True


def give_up(pool: RedisInterface, waiter: Waiter) -> None:
    """A waiter leaves because of an exception: what it was given goes to the next one."""
    fate = pool._core.leave(waiter)
    if isinstance(fate, Served):
        pool._idle.append(fate.connection)
    elif isinstance(fate, Granted):
        pool._core.drop(fate.ticket)
    if pool._queue:
        pool._advance(may_open=False)
