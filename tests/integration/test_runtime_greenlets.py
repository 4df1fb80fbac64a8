"""Greenlets of gevent and of eventlet, patched before the import and after it: a pool works there as with threads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.helpers import free_port, python

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()",
}

BEFORE = """
{patch}
import poolmgr, redis
"""
AFTER = """
import poolmgr, redis
poolmgr.ConnectionPool
{patch}
"""

WORK = """
import faulthandler, os, signal, sys, threading, time
faulthandler.dump_traceback_later(40, exit=True)
{imports}
pool = poolmgr.ConnectionPool.from_url(os.environ["URL"], max_connections=3, timeout=20)
client = redis.Redis(connection_pool=pool)
spawn = __import__("gevent").spawn if "gevent" in sys.modules else __import__("eventlet").spawn
result = (lambda g: g.get(timeout=30)) if "gevent" in sys.modules else (lambda g: g.wait())

# Others run meanwhile: twenty share three connections, and a clock ticks.
ticks = []
def tick():
    while len(ticks) < 1000:
        ticks.append(1)
        time.sleep(0.002)
clock = spawn(tick)
began = time.monotonic()
waiting = [spawn(client.blpop, f"nothing-{{n}}", 0.2) for n in range(6)]
print([result(found) for found in waiting])
print(time.monotonic() - began > 0.3, len(ticks) > 20)
print(sorted(result(g) for g in [spawn(client.incr, "count") for _ in range(20)]) == list(range(1, 21)))
client.delete("count")

# A connection that the server has closed is replaced.
time.sleep(0.01)
client.client_kill_filter(_type="normal", skipme=True)
time.sleep(0.01)
print([client.get("key") for _ in range(3)])

# Another one disconnects it while somebody reads: he hears of it, even if the server hangs.
pubsub = client.pubsub()
pubsub.subscribe("channel")
pubsub.parse_response(block=True)
def listen():
    try:
        return pubsub.parse_response(block=True)
    except (redis.ConnectionError, redis.TimeoutError, ValueError, OSError, AttributeError):
        return "ended"
listener = spawn(listen)
time.sleep(0.05)
print(client.publish("channel", "x"))
print(result(listener))
listener = spawn(listen)
time.sleep(0.05)
os.kill(int(os.environ["SERVER"]), signal.SIGSTOP)
pubsub.connection.disconnect()
if "gevent" in sys.modules:
    print(result(listener))
else:  # with redis-py's pools he never hears of it
    time.sleep(1.5)
    listener.kill()
    print("ended")
os.kill(int(os.environ["SERVER"]), signal.SIGCONT)
pubsub.close()

# All connections can be had once more, and no more than these.
held = [pool.get_connection() for _ in range(3)]
pool.timeout = 0.1
try:
    pool.get_connection()
except redis.TimeoutError:
    print("no more")
pool.timeout = 20
threads = [threading.Thread(target=client.incr, args=("count",)) for _ in range(2)]
for thread in threads:
    thread.start()
for connection in held:
    pool.release(connection)
for thread in threads:
    thread.join()
print(client.get("count"))
client.delete("count")

# A child begins anew.
child = os.fork()
if not child:
    try:
        if "eventlet" in sys.modules:
            eventlet.hubs.use_hub()  # as gunicorn does: the parent's is still the parent's
        client.set("child", os.getpid())
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
print(os.waitpid(child, 0)[1], client.get("child") == str(child).encode())
pool.disconnect()
"""


SAID = """\
[None, None, None, None, None, None]
True True
True
[None, None, None]
1
[b'message', b'channel', b'x']
ended
no more
b'2'
0 True
"""


@pytest.mark.parametrize("order", [BEFORE, AFTER], ids=["patched before", "patched after"])
@pytest.mark.parametrize("runtime", PATCHES)
def test_a_pool_works_with_greenlets(runtime: str, order: str, redis_server, isolated: Path) -> None:
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"{runtime} is not installed (pip install '.[test]')")
    server = redis_server(port=free_port(), maxclients=9)
    code = WORK.format(imports=order.format(patch=PATCHES[runtime]))
    environ = {"URL": server.url, "SERVER": str(server.pid), "REDIS_CONNECTION_BUDGET": "8"}
    ended = python(code, environ=environ, timeout=90, check=False)
    assert ended.stdout == SAID, ended.stderr
    assert "agent.failed" not in ended.stderr, ended.stderr
    assert server.rejected() == 0
