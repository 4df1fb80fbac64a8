"""15. What a script of a moment costs: one GET, from the start of its interpreter to its end, with its supervisor.

The first process of a host starts a supervisor, which ends soon after the last one. So a script that runs now and then
pays for both each time. The kernel counts each process's time (wait4(2)); the supervisor is nobody's child, so the part
is the one that the kernel hands orphans to (PR_SET_CHILD_SUBREAPER, prctl(2)).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import redis

from bench.lib import pools, servers
from bench.lib.measure import turns
from bench.lib.part import Context
from bench.lib.results import Part, Table
from tests.helpers import ROOT

TITLE = "A script of a moment"
SECONDS = 25

PR_SET_CHILD_SUBREAPER = 36

THEIRS = """import os, redis
redis.Redis.from_url(os.environ["REDIS_URL"]).get("bench")"""
OURS = """import os, redis, poolmgr
redis.Redis(connection_pool=poolmgr.ConnectionPool.from_url(os.environ["REDIS_URL"])).get("bench")"""

SCRIPTS = {
    "the interpreter alone": "pass",
    pools.REDIS: THEIRS,
    f"{pools.OURS}, a supervisor is there": OURS,
    (FIRST := f"{pools.OURS}, the first of its host"): OURS,
}
SUPERVISOR = "the supervisor that it starts"


def run(context: Context) -> Part:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    processor = Table(key="processor", title="Processor time of one GET", unit="ms", chart="")
    rounds = context.rounds(15)
    context.steps((1 + rounds) * len(SCRIPTS), TITLE)

    with servers.server(context.directory) as server, servers.supervisor(context.directory / "s"):
        environ = {**os.environ, "REDIS_URL": f"redis://127.0.0.1:{server.port}", "PYTHONPATH": str(ROOT)}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        resident = redis.Redis(connection_pool=pools.ours(server.port))
        resident.set("bench", "value")  # from here on a supervisor is there
        for number, name in turns(list(SCRIPTS), 1 + rounds):
            socket = context.directory / ("f" if name == FIRST else "s")
            command = [sys.executable, "-P", "-c", SCRIPTS[name]]
            script = subprocess.Popen(command, env={**environ, "POOLMGR_SOCKET": str(socket)})
            found = _end_of(script.pid)
            script.returncode = 0
            ended = _end_of(-1) if name == FIRST else None
            if number:  # the first round has written bytecode
                processor.add(name, found)
                if ended is not None:
                    processor.add(SUPERVISOR, ended)
            context.step(name)
    return Part(
        key="moment",
        title=TITLE,
        text="A script loads redis-py, does one GET and ends. Processor time is that of the whole process, its "
        "interpreter's start and end included. The first process of a host also starts a supervisor, and pays for the "
        "process between; the supervisor's own time is from its start to its end.",
        tables=[processor],
    )


def _end_of(pid: int) -> float:
    """Milliseconds of a processor of a child that ends now, and of those that it has waited for."""
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"status {status}")
    return (usage.ru_utime + usage.ru_stime) * 1e3
