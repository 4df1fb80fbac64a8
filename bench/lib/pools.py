"""The contestants, each as its own documentation advises to set it up.

A set-up that makes a peer slower than necessary would be a lie, so this text explains the choices:

- ``redis.ConnectionPool``: as ``redis.Redis()`` makes it. It never waits; it gets a ceiling only where the
  comparison needs one.
- ``redis.BlockingConnectionPool``: redis-py's pool for a fixed number of connections. With the ceiling that
  the comparison is about and a timeout long enough never to be hit.
- A *dedicated connection* is ``redis.Redis(single_connection_client=True)``, one for each thread: without a
  pool, so no redis-py client can be faster.
- A *raw socket* with hiredis' reader: what Python can do at most.
- ``psycopg_pool.ConnectionPool`` and SQLAlchemy's ``QueuePool``, the two pools that Python programmers know
  best, speak to databases that are not here. They get a connection that answers everything at
  once, which can only make them look better. ``QueuePool`` does not roll back on return
  (``reset_on_return=None``), as its documentation advises for connections without transactions.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import hiredis
import psycopg_pool
import redis
from psycopg.pq import TransactionStatus
from sqlalchemy.pool import QueuePool

import poolmgr

OURS = "poolmgr"
REDIS = "redis.ConnectionPool"
BLOCKING = "redis.BlockingConnectionPool"
DEDICATED = "a dedicated connection"
RAW = "a raw socket, hiredis"
PSYCOPG = "psycopg_pool (no database)"
ALCHEMY = "SQLAlchemy QueuePool (no database)"

Repeat = Callable[[int], None]


def ours(port: int, **arguments: Any) -> poolmgr.ConnectionPool:
    return poolmgr.ConnectionPool(host="127.0.0.1", port=port, **{"timeout": 60, **arguments})


def blocking(port: int, connections: int, **arguments: Any) -> redis.BlockingConnectionPool:
    return redis.BlockingConnectionPool(
        host="127.0.0.1", port=port, max_connections=connections, **{"timeout": 60, **arguments}
    )


class NoDatabase:
    """A connection for psycopg_pool: connects in ``connect_time`` seconds, and answers at once."""

    connect_time = 0.0
    made = 0

    class pgconn:  # noqa: N801 (psycopg's name)
        transaction_status = TransactionStatus.IDLE

    @classmethod
    def connect(cls, conninfo: str = "", **_: Any) -> NoDatabase:
        NoDatabase.made += 1
        time.sleep(cls.connect_time)
        return cls()

    def __init__(self) -> None:
        self.closed = False
        self._pool: Any = None
        self._expire_at = 0.0

    def close(self) -> None:
        self.closed = True

    def commit(self) -> None: ...

    def rollback(self) -> None: ...


def psycopg(least: int, most: int) -> Any:
    kind: Any = psycopg_pool.ConnectionPool
    pool = kind("", connection_class=NoDatabase, min_size=least, max_size=most, open=True, timeout=60)
    pool.wait(30)
    return pool


def alchemy(most: int) -> Any:
    creator: Any = NoDatabase
    return QueuePool(creator, pool_size=most, max_overflow=0, reset_on_return=None, timeout=60)


def raw_get(port: int, key: str) -> Repeat:
    """GETs on a bare socket."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = hiredis.Reader()
    words: Any = ("GET", key)
    request = hiredis.pack_command(words)

    def repeat(count: int) -> None:
        for _ in range(count):
            sock.sendall(request)
            reader.feed(sock.recv(65536))
            assert reader.gets() is not False

    return repeat
