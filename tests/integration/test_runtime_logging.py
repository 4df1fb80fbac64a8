"""Log lines, hooks and signal handlers that use the pool of which they tell: with no bound on waiting, nobody hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import free_port, python

BEGINNING = """
import faulthandler, logging, os, signal, sys, threading, time
faulthandler.dump_traceback_later(150, exit=True)
import poolmgr, redis
from poolmgr.launch import dial
from poolmgr.kernel import lockfile

def pool_of(**options):
    return poolmgr.ConnectionPool.from_url(os.environ["URL"], **{"timeout": None, **options})

def until(true, seconds=100):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, true.__code__.co_consts
        time.sleep(0.005)

pool = pool_of(max_connections=1, name="one")
client = redis.Redis(connection_pool=pool)
written = []
def write(record):
    if record.name.startswith("poolmgr"):
        try:
            client.rpush("log", record.getMessage())
        except redis.RedisError as error:
            print(record.getMessage(), repr(error), file=sys.stderr)
            raise
        written.append(record.getMessage())

def kill_supervisor():
    os.kill(lockfile.holder(os.environ["POOLMGR_SOCKET"] + ".lock"), signal.SIGKILL)

class Raising(redis.connection.Connection):
    raises = False
    def disconnect(self, *args):
        if self.raises:
            raise OSError("not yet")
        super().disconnect(*args)
"""

PLACES = {
    "handler": """
class Handler(logging.Handler):
    def emit(self, record):
        write(record)
logging.basicConfig(level=logging.INFO, handlers=[Handler()])
""",
    "filter": """
class Filter(logging.Filter):
    def filter(self, record):
        write(record)
        return True
handler = logging.StreamHandler(open(os.devnull, "w"))
handler.addFilter(Filter())
logging.basicConfig(level=logging.INFO, handlers=[handler])
""",
    "record factory": """
made = logging.getLogRecordFactory()
def factory(*args, **kwargs):
    record = made(*args, **kwargs)
    write(record)
    return record
logging.setLogRecordFactory(factory)
logging.basicConfig(level=logging.INFO, handlers=[logging.NullHandler()])
""",
    "structlog": """
import structlog
def processor(logger, name, event):
    write(event["_record"])
    return event
handler = logging.StreamHandler(open(os.devnull, "w"))
handler.setFormatter(structlog.stdlib.ProcessorFormatter(
    processors=[processor, structlog.processors.KeyValueRenderer()],
    foreign_pre_chain=[]
))
logging.basicConfig(level=logging.INFO, handlers=[handler])
""",
}

CAUSES = """
# In the member's thread: the supervisor is lost, and there is another one.
client.ping()
kill_supervisor()
until(lambda: {"supervisor.lost", "supervisor.found"} <= set(written))
client.ping()

# In a checkout: a hook fails when its caller has the only connection.
pool.hooks = poolmgr.Hooks(created=lambda connection: 1 / 0)
pool.disconnect()
client.ping()
pool.hooks = poolmgr.Hooks()
until(lambda: "pool.hook_failed" in written)

# In a release: a listener fails, and the connection is closed.
class Listener:
    def listen(self, event):
        pool._event_dispatcher._event_listeners_mapping[type(event)].remove(self)
        raise ValueError("a user's own")
from redis.event import AfterConnectionReleasedEvent
pool._event_dispatcher.register_listeners({AfterConnectionReleasedEvent: [Listener()]})
client.ping()
until(lambda: "pool.release_listener_failed" in written)

# Where a connection is closed: the class fails at it.
failing = pool_of(max_connections=1, connection_class=Raising, idle_timeout=0)
redis.Redis(connection_pool=failing).ping()
Raising.raises = True
failing.drain()
Raising.raises = False
redis.Redis(connection_pool=failing).ping()
until(lambda: "pool.disconnect_failed" in written)

# In the member's thread: somebody keeps a connection.
leaking = pool_of(leak_after=0.05)
kept = leaking.get_connection()
until(lambda: "pool.leak" in written)
leaking.release(kept)

client.ping()
found = {line.decode() for line in client.lrange("log", 0, -1)}
print(found == set(written))
"""


@pytest.mark.parametrize("place", PLACES)
def test_what_is_logged_is_written_through_the_pool_itself(place: str, redis_server, isolated: Path) -> None:
    server = redis_server(port=free_port(), maxclients=9)
    environ = {"URL": server.url, "REDIS_CONNECTION_BUDGET": "8"}
    ended = python(BEGINNING + PLACES[place] + CAUSES, environ=environ, timeout=200, check=False)
    assert ended.stdout == "True\n", ended.stderr
    assert server.rejected() == 0


def run(code: str, server, expected: str, budget: int = 8) -> None:
    environ = {"URL": server.url, "SERVER": str(server.pid), "REDIS_CONNECTION_BUDGET": str(budget)}
    ended = python(BEGINNING + code, environ=environ, timeout=60, check=False)
    assert ended.stdout == expected, ended.stderr
    assert server.rejected() == 0


def test_a_hook_in_the_members_thread_that_wants_a_connection_gets_an_error(redis_server, isolated: Path) -> None:
    """It is told so by the exception, and the thread that would have to help it goes on."""
    code = """
told = []
def closed(connection, reason):
    try:
        told.append((reason, client.incr("closed")))
    except redis.RedisError as error:
        told.append((reason, type(error).__name__))
idle = pool_of(idle_timeout=0.1, hooks=poolmgr.Hooks(closed=closed))
held = pool.get_connection()
redis.Redis(connection_pool=idle).ping()
until(lambda: told)
print(told)
pool.release(held)
kill_supervisor()
other = pool_of()
print([redis.Redis(connection_pool=pool_of()).ping() for _ in range(3)])
"""
    run(
        code,
        redis_server(port=free_port(), maxclients=9),
        "[('idle', 'ConnectionPoolTimeoutError')]\n[True, True, True]\n",
    )


def test_a_log_handler_that_hangs_holds_up_nobody(redis_server, isolated: Path) -> None:
    code = """
class Handler(logging.Handler):
    def emit(self, record):
        threading.Event().wait(100)
logging.getLogger("poolmgr").addHandler(Handler())
client.ping()
kill_supervisor()
for _ in range(3):
    print(redis.Redis(connection_pool=pool_of(leak_after=0.01, hooks=poolmgr.Hooks(created=1))).ping())
    time.sleep(0.1)
sys.stdout.flush()
os._exit(0)  # logging's own end would wait for the handler
"""
    run(code, redis_server(port=free_port(), maxclients=9), "True\n" * 3)


def test_a_signal_handler_uses_the_pool_while_the_pool_logs(redis_server, isolated: Path) -> None:
    code = """
class Handler(logging.Handler):
    def emit(self, record):
        client.rpush("log", record.getMessage())
logging.getLogger("poolmgr").addHandler(Handler())
several = pool_of(max_connections=3, hooks=poolmgr.Hooks(created=lambda connection: 1 / 0))
mine = redis.Redis(connection_pool=several)
rung = []
mine.ping()
def ring(number, frame):
    rung.append(mine.incr("rung"))
    signal.setitimer(signal.ITIMER_REAL, 0.003)
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.003)
until(lambda: [mine.ping(), several.disconnect(), len(rung) > 100][-1])
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(mine.ping(), len(rung) > 100)
"""
    run(code, redis_server(port=free_port(), maxclients=9), "True True\n")


def test_a_line_that_its_own_writing_causes_does_not_go_on_for_ever(redis_server, isolated: Path) -> None:
    code = """
class Listener:
    def listen(self, event):
        raise ValueError("a user's own")
from redis.event import AfterConnectionReleasedEvent
pool._event_dispatcher.register_listeners({AfterConnectionReleasedEvent: [Listener()]})
class Handler(logging.Handler):
    def emit(self, record):
        write(record)
logging.getLogger("poolmgr").addHandler(Handler())
client.ping()
time.sleep(1)
print(1 <= len(written) <= 4, client.ping())
"""
    run(code, redis_server(port=free_port(), maxclients=9), "True True\n")


def test_the_last_lines_are_written_before_the_process_ends(redis_server, isolated: Path) -> None:
    code = """
pool.hooks = poolmgr.Hooks(created=lambda connection: 1 / 0)
class Handler(logging.Handler):
    def emit(self, record):
        time.sleep(0.05)
        print(record.getMessage(), record.threadName, record.funcName, flush=True)
logging.getLogger("poolmgr").addHandler(Handler())
client.ping()
"""
    run(code, redis_server(port=free_port(), maxclients=9), "pool.hook_failed MainThread _call\n")


def test_the_last_lines_are_written_before_the_users_log_is_ended(redis_server, isolated: Path) -> None:
    """By a function of ``atexit``'s, which runs before one that was registered earlier."""
    code = """
import atexit, logging.handlers, queue
pool.hooks = poolmgr.Hooks(created=lambda connection: 1 / 0)
class Handler(logging.handlers.QueueHandler):
    def prepare(self, record):
        time.sleep(0.05)
        return record
class Told(logging.StreamHandler):
    def emit(self, record):
        print(record.getMessage(), flush=True)
lines = queue.Queue()
listener = logging.handlers.QueueListener(lines, Told())
listener.start()
atexit.register(listener.stop)
logging.getLogger("poolmgr").addHandler(Handler(lines))
client.ping()
"""
    run(code, redis_server(port=free_port(), maxclients=9), "pool.hook_failed\n")


CHILDREN = {
    "process": """
child = multiprocessing.get_context("fork").Process(target=client.ping)
child.start()
child.join()
""",
    "executor": """
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
    executor.submit(os.getpid).result()
    executor.submit(use).result()
""",
    "forked by hand": """
faulthandler.cancel_dump_traceback_later()  # a child waits at its end for that one's thread, which it has not
child = os.fork()
if not child:
    client.ping()
    sys.exit()
os.waitpid(child, 0)
""",
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_the_last_lines_of_a_child_are_written_before_it_ends(kind: str, redis_server, isolated: Path) -> None:
    """Those of multiprocessing call no function of ``atexit``'s."""
    code = f"""
import multiprocessing
parent = os.getpid()
pool.hooks = poolmgr.Hooks(created=lambda connection: 1 / 0)
class Handler(logging.Handler):
    def emit(self, record):
        time.sleep(0.05)
        print(record.getMessage(), record.process == os.getpid() != parent, flush=True)
logging.getLogger("poolmgr").addHandler(Handler())
def use():
    client.ping()
{CHILDREN[kind]}
"""
    run(code, redis_server(port=free_port(), maxclients=9), "pool.hook_failed True\n")


def test_a_log_filter_that_hangs_delays_the_end_of_a_process_by_its_bound_once(redis_server, isolated: Path) -> None:
    code = """
from poolmgr.logs import journal
pool.hooks = poolmgr.Hooks(created=lambda connection: 1 / 0)
handler = logging.StreamHandler()
handler.addFilter(lambda record: threading.Event().wait(100))  # no emit(): logging's own shutdown would wait for that
logging.getLogger("poolmgr").addHandler(handler)
client.ping()
finish = journal.Journal.finish
def timed(self, timeout):
    print(timeout, flush=True)
    finish(self, timeout)
journal.Journal.finish = timed
"""
    run(code, redis_server(port=free_port(), maxclients=9), "0.3\n0.0\n")
