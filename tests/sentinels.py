"""What tests with Sentinels and replicas share."""

from __future__ import annotations

import redis

from tests.helpers import RedisServer, wait_for

AT_ONCE = {"repl_diskless_sync_delay": 0}
"""A replica is served without waiting for others."""


def key(port: int) -> str:
    return f"tcp://127.0.0.1:{port}"


def replicate(replica: RedisServer, master: RedisServer) -> None:
    with replica.observer() as observer:
        observer.execute_command("REPLICAOF", "127.0.0.1", master.port)
    wait_for(lambda: replica.info("replication")["master_link_status"] == "up", 20, what="a replica is in step")


def known_replicas(sentinel: int) -> int:
    with redis.Redis(port=sentinel) as observer:
        return sum(1 for one in observer.sentinel_slaves("main") if not one["is_sdown"] and not one["is_disconnected"])
