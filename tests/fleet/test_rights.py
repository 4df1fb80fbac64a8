"""Each right that a fleet needs: what the supervisor says where its user lacks it has the line that allows it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from poolmgr.fleet import rights, script
from poolmgr.supervisor.fleet.table import Table, TableError
from poolmgr.supervisor.upstreams.admin import Admin
from poolmgr.wire import Endpoint
from tests.fleet.asking import renewal
from tests.fleet.hosts import FLEET
from tests.helpers import RedisServer, debian_redis_binary
from tests.pools import running_server

RIGHTS = [*rights.COMMANDS.split(), "%RW~poolmgr:*"]
NOT_ALL = {"+client|list", "+client|kill", "+client|id"}
"""What not all hosts need: one that may list and kill does that for all."""


@pytest.fixture(scope="module", params=["", "debian"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Servers word it differently."""
    binary = debian_redis_binary() if request.param else ""
    if binary is None:
        pytest.skip("Debian's redis-server is not installed")
    with running_server(binary=binary) as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with server.observer() as found:
        found.flushall()
        yield found


@contextlib.contextmanager
def admin(server: RedisServer) -> Iterator[Admin]:
    """The supervisor's connection, as that user."""
    found = Admin(Endpoint("tcp://s", "127.0.0.1", port=server.port, username="app", password="secret"), "n", 5, 5)
    try:
        found.open()
        yield found
    finally:
        found.close()


def all_questions(server: RedisServer) -> None:
    """What a host asks in its life."""
    table, (first, second) = Table(FLEET), (script.new_name(FLEET), script.new_name(FLEET))
    with admin(server) as asking:
        run = table.about(asking)["run_id"]
        joined = table.renew(asking, renewal(first, 1, lease=1))
        table.ask(asking, *script.census(run, joined.table, [first]))
        table.renew(asking, renewal(second, 1))
        assert script.surveyed(table.ask(asking, *script.survey(run))) is not None
        table.leave(asking, joined.table, second)


def test_the_documents_show_the_line():
    text = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text()
    assert rights.line("app") in text.splitlines()


@pytest.mark.parametrize("right", RIGHTS)
def test_a_right_that_is_missing_is_named_with_the_line_that_allows_it(
    server: RedisServer, client: redis.Redis, right: str
):
    user = ["ACL", "SETUSER", "app", "reset", "on", ">secret", *(known for known in RIGHTS if known != right)]
    client.execute_command(*user)
    if right in NOT_ALL:
        all_questions(server)
        return
    if right == "+eval":
        client.script_flush()
    with pytest.raises(TableError) as caught:
        all_questions(server)
    assert rights.line("app") in str(caught.value)
    assert not caught.value.passing
    client.execute_command(*user, right)
    client.flushall()
    all_questions(server)


def test_a_key_that_is_no_table_is_named(server: RedisServer, client: redis.Redis):
    client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", *RIGHTS)
    client.set(script.key(FLEET), "something else")
    with pytest.raises(TableError, match="rename it, or remove it") as caught:
        all_questions(server)
    assert not caught.value.passing
    client.delete(script.key(FLEET))
    all_questions(server)
