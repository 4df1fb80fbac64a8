"""Fixtures for all tests: an environment of the test's own, and servers on demand."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from poolmgr.kernel.lockfile import holder
from poolmgr.settings.table import BY_NAME
from tests import timing
from tests.helpers import RedisServer, alive, debian_redis_binary, kill, wait_for
from tests.program import Program, Programs

# How long an example takes says something of the machine, not of the code.
hypothesis.settings.register_profile("poolmgr", deadline=None)
hypothesis.settings.load_profile("poolmgr")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts what is to run in the background so, and a test's programs would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["SSL_CERT_FILE"] = ""
"""A context of TLS reads this machine's file of authorities: 17 ms of processor for each connection, and no server of
the tests is certified by one of these. pip and npm have variables of their own. Who needs an authority all the same
finds it in the directory of authorities."""

LONGEST = (
    "systemd/test_services", "containers/test_service", "integration/test_http_slow", "integration/test_http_health",
    "integration/test_aio_servers",
    "integration/test_sentinel", "integration/test_sentinel_failover", "integration/test_gunicorn",
    "integration/test_aio_oracle",
    "integration/test_aio_processes", "integration/test_aio_cancellation",
    "integration/test_gunicorn_settings", "integration/test_reach_files", "simulation/test_simulation",
    "integration/test_upgrade", "integration/test_http_memory", "integration/test_snapshot_faults",
    "integration/test_runtime_threads", "integration/test_http_token", "integration/test_restarts",
    "simulation/test_fleet_exhaustive",
    "integration/test_http_refusals", "integration/test_upstash", "simulation/test_places",
    "simulation/test_conserving", "integration/test_runtime_clocks", "integration/test_runtime_logging",
    "integration/test_secrets", "integration/test_supervisor_trust", "integration/test_supervisor_outages",
    "integration/test_pool_nameless", "integration/test_goodbye", "integration/test_http_properties",
    "integration/test_names", "integration/test_reach_logins", "integration/test_limits",
    "integration/test_supervisor_restart", "integration/test_silence", "integration/test_pool_interrupts",
    "integration/test_identity", "integration/test_reach", "integration/test_launch_path",
    "integration/test_gunicorn_addresses", "integration/test_gunicorn_interrupts",
    "simulation/test_sharing", "unit/test_imports", "unit/test_member_process", "unit/test_redaction",
)  # fmt: skip
"""Files that take most (``python -m tests.slices``). Where files run beside each other these begin first: a worker
that begins one of them last keeps all others waiting."""


pytest_ignore_collect = timing.pytest_ignore_collect


@pytest.hookimpl(tryfirst=True)  # before any is left out for its mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    timing.seen(items)
    places = {name: place for place, name in enumerate(LONGEST)}
    here = Path(__file__).parent
    items.sort(key=lambda item: places.get(str(item.path.relative_to(here).with_suffix("")), len(places)))


gc.disable()  # until all is loaded: what is loaded stays, and looking for garbage in it again and again takes a fifth


def pytest_collection_finish() -> None:
    """A collection of garbage, of which many tests make one or two each, looks at what the tests have made. What all
    test modules together have loaded takes it a tenth of a second, and is none."""
    gc.collect()
    gc.freeze()
    gc.enable()


FOREIGN = (
    "PORT", "WEB_CONCURRENCY", "GUNICORN_CMD_ARGS", "FORWARDED_ALLOW_IPS",
    "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
)  # fmt: skip
"""What gunicorn and systemd's protocols read."""


@pytest.fixture(scope="module", autouse=True)
def _garbage_is_of_this_file() -> None:
    """Some tests collect garbage thousands of times. What pytest keeps of the files before is none, and grows: after
    forty files a look at it takes ten milliseconds each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """A thread that outlives its test sits in a call on a number that is another file's soon. A later test then waits
    for the end of a pipe that this thread holds open, and nothing there says why."""
    before = set(threading.enumerate())

    def left() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]

    yield
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not left(), 10)
    assert not left(), "the tests of this file have started threads that go on"


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A private directory with a path short enough for Unix sockets; pytest's own is too long."""
    path = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def isolated(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No variable of the caller reaches a test, and its supervisor is its own. The supervisor's socket path.

    A supervisor that a test left behind is ended.
    """
    for name in [*BY_NAME, *FOREIGN]:
        monkeypatch.delenv(name, raising=False)
    path = short_dir / "s"
    monkeypatch.setenv("POOLMGR_SOCKET", str(path))
    yield path
    pid = holder(f"{path}.lock")
    if pid > 1 and pid != os.getpid():
        kill(pid)
        wait_for(lambda: not alive(pid))


@pytest.fixture
def redis_server(short_dir: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers: ``redis_server(maxclients=14, port=free_port())``; see RedisServer for more."""
    started: list[RedisServer] = []

    def start(**options: str | int) -> RedisServer:
        server = RedisServer(short_dir, **options)  # type: ignore[arg-type]
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def program() -> Iterator[Programs]:
    """Starts programs: ``program("-c", CODE, URL=server.url)``; see Program for more."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(Program(*arguments, **options))


@pytest.fixture
def debian_redis(redis_server: Callable[..., RedisServer]) -> Callable[..., RedisServer]:
    """As ``redis_server``, with Debian's Redis instead of Valkey."""
    binary = debian_redis_binary()
    if binary is None:
        pytest.skip("redis-server is not installed (apt install redis-server)")

    def start(**options: str | int) -> RedisServer:
        return redis_server(binary=binary, **options)

    return start
