"""Fixtures that several files share: servers and proxies for tests of the pool, supervisors and
their members, whole services.

A file that needs another server defines a fixture of the same name; the others then work on that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolmgr import wire
from tests.bridge import flavoured
from tests.fake_member import endpoint_of
from tests.helpers import RedisServer, Servers, have_lines_written
from tests.member_process import MemberProcess, Members
from tests.pools import Process, Processes, running_secured_server, running_sentinel, running_server
from tests.proxy import Proxy, proxy_to
from tests.service import LOAD_APP, Serve, Service
from tests.supervisor_process import Pair, Start, SupervisorProcess

# ---- the pool ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One for all tests of a file."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def sentinel(server: RedisServer) -> Iterator[int]:
    """The port of a Sentinel that watches it."""
    with running_sentinel(server) as port:
        yield port


@pytest.fixture(scope="module")
def secured() -> Iterator[tuple[int, str]]:
    """Port and certificate of a server that speaks TLS, one for all tests of a file."""
    with running_secured_server() as found:
        yield found


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with proxy_to(server.port) as proxy:
        yield proxy


@pytest.fixture(params=["threads", "tasks"])
def flavour(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which pools :mod:`tests.pools` makes."""
    with flavoured(request.param):
        yield request.param


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the pool has logged since the last time: event, and error if there is one."""

    def read() -> list[str]:
        have_lines_written()
        found = [
            f"{record.getMessage()}: {getattr(record, 'error', '')}".rstrip(": ")
            for record in caplog.records
            if record.name.startswith("poolmgr")
        ]
        caplog.clear()
        return found

    return read


# ---- the supervisor ------------------------------------------------------------------------------------


@pytest.fixture
def supervisor(short_dir: Path) -> Iterator[Start]:
    """Starts supervisors, one after the other, on one socket: ``supervisor(12, POOLMGR_LINGER="60")``."""
    made: list[SupervisorProcess] = []

    def start(budget: object = 12, **environ: str) -> SupervisorProcess:
        found = SupervisorProcess(str(short_dir / "s"), REDIS_CONNECTION_BUDGET=str(budget), **environ)
        made.append(found)
        return found.start()

    yield start
    for process in made:
        process.stop()


@pytest.fixture
def pair(supervisor: Start, redis_server: Servers) -> Pair:
    """Starts a server and a supervisor of it: ``running, server = pair(20, port=free_port(), POOLMGR_LINGER="60")``.

    The server takes no connection more than the budget and one observer, unless ``maxclients`` says so. Names in small
    letters are the server's configuration, names in capitals the supervisor's environment.
    """

    def start(budget: Any = 12, **options: Any) -> tuple[SupervisorProcess, RedisServer]:
        environ = {name: options.pop(name) for name in list(options) if name.isupper()}
        if "maxclients" not in options:
            options["maxclients"] = int(budget) + 1
        server = redis_server(**options)
        return supervisor(budget, **environ), server

    return start


@pytest.fixture
def members(short_dir: Path) -> Iterator[Members]:
    """Starts members of that supervisor, each a process of its own: ``members(server, 6)`` wants six connections."""
    made: list[MemberProcess] = []

    def start(at: RedisServer | wire.Endpoint, demand: int, *options: str) -> MemberProcess:
        endpoint = endpoint_of(at.path) if isinstance(at, RedisServer) else at
        found = MemberProcess(str(short_dir / "s"), endpoint, demand, *options)
        made.append(found)
        return found

    yield start
    for member in made:
        member.stop()


@pytest.fixture
def process() -> Iterator[Processes]:
    """Makes members in this process, each with pools of its own: to the supervisor they are processes."""
    made: list[Process] = []

    def start() -> Process:
        made.append(Process())
        return made[-1]

    yield start
    for one in made:
        one.end()


# ---- a service -----------------------------------------------------------------------------------------


@pytest.fixture
def make(isolated: Path) -> Iterator[Callable[..., Service]]:
    """Makes services that are ended with the test, however it ends."""
    made: list[Service] = []

    def build(**options: Any) -> Service:
        service = Service(isolated.parent, **options)
        made.append(service)
        return service

    yield build
    for service in made:
        service.clean_up()


@pytest.fixture
def serve(make: Callable[..., Service]) -> Serve:
    """Starts services to be put under load: ``serve(server, budget=2, workers=6)``. They share one supervisor."""

    def start(server: RedisServer, *, budget: int = 12, **options: Any) -> Service:
        environ = {"REDIS_CONNECTION_BUDGET": str(budget), **options.pop("environ", {})}
        options = {"workers": 3, "threads": 8, **options}
        return make(app=LOAD_APP, redis_url=server.url, environ=environ, **options).start(path="/pid")

    return start
