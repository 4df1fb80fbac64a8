"""What an error says helps: it names the setting to change, and none whose change does not help."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

import poolmgr
import poolmgr.asyncio
from poolmgr.exceptions import ConnectionPoolTimeoutError
from tests.helpers import Servers, free_port
from tests.permits import FakeMember
from tests.pools import Processes, direct_pool, pool_with, running_server
from tests.supervisor_process import Start


@pytest.mark.usefixtures("flavour")
def test_a_budget_of_more_than_the_server_allows(supervisor: Start, redis_server: Servers, process: Processes) -> None:
    """A further case: nothing was refused, since the budget is the server's ``maxclients``."""
    supervisor(30)
    server = redis_server(port=free_port(), maxclients=6)
    pool = pool_with(host="127.0.0.1", port=server.port, member=process().member, timeout=0.5)
    held: list[Any] = []
    with pytest.raises(ConnectionPoolTimeoutError) as caught:
        while True:
            held.append(pool.get_connection())
    assert "Raise the budget" not in str(caught.value)
    assert "maxclients" in str(caught.value)
    for connection in held:
        pool.release(connection)
    pool.disconnect()


def test_where_the_budget_is_what_is_missing_it_is_said(
    supervisor: Start, redis_server: Servers, process: Processes
) -> None:
    supervisor(4)
    server = redis_server(port=free_port(), maxclients=20)
    pool = process().pool(server.port, timeout=0.5)
    held: list[Any] = []
    with pytest.raises(ConnectionPoolTimeoutError, match="Raise the budget with: poolmgr budget"):
        while True:
            held.append(pool.get_connection())
    for connection in held:
        pool.release(connection)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "set its password"),
        ({"password": "wrong"}, "check its username and password"),
        ({"username": "nobody", "password": "wrong"}, "check its username and password"),
        ({"credential_provider": redis.UsernamePasswordCredentialProvider("nobody", "wrong")}, "credential_provider"),
    ],
    ids=["none", "wrong", "user", "provider"],
)
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.usefixtures("flavour")
def test_a_login_that_is_refused_names_the_setting(given: dict[str, Any], said: str, protocol: int) -> None:
    with running_server(requirepass="secret") as server:
        pool = direct_pool(server, protocol=protocol, **given)
        with pytest.raises(redis.AuthenticationError) as caught:
            pool.get_connection()
        assert said in str(caught.value)
        assert "wrong" not in str(caught.value) and "nobody" not in str(caught.value)
        server.password = "secret"


@pytest.mark.usefixtures("flavour")
def test_another_error_of_a_connect_keeps_its_words() -> None:
    pool = pool_with(host="127.0.0.1", port=free_port(), member=FakeMember())
    with pytest.raises(redis.ConnectionError) as caught:
        pool.get_connection()
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("module", [poolmgr, poolmgr.asyncio])
def test_a_pools_repr_shows_what_its_user_gave(module: Any) -> None:
    plain = repr(module.ConnectionPool(host="here")).partition(" [")[0]
    assert repr(module.ConnectionPool(host="here", max_reply=1000)).partition(" [")[0] == plain
    own = type("Own", (redis._parsers._HiredisParser if module is poolmgr else redis._parsers._AsyncHiredisParser,), {})
    text = repr(module.ConnectionPool(host="here", max_reply=1000, parser_class=own))
    assert "Own" in text
    assert "Metered" not in text


def test_a_pool_for_threads_in_a_loop_whose_tasks_hold_all(
    supervisor: Start, redis_server: Servers, process: Processes
) -> None:
    supervisor(4)
    server = redis_server(port=free_port(), maxclients=20)
    member = process().member
    options: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "member": member, "timeout": 0.5}

    async def main() -> tuple[str, str]:
        tasks = poolmgr.asyncio.ConnectionPool(**options)
        held = []
        with pytest.raises(ConnectionPoolTimeoutError) as own:
            while True:
                held.append(await tasks.get_connection())
        threads = poolmgr.ConnectionPool(**options)
        with pytest.raises(ConnectionPoolTimeoutError) as caught:
            threads.get_connection()
        for connection in held:
            await tasks.release(connection)
        await tasks.aclose()
        return str(own.value), str(caught.value)

    own, said = asyncio.run(main())
    assert "event loop" not in own
    assert "event loop" in said
    assert "3 connections" in said
    assert "Raise the budget" not in said
    assert "poolmgr.asyncio.ConnectionPool" in said


def test_a_pool_for_threads_in_a_loop_whose_tasks_hold_none_says_as_ever(
    supervisor: Start, redis_server: Servers, process: Processes
) -> None:
    supervisor(4)
    server = redis_server(port=free_port(), maxclients=20)
    pool = process().pool(server.port, timeout=0.5)

    async def main() -> None:
        held: list[Any] = []
        with pytest.raises(ConnectionPoolTimeoutError, match="Raise the budget") as caught:
            while True:
                held.append(pool.get_connection())
        assert "event loop" not in str(caught.value)
        for connection in held:
            pool.release(connection)

    asyncio.run(main())
