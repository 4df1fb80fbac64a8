"""What one client was given cannot be used: only that client's calls fail, and the file is named.

``localhost`` leads to ::1 first and to 127.0.0.1 then, as Debian's ``/etc/hosts`` has it, and the server listens by
IPv4 only.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from tests import bridge
from tests.certificates import able_to_speak_tls, certify, over_tls
from tests.helpers import RedisServer, Servers, free_port, wait_for
from tests.names import Names
from tests.pools import Processes, client_of, pool_with
from tests.program import Program
from tests.supervisor_process import Start, SupervisorProcess

CLIENT = """
import json, os, pathlib, sys
import redis
import poolmgr
from redis.connection import SSLConnection, UnixDomainSocketConnection
from tests.names import install
install()
arguments = eval(sys.argv[1])
secured = "port" in arguments
pool = poolmgr.ConnectionPool(
    connection_class=SSLConnection if secured else UnixDomainSocketConnection, socket_timeout=3, **arguments
)
for line in sys.stdin:
    try:
        pool.disconnect()
        answer = redis.Redis(connection_pool=pool).ping()
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
"""


class Client(Program):
    """A process with a pool, which connects anew when asked to."""

    def ping(self) -> Any:
        """True, or the error's words."""
        return json.loads(self.ask())


@pytest.fixture
def client(short_dir: Path) -> Iterator[Callable[[str, Path], Client]]:
    names = Names(short_dir / "names")
    names.lead(localhost=("::1", "127.0.0.1"))
    with contextlib.ExitStack() as stack:
        yield lambda arguments, cwd: stack.enter_context(Client("-c", CLIENT, arguments, cwd=cwd, **names.environ))


@pytest.fixture
def running(supervisor: Start) -> SupervisorProcess:
    return supervisor(12, POOLMGR_LINGER="20", HASTY="upstreams.schedule.LOOK_EVERY=0.3")


@pytest.fixture
def secured(short_dir: Path, redis_server: Servers) -> Iterator[tuple[RedisServer, int, Path]]:
    """A server over TLS, its port there, and the directory in which ``ca.pem`` is right and ``other.pem`` is not."""
    able_to_speak_tls()
    ca, port = certify(short_dir, "ca"), free_port()
    certify(short_dir, "other")
    server = redis_server(maxclients=20, **over_tls(ca, port))
    yield server, port, short_dir
    assert server.rejected() == 0


WRONG = {
    "missing": '"nowhere.pem"',
    "another authority": '"other.pem"',
    "no certificate": '"ca.key"',
    "a directory": '"."',
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("first", ["right first", "wrong first"])
def test_a_wrong_file_is_its_clients_and_is_named(
    secured: tuple[RedisServer, int, Path],
    running: SupervisorProcess,
    client: Callable[[str, Path], Client],
    wrong: str,
    first: str,
) -> None:
    server, port, directory = secured
    right = f'dict(host="localhost", port={port}, ssl_ca_certs="{directory}/ca.pem")'
    bad = f'dict(host="localhost", port={port}, ssl_ca_certs={WRONG[wrong]})'
    if first == "right first":
        healthy = client(right, directory)
        assert healthy.ping() is True
    broken = client(bad, directory)
    words = broken.ping()
    assert "ssl_ca_certs" in words
    assert WRONG[wrong].strip('"') in words
    if first == "wrong first":
        healthy = client(right, directory)
        assert healthy.ping() is True
    for _ in range(5):
        running.cut_off(server)
        assert healthy.ping() is True
        words = broken.ping()
        assert "ssl_ca_certs" in words, words
        assert WRONG[wrong].strip('"') in words
        assert "ServerDown" not in words
    wait_for(lambda: not running.server()["health"]["unseen"], 10)
    assert len(running.server()["members"]) == 2
    broken.stop()
    for _ in range(3):
        running.cut_off(server)
        assert healthy.ping() is True
    if first == "right first":
        assert not running.events("outage.began")


@pytest.mark.parametrize(
    "given", ['"ca.pem"', '"./ca.pem"', 'pathlib.Path("ca.pem")', 'pathlib.Path("ca.pem").absolute()']
)
def test_a_relative_file_and_a_path_are_the_clients_own(
    secured: tuple[RedisServer, int, Path],
    running: SupervisorProcess,
    client: Callable[[str, Path], Client],
    given: str,
) -> None:
    _, port, directory = secured
    assert client(f'dict(host="localhost", port={port}, ssl_ca_certs={given})', directory).ping() is True
    assert not running.server()["health"]["unseen"]


@pytest.mark.parametrize("given", ['"{name}"', '"./{name}"', '"../{directory}/{name}"'])
def test_a_relative_unix_path_is_the_clients_own(
    redis_server: Servers, running: SupervisorProcess, client: Callable[[str, Path], Client], given: str
) -> None:
    server = redis_server(maxclients=13)
    path = Path(server.path)
    relative = given.format(name=path.name, directory=path.parent.name)
    first = client(f"dict(path={relative})", path.parent)
    assert first.ping() is True
    assert client(f'dict(path="{path}")', Path("/")).ping() is True
    wait_for(lambda: len(running.server()["members"]) == 2, what="both are one server's")
    assert first.ping() is True
    assert not running.server()["health"]["unseen"]
    assert server.rejected() == 0


def test_what_only_the_client_can_use_leaves_it_alone_with_its_error(
    secured: tuple[RedisServer, int, Path], running: SupervisorProcess, client: Callable[[str, Path], Client]
) -> None:
    """The others have gone: what is left names its file, and whoever comes next works."""
    server, port, directory = secured
    right = f'dict(host="localhost", port={port}, ssl_ca_certs="{directory}/ca.pem")'
    healthy = client(right, directory)
    assert healthy.ping() is True
    broken = client(f'dict(host="localhost", port={port}, ssl_ca_certs="nowhere.pem")', directory)
    assert "nowhere.pem" in broken.ping()
    healthy.stop()
    wait_for(lambda: len(running.server()["members"]) == 1 and not running.server()["quarantine"], 20)
    running.cut_off(server)
    wait_for(lambda: running.server()["health"]["unseen"], 20, what="it has no way in")
    words = broken.ping()
    assert "nowhere.pem" in words
    assert client(right, directory).ping() is True
    wait_for(lambda: not running.server()["health"]["unseen"], 10, what="it has a way again")


def test_each_of_several_wrong_files_is_named(
    secured: tuple[RedisServer, int, Path], running: SupervisorProcess, client: Callable[[str, Path], Client]
) -> None:
    """The server is down for all of them already when the second one comes."""
    _, port, directory = secured
    for file in WRONG.values():
        words = client(f'dict(host="127.0.0.1", port={port}, ssl_ca_certs={file})', directory).ping()
        assert f"ssl_ca_certs '{directory}" in words and file.strip('".') in words, words


@pytest.mark.parametrize("wrong", ["plain", "other.pem", "nowhere.pem"])
@pytest.mark.usefixtures("running", "flavour")
def test_a_wrong_pools_outage_is_not_that_of_a_right_one_of_the_same_process(
    secured: tuple[RedisServer, int, Path], process: Processes, wrong: str
) -> None:
    """The wrong one was first, so no process knows better than that the server is down."""
    _, port, directory = secured
    member = process().member
    secure = redis.SSLConnection if bridge.present is None else redis.asyncio.SSLConnection
    options: dict[str, Any] = {"host": "127.0.0.1", "port": port, "member": member}
    right = {**options, "connection_class": secure, "ssl_ca_certs": f"{directory}/ca.pem"}
    bad = pool_with(**(options if wrong == "plain" else {**right, "ssl_ca_certs": f"{directory}/{wrong}"}))
    for _ in range(3):
        with pytest.raises(redis.ConnectionError):
            client_of(bad).ping()
    good = pool_with(**right)
    assert client_of(good).ping()
    for pool in (bad, good):
        pool.disconnect()


def is_known_to_be_down(pool: Any) -> bool:
    return pool._origin.down() is not None


@pytest.mark.usefixtures("running", "flavour")
def test_a_server_that_is_down_is_down_for_a_new_pool_with_other_settings_too(
    short_dir: Path, process: Processes
) -> None:
    """A further case: its way was not tried yet, and then is."""
    member, port = process().member, free_port()
    for options in ({}, {"password": "another"}):
        pool = pool_with(host="127.0.0.1", port=port, member=member, **options)
        with pytest.raises(redis.ConnectionError, match="refused|has been down"):
            client_of(pool).ping()
        wait_for(functools.partial(is_known_to_be_down, pool), 10, what="it is known to be down")
