"""The pool's option ``max_reply``: no reply takes more memory than that, however long it would be. In every flavour."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
import redis
import redis.asyncio
from redis._parsers import _AsyncHiredisParser
from redis.connection import DefaultParser

import poolmgr
import poolmgr.asyncio
from poolmgr import ConnectionPool
from poolmgr.pool.aio.parser import Parser
from poolmgr.pool.metering import ELEMENT
from tests.flavours import FLAVOURS, client_on
from tests.helpers import RedisServer
from tests.permits import FakeMember
from tests.walker import LOOPS

MOST = 1 << 20


class Mine(redis.Connection):
    """Its replies are read by redis-py's own parser, with a bound."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        return super().read_response(*args, **kwargs)


class MineOfTasks(redis.asyncio.Connection):
    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        return await super().read_response(*args, **kwargs)


@pytest.fixture(params=["resp2", "resp3", "a class of the user's"])
def options(request) -> dict[str, Any]:
    return {"protocol": 2 if request.param == "resp2" else 3, "mine": request.param.startswith("a class")}


@pytest.fixture(params=FLAVOURS)
def client(request, server: RedisServer, options: dict[str, Any]):
    if options.pop("mine"):
        options["connection_class"] = Mine if request.param == "threads" else MineOfTasks
    with client_on(request.param, server.url, max_reply=MOST, member=FakeMember(), **options) as found:
        yield found


def test_a_longer_reply_is_an_error_and_its_connection_is_closed(client):
    client.set("small", "x" * (MOST - 100))
    client.set("large", "x" * (MOST + 1))
    for _ in range(3):  # each reply has the whole of it
        assert len(client.get("small")) == MOST - 100
    assert client.connection_pool.stats().created == 1
    with pytest.raises(poolmgr.ReplyTooLargeError, match=f"{MOST} bytes.*max_reply"):
        client.get("large")
    assert client.ping()
    assert client.connection_pool.stats().created == 2


def test_no_command_is_repeated_for_it(client):
    """A retry reads as much once more, and may do twice what was to be done once."""
    client.delete("n")
    kind = redis.retry.Retry if isinstance(client, redis.Redis) else redis.asyncio.retry.Retry
    client.connection_pool.set_retry(kind(redis.backoff.NoBackoff(), 3))
    with pytest.raises(poolmgr.ReplyTooLargeError):
        client.eval(f"redis.call('INCR', 'n') return string.rep('x', {MOST + 1})", 0)
    assert client.get("n") == b"1"


def test_the_replies_of_a_pipeline_count_together(client):
    client.set("half", "x" * (MOST // 2 + 1))
    pipe = client.pipeline(transaction=False)
    for _ in range(2):
        pipe.get("half")
    with pytest.raises(poolmgr.ReplyTooLargeError):
        pipe.execute()
    for _ in range(5):
        client.get("half")


@pytest.mark.parametrize("made", ["item = {}", "item = 7", "item = 'ab'", "item = true"])
def test_what_is_short_on_the_wire_is_counted_as_it_is_kept(client, made):
    """An empty list is four bytes on the wire and eighty in Python."""
    count = MOST // ELEMENT
    script = f"local {made} local t = {{}} for n = 1, ARGV[1] do t[n] = item end return t"
    with pytest.raises(poolmgr.ReplyTooLargeError):
        client.eval(script, 0, count)
    assert len(client.eval(script, 0, count // 4)) == count // 4


def test_pushes_count_one_by_one(client, server):
    """A subscriber reads for ever."""
    with client.pubsub() as listener, server.observer() as other:
        listener.subscribe("c")
        listener.get_message(timeout=5)
        for _ in range(4):
            other.publish("c", "x" * (MOST // 2))
            message = listener.get_message(timeout=5)
            assert message is not None and len(message["data"]) == MOST // 2


def test_messages_that_have_come_together_count_one_by_one(client, server):
    """A slow subscriber finds many at once."""
    with client.pubsub() as listener, server.observer() as other:
        listener.subscribe("c")
        listener.get_message(timeout=5)
        with other.pipeline(transaction=False) as pipe:
            for number in range(40):
                pipe.publish("c", f"{number}".ljust(MOST // 10, "."))
            pipe.execute()
        for number in range(40):
            message = listener.get_message(timeout=5)
            assert message is not None and message["data"].rstrip(b".") == b"%d" % number
        other.publish("c", "x" * (MOST + 1))
        with pytest.raises(poolmgr.ReplyTooLargeError):
            listener.get_message(timeout=5)


def test_what_a_monitor_shows_counts_one_by_one(client, server):
    with client.monitor() as monitor, server.observer() as other:
        for _ in range(4):
            other.echo("x" * (MOST // 2))
            while not monitor.next_command()["command"].startswith("ECHO"):
                pass


def test_invalidations_do_not_count_with_the_reply_that_is_waited_for(client, server):
    if client.connection_pool.connection_kwargs["protocol"] != 3:
        pytest.skip("there are none")
    connection = client.connection_pool.get_connection()
    name = "x" * 1000
    connection.send_command("CLIENT", "TRACKING", "ON", "BCAST")
    connection.read_response()
    connection.send_command("BLPOP", "list", 0)
    with server.observer() as other:
        for _ in range(MOST // 1000 // 100 + 2):
            with other.pipeline(transaction=False) as pipe:
                for number in range(100):
                    pipe.set(f"{name}{number}", 1)
                pipe.execute()
        other.rpush("list", "v")
    assert connection.read_response() == [b"list", b"v"]
    client.connection_pool.release(connection)


def test_without_it_nothing_is_between_the_connection_and_redis_pys_parser(server):
    pool = ConnectionPool.from_url(server.unix_url, member=FakeMember())
    with pool.connection() as connection:
        assert type(connection._parser) is DefaultParser
    pool.close()


@pytest.mark.parametrize("flavour", LOOPS)
def test_without_it_tasks_read_straight_from_hiredis(server, flavour):
    with client_on(flavour, server.url, member=FakeMember()) as client:
        connection = client.connection_pool.get_connection()
        assert type(connection._parser) is Parser and type(connection._parser._reader) is hiredis.Reader
        client.connection_pool.release(connection)


@pytest.mark.parametrize("pool", [ConnectionPool, poolmgr.asyncio.ConnectionPool])
def test_where_it_may_stand(pool):
    assert pool.from_url("redis://h?max_reply=1000", member=FakeMember()).max_reply == 1000
    assert pool.from_url("redis://h", member=FakeMember()).max_reply == 0
    wrong: Any
    for wrong in (-1, 1.5, "x"):
        with pytest.raises(ValueError, match="max_reply"):
            pool(max_reply=wrong, member=FakeMember())
    for wrong in (redis._parsers._RESP2Parser, redis._parsers._AsyncRESP3Parser):
        with pytest.raises(ValueError, match="parser_class"):
            pool(max_reply=1000, parser_class=wrong, member=FakeMember())
    theirs = DefaultParser if pool is ConnectionPool else _AsyncHiredisParser
    assert pool(max_reply=1000, parser_class=type("Theirs", (theirs,), {}), member=FakeMember()).max_reply == 1000
