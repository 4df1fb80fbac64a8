"""How a task sleeps, and how it waits for a permit itself: for a reconnect, which no pool's queue waits for."""

from __future__ import annotations

import asyncio
from typing import Any

from poolmgr.member.ports import Claimant, Permit, Permits
from poolmgr.pool.aio.aside import aside
from poolmgr.pool.aio.parker import TaskParker
from poolmgr.pool.permit_source import PermitSource

STEP = 0.005
"""Seconds between two turns of a member that has no thread and works in its callers'."""


async def sleep(permits: Permits | None, parker: TaskParker, seconds: float) -> bool:
    """Sleep until woken, or for so many seconds; whether it was woken."""
    if permits is not None and permits.attend(0.0):
        seconds = min(seconds, STEP)
    return await parker.wait(seconds)


async def claim(source: PermitSource, connection: Any, place: Any = None) -> Permit:
    """The permit for a socket that a connection is about to open, as :meth:`PermitSource.claim`."""
    while True:
        if not source.is_attached(connection, place):
            await aside(lambda: source.attached(connection, place))
        permit = source.drawn(connection, place)
        if permit is not None:
            return permit
        permits = connection._draws
        claimants: set[Claimant] = getattr(connection._shard, "claimants", set())
        permit = await _wait(permits, source.patience(connection), claimants)
        if permit is not None:
            return permit
        source.must_be_over(permits)


async def _wait(permits: Permits, timeout: float | None, claimants: set[Claimant]) -> Permit | None:
    """See :func:`claim`.

    Args:
        claimants: all of this loop: they leave with it, also if their tasks are never finished.
    """
    parker = TaskParker(asyncio.get_running_loop())
    claimant = permits.claimant(timeout, parker)
    claimants.add(claimant)
    try:
        while isinstance(found := claimant.look(), float):
            await sleep(permits, parker, found)
        return found
    finally:
        claimants.discard(claimant)
        claimant.leave()
