"""A process whose limit of open files is less than what two servers would give it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from tests.helpers import ROOT, free_port

BUSY = """
    import json, os, sys, threading, time
    from collections import Counter
    from redis import Redis
    from poolmgr import ConnectionPool

    pools = [ConnectionPool.from_url(url, timeout=5) for url in sys.argv[1:]]
    most, errors, served = 0, Counter(), [0, 0]
    until = time.monotonic() + {seconds}

    def work(which):
        client = Redis(connection_pool=pools[which])
        while time.monotonic() < until:
            try:
                client.blpop(["nothing"], timeout=0.05)
                served[which] += 1
            except Exception as error:
                errors[repr(error)] += 1

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range({callers})]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        most = max(most, len(os.listdir("/proc/self/fd")) - 1)
        time.sleep(0.005)
    sizes = [pool.stats().in_use + pool.stats().idle for pool in pools]
    made = [pool.stats().created for pool in pools]
    for thread in threads:
        thread.join()
    print(json.dumps(dict(most=most, errors=errors.most_common(3), served=served, sizes=sizes, made=made)))
"""

LIMIT = 110


def busy(*urls: str, callers: int = 120, seconds: float = 3.0) -> dict[str, Any]:
    code = textwrap.dedent(BUSY).format(callers=callers, seconds=seconds)
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n {LIMIT} && exec "$@"', "sh", sys.executable, "-c", code, *urls],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Too many open files" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_two_servers_share_what_open_files_leave_and_nobody_runs_out(redis_server: Any, isolated: Path) -> None:
    servers = [redis_server(port=free_port(), maxclients=1000) for _ in range(2)]
    found = busy(*(server.url for server in servers))
    assert found["errors"] == []
    assert found["most"] < LIMIT
    low, high = sorted(found["sizes"])
    assert high - low <= 4, "both want all of it, and have half each"
    assert low + high >= 50, "what there is is used"
    assert sum(found["made"]) <= 2 * (low + high), "and stays where it is"
    low, high = sorted(found["served"])
    assert high < 1.5 * low
    assert all(server.rejected() == 0 for server in servers)
