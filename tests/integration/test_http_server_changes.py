"""What is found out about a server holds for the connection that it was asked on, and for no other one."""

from __future__ import annotations

import pytest
import redis

from tests.pools import direct_pool
from worker.exchange import Exchange


@pytest.mark.parametrize("way", ["ask", "unbracketed"])
def test_a_request_goes_to_no_other_server_than_the_one_that_was_asked(redis_server, way) -> None:
    """The server closes between two exchanges: the next connection may lead to one that knows GET as SET."""
    from tests.helpers import free_port

    server = redis_server(port=free_port())
    pool = direct_pool(server)
    connection = pool.get_connection()
    exchange = Exchange(connection, 5.0)
    assert exchange.ask([[b"PING"]]) == [b"PONG"]
    connection.disconnect()
    with pytest.raises(redis.ConnectionError, match="in the middle of a request"):
        getattr(exchange, way)([[b"SET", b"k", b"v"]])
    assert connection._sock is None
    with server.observer() as observer:
        assert observer.get("k") is None
    pool.release(connection)
