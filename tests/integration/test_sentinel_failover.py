"""Sentinels under a supervisor: each has a budget of its own, and a failover that they decide exceeds none."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
import redis

from tests.helpers import ROOT, RedisServer, Servers, free_port, python, wait_for
from tests.pools import running_sentinel
from tests.sentinels import AT_ONCE, key, known_replicas, replicate


def test_a_sentinel_has_a_budget_of_its_own_auto_too(server: RedisServer):
    """Sentinel knows no CONFIG, and INFO names its ``maxclients``."""
    with running_sentinel(server, "maxclients 50") as port:
        code = f"""if True:
            import poolmgr, redis, subprocess, sys
            manager = redis.Sentinel([("127.0.0.1", {port})])
            client = manager.master_for("main", connection_pool_class=poolmgr.SentinelConnectionPool, timeout=20)
            assert client.echo("a") == b"a"
            subprocess.run([sys.executable, "-m", "poolmgr.cli", "limits", "--json"], check=True)"""
        found = {one["id"]: one for one in json.loads(python(code).stdout)["servers"]}
    assert found[key(port)]["budget"] in (41, 42) and "maxclients 50" in found[key(port)]["derivation"], found
    assert found[key(server.port)]["budget"] > 500


BUDGET = 6


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_failover(redis_server: Servers, kind: str):
    """Two Sentinels replace a master that was killed: callers go on at the new one, and no server, Sentinels included,
    sees one connection more than the budget, the Sentinels' own, the replica's and an observer's."""
    with contextlib.ExitStack() as stack:
        master, replica = (
            redis_server(port=free_port(), maxclients=BUDGET + 2 * 2 + 1 + 1, **AT_ONCE) for _ in range(2)
        )
        replicate(replica, master)
        quick = ("sentinel down-after-milliseconds main 500", "sentinel failover-timeout main 3000")
        ports = [
            stack.enter_context(running_sentinel(master, *quick, f"maxclients {BUDGET + 1 + 1}")) for _ in range(2)
        ]
        wait_for(
            lambda: all(known_replicas(port) == 1 and others(port) == 1 for port in ports),
            30,
            what="all know each other",
        )
        program = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", "tests.sentinel_programs", kind, *map(str, ports)],
            env={**os.environ, "REDIS_CONNECTION_BUDGET": str(BUDGET)},
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            wait_for(lambda: written(master) > 100, 30, what="the program writes")
            master.stop()
            wait_for(lambda: role(replica) == "master", 30, what="the replica is master")
            before = written(replica)
            wait_for(lambda: written(replica) > before + 100, 30, what="the program writes to the new master")
            assert replica.rejected() == 0
            assert [rejected(port) for port in ports] == [0, 0]
            program.send_signal(signal.SIGTERM)
            out, err = program.communicate(timeout=60)
        finally:
            program.kill()
            program.wait()
        assert program.returncode == 0 and "Traceback" not in err and "Warning" not in err, err
        seen = Counter(json.loads(out))
        assert seen.pop("crossed") == seen.pop("left") == 0 and seen["written"] > 200, seen
        wait_for(lambda: [one for one in replica.clients() if one["name"].startswith("pm1")] == [], 20)


def others(sentinel: int) -> int:
    with redis.Redis(port=sentinel) as observer:
        return int(observer.sentinel_master("main")["num-other-sentinels"])


def role(server: RedisServer) -> str:
    """Empty if the answer was cut off: in the transaction that promotes a replica, a Sentinel also sends it CLIENT KILL
    TYPE normal (sentinel.c), which closes the observer's connection too."""
    with contextlib.suppress(redis.ConnectionError):
        return str(server.info("replication")["role"])
    return ""


def written(server: RedisServer) -> int:
    return int(server.info("commandstats").get("cmdstat_incrby", {"calls": 0})["calls"])


def rejected(sentinel: int) -> int:
    with redis.Redis(port=sentinel) as observer:
        return int(observer.info("stats")["rejected_connections"])
