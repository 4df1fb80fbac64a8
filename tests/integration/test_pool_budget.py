"""The pool under a real budget: whatever its connections go through, the server never sees one too many.

The oracle is exact: the server allows the budget and one observer, and counts every refusal.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import ROOT, RedisServer, free_port, wait_for

CHURN = """
import gc, json, random, sys, threading, time
import redis
from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.pool.sync.pool import ConnectionPool

port, seed, seconds, enough = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
pools = [ConnectionPool(host="127.0.0.1", port=port, db=db, timeout=20, socket_timeout=10) for db in (0, 1)]
end = time.monotonic() + seconds
failures, done = [], [0]

def churn(number):
    rng = random.Random(seed * 1000 + number)
    while time.monotonic() < end and done[0] < enough:
        pool = rng.choice(pools)
        client = redis.Redis(connection_pool=pool)
        try:
            deed = rng.randrange(10)
            word = str(rng.random())
            if deed < 4:
                assert client.echo(word).decode() == word
            elif deed == 4:
                with client.pipeline() as pipeline:
                    assert pipeline.echo(word).execute()[0].decode() == word
            elif deed == 5:  # a reply owed
                with pool.connection() as connection:
                    connection.send_command("PING")
            elif deed == 6:  # reconnects under its holder's hands
                with pool.connection() as connection:
                    connection.disconnect()
                    connection.send_command("PING")
                    connection.read_response()
            elif deed == 7:  # lost
                pool.get_connection()
            elif deed == 8:
                pubsub = client.pubsub()
                pubsub.subscribe("x")
                pubsub.get_message(timeout=1)
                pubsub.close()
            elif rng.random() < 0.1:
                pool.drain()
            done[0] += 1
            connection = pubsub = pipeline = None  # what is to be lost has no other reference
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")

threads = [threading.Thread(target=churn, args=(n,)) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
gc.collect()
patience = time.monotonic() + 5  # the agent's thread may be closing one: for a moment it is nobody's
for pool in pools:
    pool._advance(may_open=False)
    while pool.stats().in_use and time.monotonic() < patience:
        time.sleep(0.01)
print(json.dumps({"failures": failures[:5], "done": done[0], "in_use": sum(p.stats().in_use for p in pools),
                  "created": sum(p.stats().created for p in pools),
                  "closed": [p.stats().closed for p in pools]}))
"""


@pytest.mark.parametrize("processes", [1, 3])
def test_no_connection_too_many_through_all_that_can_happen_to_one(
    redis_server: Callable[..., RedisServer], isolated: Path, processes: int
):
    budget = 7
    server = redis_server(port=free_port(), maxclients=budget + 1)
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "REDIS_CONNECTION_BUDGET": str(budget),
        "POOLMGR_SOCKET": str(isolated),
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CHURN, str(server.port), str(seed), "4", "1500"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(processes)
    ]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        found = json.loads(out)
        assert found["failures"] == []
        assert found["in_use"] == 0
        assert found["done"] > 20
        assert found["created"] > 10, "nothing was put to the test"
    assert server.rejected() == 0
    wait_for(lambda: not server.clients(), 10)
