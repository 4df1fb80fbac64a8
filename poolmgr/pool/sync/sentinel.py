"""Pools for Sentinel: ``sentinel.master_for("name", connection_pool_class=SentinelConnectionPool)``."""

from __future__ import annotations

import redis.sentinel

from poolmgr.pool.sync.pool import ConnectionPool


class SentinelConnectionPool(redis.sentinel.SentinelConnectionPool, ConnectionPool):
    """redis-py's way of finding master and replicas, our way of pooling.

    A connection's permit is that of the address it turns out to connect to, so each server has its own
    budget, and a failover moves the connections from one to the other.
    """

    def __repr__(self) -> str:
        role = "master" if self.is_master else "replica"
        kind = type(self)
        return f"<{kind.__module__}.{kind.__name__}(service={self.service_name}({role}))> {self._state_in_words()}"
