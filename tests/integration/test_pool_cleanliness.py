"""No caller ever reads another caller's reply: every way to lose one, on RESP2 and RESP3, direct and
through Sentinel (whose connections redis-py makes with ``disconnect_on_error=False``)."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import redis

from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import RedisServer
from tests.pools import KINDS, answers_are_its_own, client_of, direct_pool, nothing_is_missing, pool_of


class Interrupted(BaseException):
    """What a signal handler raises."""


@pytest.fixture(params=KINDS)
def pool(request: pytest.FixtureRequest, server: RedisServer) -> Iterator[ConnectionPool]:
    pool = pool_of(request.param, request, max_connections=2, timeout=5, socket_timeout=10)
    with server.observer() as observer:
        observer.flushall()
    yield pool
    pool.disconnect()


def closed_as(pool: ConnectionPool, reason: str) -> int:
    return pool.stats().closed.get(reason, 0)


def after(seconds: float, exception: type[BaseException]) -> Callable[[], None]:
    """Raise in the main thread after so many seconds; returns what ends it."""

    def handler(number: int, frame: object) -> None:
        raise exception

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)

    def end() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    return end


def test_an_exception_from_a_signal_handler_during_blpop(pool: ConnectionPool, server: RedisServer):
    client = client_of(pool)
    client.set("k", "mine")
    end = after(0.05, Interrupted)
    try:
        with pytest.raises(Interrupted):
            client.blpop(["list"], timeout=5)
    finally:
        end()
    with server.observer() as observer:
        observer.rpush("list", "not yours")
    assert client.get("k") == b"mine"
    answers_are_its_own(pool)
    nothing_is_missing(pool)


def test_an_asynchronous_exception_between_send_and_read(pool: ConnectionPool):
    client = client_of(pool)
    client.set("k", "mine")
    client.set("other", "not yours")
    ended: list[BaseException] = []

    def at_the_read(frame: FrameType, event: str, argument: Any) -> None:
        if frame.f_code.co_name == "read_response":
            sys.settrace(None)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(threading.get_ident()), ctypes.py_object(Interrupted)
            )

    def struck() -> None:
        sys.settrace(at_the_read)
        try:
            client.get("other")
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=struck)
    thread.start()
    thread.join()
    assert isinstance(ended[0], Interrupted)
    ended.clear()
    assert client.get("k") == b"mine"
    assert closed_as(pool, "dirty") + closed_as(pool, "broken") == 1
    answers_are_its_own(pool)
    nothing_is_missing(pool)


def test_a_pipeline_abandoned_half_read(pool: ConnectionPool):
    client = client_of(pool)
    client.set("k", "mine")
    for transaction in (True, False):
        pipeline = client.pipeline(transaction=transaction)
        for number in range(5):
            pipeline.set(f"p{number}", number)
        seen = 0
        parse = pipeline.parse_response

        def interrupted(*args: Any, parse: Any = parse, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == 3:
                raise Interrupted
            return parse(*args, **kwargs)

        pipeline.parse_response = interrupted  # type: ignore[method-assign]
        with pytest.raises(Interrupted):
            pipeline.execute()
        assert client.get("k") == b"mine"
        answers_are_its_own(pool)
    assert closed_as(pool, "dirty") == 2
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_release_in_the_middle_of_a_reply(pool: ConnectionPool):
    client = client_of(pool)
    client.set("k", b"x" * 300_000)
    connection = pool.get_connection()
    connection.send_command("GET", "k")
    pool.release(connection)
    answers_are_its_own(pool)
    connection = pool.get_connection()
    connection.send_packed_command(connection.pack_commands([("GET", "k"), ("PING",)]))
    connection.read_response()
    pool.release(connection)
    answers_are_its_own(pool)
    assert closed_as(pool, "dirty") == 2
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_command_that_somebody_packed_without_us(pool: ConnectionPool):
    connection = pool.get_connection()
    connection.send_packed_command(b"*1\r\n$4\r\nPING\r\n")
    assert connection.read_response() in (b"PONG", "PONG")
    pool.release(connection)
    assert closed_as(pool, "dirty") == 0
    connection = pool.get_connection()
    connection.send_packed_command(b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n")
    connection.read_response()
    pool.release(connection)
    assert closed_as(pool, "dirty") == 1
    connection = pool.get_connection()
    connection.send_packed_command(b"PING\r\n")  # inline: what it will bring cannot be told
    connection.read_response()
    pool.release(connection)
    assert closed_as(pool, "dirty") == 2
    connection = pool.get_connection()
    connection.send_packed_command(b"PING\r\n")
    pool.release(connection)
    assert closed_as(pool, "dirty") == 3
    answers_are_its_own(pool)


@pytest.mark.usefixtures("flavour")
def test_a_double_release_lends_nothing_twice(pool: ConnectionPool):
    connection = pool.get_connection()
    pool.release(connection)
    pool.release(connection)
    first, second = pool.get_connection(), pool.get_connection()
    assert first is not second
    pool.release(first)
    pool.release(second)
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_foreign_connection_is_refused(pool: ConnectionPool, server: RedisServer):
    theirs = redis.ConnectionPool(port=server.port)
    other = direct_pool(server)
    strangers = [theirs.get_connection(), other.get_connection(), object()]
    for stranger in strangers:
        pool.release(stranger)
    assert pool.stats().idle == 0
    other.release(strangers[1])
    assert other.stats().idle == 1
    theirs.disconnect()
    other.disconnect()


@pytest.mark.parametrize("mode", ["SKIP", "OFF"])
@pytest.mark.usefixtures("flavour")
def test_client_reply(pool: ConnectionPool, mode: str):
    connection = pool.get_connection()
    connection.send_command("CLIENT", "REPLY", mode)
    pool.release(connection)
    answers_are_its_own(pool)
    connection = pool.get_connection()
    connection.send_packed_command(connection.pack_command("client reply", mode.lower()))
    pool.release(connection)
    answers_are_its_own(pool)
    assert closed_as(pool, "dirty") == 2
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_pubsub_returned_with_pushes_pending(pool: ConnectionPool, server: RedisServer):
    client = client_of(pool)
    pubsub = client.pubsub()
    pubsub.subscribe("news")
    assert pubsub.get_message(timeout=5)
    with server.observer() as observer:
        observer.publish("news", "one")
        observer.publish("news", "two")
    connection = pubsub.connection
    pubsub.close()
    answers_are_its_own(pool)
    connection = pool.get_connection()  # and without redis-py's own disconnect
    connection.send_command("SUBSCRIBE", "news")
    connection.read_response(push_request=True)
    with server.observer() as observer:
        observer.publish("news", "three")
    pool.release(connection)
    answers_are_its_own(pool)
    assert closed_as(pool, "dirty") == 1
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_watch_left_open(pool: ConnectionPool):
    client = client_of(pool)
    connection = pool.get_connection()
    connection.send_command("WATCH", "k")
    connection.read_response()
    pool.release(connection)
    assert closed_as(pool, "dirty") == 1
    answers_are_its_own(pool)
    with client.pipeline() as pipeline:  # redis-py's own way leaves nothing open
        pipeline.watch("k")
        pipeline.multi()
        pipeline.set("k", 1)
        pipeline.execute()
    with client.pipeline() as pipeline:
        pipeline.watch("k")
    assert closed_as(pool, "dirty") == 1
    answers_are_its_own(pool)
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_multi_left_open(pool: ConnectionPool):
    client = client_of(pool)
    client.execute_command("MULTI")
    assert closed_as(pool, "dirty") == 1
    answers_are_its_own(pool)
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_another_database_or_user_left_behind(pool: ConnectionPool):
    client = client_of(pool)
    client.execute_command("SELECT", 0)
    assert closed_as(pool, "dirty") == 0
    client.execute_command("SELECT", 5)
    assert closed_as(pool, "dirty") == 1
    answers_are_its_own(pool)
    with pytest.raises(redis.RedisError):
        client.execute_command("AUTH", "nobody", "nothing")
    answers_are_its_own(pool)
    with pytest.raises(redis.RedisError):
        client.execute_command("SELECT", "many")
    answers_are_its_own(pool)


@pytest.mark.usefixtures("flavour")
def test_error_replies_are_replies(pool: ConnectionPool):
    client = client_of(pool)
    client.set("k", "text")
    client.get("k")
    closed = dict(pool.stats().closed)
    for _ in range(3):
        with pytest.raises(redis.ResponseError):
            client.lpush("k", 1)
    with client.pipeline(transaction=False) as pipeline:
        pipeline.lpush("k", 1)
        pipeline.get("k")
        assert isinstance(pipeline.execute(raise_on_error=False)[0], redis.ResponseError)
    assert pool.stats().closed == closed, "no connection was closed for an error that the server told"


def test_a_read_that_times_out(pool: ConnectionPool, server: RedisServer):
    pool.connection_kwargs["socket_timeout"] = 0.1
    client = client_of(pool)
    with pytest.raises(redis.TimeoutError):
        client.blpop(["list"], timeout=5)
    with server.observer() as observer:
        observer.rpush("list", "not yours")
    answers_are_its_own(pool)
    connection = pool.get_connection()  # and where nobody closes it at once
    connection.send_command("BLPOP", "nothing", 5)
    with pytest.raises(redis.TimeoutError):
        connection.read_response(timeout=0.01, disconnect_on_error=False)
    pool.release(connection)
    assert closed_as(pool, "dirty") == 1
    answers_are_its_own(pool)
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_monitor_ends_its_connection(pool: ConnectionPool):
    client = client_of(pool)
    with client.monitor() as monitor:
        client.ping()
        assert monitor.next_command()
    answers_are_its_own(pool)
    connection = pool.get_connection()
    connection.send_command("MONITOR")
    connection.read_response()
    pool.release(connection)
    answers_are_its_own(pool)
    nothing_is_missing(pool)


def test_data_that_nobody_asked_for_is_noticed_before_use(server: RedisServer):
    """Under RESP2 nothing may be there to read; under RESP3 only a push."""
    for protocol in (2, 3):
        pool = direct_pool(server, protocol=protocol)
        connection = pool.get_connection()
        connection._sock.sendall(b"*1\r\n$4\r\nPING\r\n")  # behind the accounting's back
        pool.release(connection)
        time.sleep(0.01)  # let it be idle for longer than the pool trusts it blindly
        answers_are_its_own(pool)
        assert closed_as(pool, "dirty") == 1
        pool.disconnect()


@pytest.mark.usefixtures("flavour")
def test_a_push_that_arrived_while_idle_is_no_reason_to_close(server: RedisServer):
    pool = direct_pool(server, protocol=3)
    client = client_of(pool)
    connection = pool.get_connection()
    connection.send_command("CLIENT", "TRACKING", "ON")
    connection.read_response()
    connection.send_command("GET", "tracked")
    connection.read_response()
    pool.release(connection)
    with server.observer() as observer:
        observer.set("tracked", 1)
    time.sleep(0.01)
    assert client.get("tracked") == b"1"
    assert pool.stats().closed == {}
    pool.disconnect()
