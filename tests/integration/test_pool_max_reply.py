"""The pool's option ``max_reply``: no reply takes more memory than that, however long it would be."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.connection import DefaultParser

import poolmgr
from poolmgr import ConnectionPool
from poolmgr.pool.sync.metering import ELEMENT
from tests.helpers import RedisServer
from tests.permits import FakeMember

MOST = 1 << 20


@pytest.fixture(params=[2, 3])
def client(request, server: RedisServer):
    pool = ConnectionPool.from_url(server.unix_url, protocol=request.param, max_reply=MOST, member=FakeMember())
    yield redis.Redis(connection_pool=pool)
    pool.close()


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
    client.connection_pool.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 3))
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


def test_without_it_nothing_is_between_the_connection_and_redis_pys_parser(server):
    pool = ConnectionPool.from_url(server.unix_url, member=FakeMember())
    with pool.connection() as connection:
        assert type(connection._parser) is DefaultParser
    pool.close()


def test_where_it_may_stand():
    assert ConnectionPool.from_url("redis://h?max_reply=1000", member=FakeMember()).max_reply == 1000
    assert ConnectionPool.from_url("redis://h", member=FakeMember()).max_reply == 0
    wrong: Any
    for wrong in (-1, 1.5, "x"):
        with pytest.raises(ValueError, match="max_reply"):
            ConnectionPool(max_reply=wrong, member=FakeMember())
    with pytest.raises(ValueError, match="parser_class"):
        ConnectionPool(max_reply=1000, parser_class=redis._parsers._RESP2Parser, member=FakeMember())
