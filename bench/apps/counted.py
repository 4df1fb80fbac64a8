"""What :mod:`bench.parts.instructions` runs under valgrind: ``PORT WHAT WHO HOW TIMES``.

It imports only what the contestant needs, because under valgrind an import takes seconds.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import redis
from redis import connection
from redis._parsers import _RESP3Parser
from redis._parsers.encoders import Encoder

IDLE = 8
"""Connections used in turn, so that each one is idle for over a millisecond under valgrind before it is used again."""


class Counted:
    """``Counted(work) @ times`` works so many times. CPython does it inside ``PyNumber_MatrixMultiply``, which nothing
    else here calls, and valgrind counts only what happens inside it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work

    def __matmul__(self, times: int) -> None:
        work = self._work
        for _ in range(times):
            work()


def _arguments(port: int, how: str) -> dict[str, Any]:
    """Of the connections."""
    arguments: dict[str, Any] = {"host": "127.0.0.1", "port": port}
    if how == "RESP2":
        arguments["protocol"] = 2
    elif how == "without hiredis":
        encoder: Any = Encoder
        encode = encoder("utf-8", "strict", False).encode
        packer: Any = connection.PythonRespSerializer
        arguments |= {"protocol": 3, "parser_class": _RESP3Parser, "command_packer": packer(6000, encode)}
    return arguments


def _work(port: int, what: str, who: str, how: str) -> Callable[[], object]:
    """One repetition of what is counted."""
    arguments = _arguments(port, how)
    pool: redis.ConnectionPool
    if who == "poolmgr":
        import poolmgr

        pool = poolmgr.ConnectionPool(timeout=60, **arguments)
    else:
        pool = redis.ConnectionPool(**arguments)
    if what == "checkout":
        return lambda: pool.release(pool.get_connection())
    dedicated = who == "a dedicated connection"
    if how == "after a pause" and not dedicated:
        for lent in [pool.get_connection() for _ in range(IDLE)]:
            pool.release(lent)
    get = redis.Redis(connection_pool=pool, single_connection_client=dedicated).get
    return lambda: get("bench")


def main(port: int, what: str, who: str, how: str, times: int) -> None:
    counted = Counted(_work(port, what, who, how))
    counted.__matmul__(times)  # connections are open then, and the interpreter has adapted its code
    gc.collect()
    gc.freeze()  # else a collection of all that the imports made may fall among what is counted, by chance
    counted @ times


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
