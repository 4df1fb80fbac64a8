"""Whether a service is ready while others hold all its connections: what was last heard of the server says so, and not
for ever."""

from __future__ import annotations

from tests.helpers import Servers, free_port, python

ASKS = """
import threading, time
import poolmgr
from tests.helpers import wait_for
from worker.execute import Runner

TIMEOUT = 1.0
runner = Runner(TIMEOUT)

def ready():
    try:
        runner.ping()
    except poolmgr.ConnectionPoolTimeoutError:
        return False
    return True

pool = poolmgr.get_pool(protocol=2, max_reply=0, parser_class=__import__("worker.replies").replies.Parser)
assert ready()
with pool.connection() as all_there_are:
    began = time.monotonic()
    assert ready(), "its server has just answered"
    wait_for(lambda: not ready(), 60, what="the last answer is too old")
    print("old after", time.monotonic() - began)
    assert not ready()
    all_there_are.send_command("PING"); all_there_are.read_response()  # not by the runner, which hears nothing of it
    assert not ready()
assert ready(), "as soon as one can be asked"
with pool.connection():
    assert ready()
print("good")
"""


def test_the_last_answer_speaks_for_a_busy_server_only_as_long_as_two_requests_may_take(redis_server: Servers) -> None:
    server = redis_server(port=free_port(), maxclients=3)
    done = python(ASKS, environ={"REDIS_URL": server.url, "REDIS_CONNECTION_BUDGET": "1"}, check=False)
    assert done.stdout.endswith("good\n"), done.stdout + done.stderr
    assert float(done.stdout.split()[2]) >= 1.5, "a request that waits for another one is no outage"
