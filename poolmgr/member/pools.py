"""The pools of a process, as the member's thread deals with them.

A pool promises not to raise and not to block; this module keeps a pool that raises from harming the
others. The core decides what pools must do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

import msgspec

from poolmgr import wire
from poolmgr.logs.journal import Log
from poolmgr.member.permits import ServerPermits
from poolmgr.member.ports import PoolPort, Usage
from poolmgr.native import monotonic

log = Log("poolmgr.member")

NEVER = float("inf")

TICK_AGAIN = 1.0
"""Seconds until a pool whose ``tick`` raised is ticked again."""

SOONEST = 0.005
"""Shortest time in seconds between two ticks of a pool."""


class AttachedPool:
    """A pool with all its attachments: usually one, several if its connections go to several addresses. Its next
    connections lead to the last one."""

    def __init__(self, pool: PoolPort, since: float) -> None:
        self.pool = weakref.ref(pool)
        self.permits: list[ServerPermits] = []
        self.tick_at = 0.0
        self.counters: wire.Counters | None = None
        self.since = since


class Pools:
    """All pools. Only the member's thread calls the methods, except :meth:`adopt` and :meth:`prefer`.

    Args:
        locked: calls a function under the member's lock.
        again: this process has said goodbye before, after it had sent what its pools had counted until then.
    """

    def __init__(self, locked: Callable[[Callable[[], int]], int], *, again: bool = False) -> None:
        self._locked = locked
        self._again = again
        self._clients: dict[int, AttachedPool] = {}
        """By the pool's id; changed under the member's lock, and iterated over as a copy."""

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[AttachedPool]:
        return iter(list(self._clients.values()))

    def weight(self) -> int:
        """The most descriptors that a further connection of any pool takes."""
        pools = [client.pool() for client in self]
        return max((pool.descriptors for pool in pools if pool is not None), default=1)

    def adopt(self, permits: ServerPermits, pool: PoolPort) -> None:
        """Look after a pool. Under the member's lock."""
        client = self._clients.get(id(pool))
        if client is None or client.pool() is not pool:
            client = self._clients[id(pool)] = AttachedPool(pool, 0.0 if self._again else monotonic())
        client.permits.append(permits)

    def prefer(self, permits: ServerPermits) -> None:
        """The pool's next connections lead there. Under the member's lock."""
        for client in self:
            if permits in client.permits:
                client.permits = [*(other for other in client.permits if other is not permits), permits]

    def drop(self, permits: ServerPermits) -> bool:
        """The pool uses another address; False if it has no other, or this one was dropped before. Under the member's
        lock."""
        for client in self:
            if permits in client.permits and len(client.permits) > 1:
                client.permits = [other for other in client.permits if other is not permits]
                return True
        return False

    def forget(self, permits: ServerPermits) -> None:
        """The pool behind it has been collected. Under the member's lock."""
        for key, client in list(self._clients.items()):
            if permits in client.permits and client.pool() is None:
                del self._clients[key]

    def usage(self, permits: ServerPermits) -> Usage | None:
        """What the pool reports; shared out by sockets if it draws on several addresses."""
        usage = call(permits, "usage", reset=True)
        if not isinstance(usage, Usage):
            return None
        client = self._clients.get(id(permits.pool and permits.pool()))
        if client is None or len(client.permits) < 2:
            return usage
        here = self._locked(lambda: permits.sockets)
        lent = min(usage.lent, here)
        idle = min(usage.idle, here - lent)
        waiting = usage.waiting if client.permits[-1] is permits else 0
        replied = call(permits, "replied", permits)
        return msgspec.structs.replace(
            usage,
            lent=lent,
            idle=idle,
            low=min(usage.low, idle),
            waiting=waiting,
            pinned=min(usage.pinned, lent),
            replied=replied if isinstance(replied, float) else 0.0,
        )

    def tick(self, now: float) -> float:
        """Let pools do what is due; when the next tick is due."""
        soonest = NEVER
        for client in self:
            if now >= client.tick_at:
                pause = call(client.permits[0], "tick", now)
                client.tick_at = now + (max(SOONEST, pause) if isinstance(pause, (int, float)) else TICK_AGAIN)
            soonest = min(soonest, client.tick_at)
        return soonest

    def stats(self) -> Iterator[wire.Stats]:
        """Counters that have changed since the last call."""
        for client in self:
            permits = client.permits[-1]
            server, pool = permits.dispatcher.account.server, client.pool()
            counters = call(permits, "counters")
            if pool is not None and server and isinstance(counters, wire.Counters) and counters != client.counters:
                client.counters = counters
                usage = permits.demand.usage
                yield wire.Stats(server, pool.name, counters, usage.idle, usage.lent, client.since)

    def tell_again(self) -> None:
        """A new supervisor needs all counters."""
        for client in self:
            client.counters = None


def call(permits: ServerPermits, method: str, *args: object, **kwargs: object) -> object:
    """Call a method of the pool behind an attachment; None if the pool is gone, or raises (which is logged)."""
    pool = permits.pool and permits.pool()
    if pool is None:
        return None
    try:
        return getattr(pool, method)(*args, **kwargs)
    except Exception:
        log.exception("pool.failed", extra={"method": method})
        return None
