"""What :mod:`bench.parts.instructions` runs under valgrind: ``PORT WHAT WHO TIMES``.

It imports only what the contestant needs, because under valgrind an import takes seconds.
"""

from __future__ import annotations

import sys

import redis


def main(port: int, what: str, who: str, times: int) -> None:
    pool: redis.ConnectionPool | None = None
    if who == "poolmgr":
        import poolmgr

        pool = poolmgr.ConnectionPool(host="127.0.0.1", port=port, timeout=60)
    elif who == "redis.ConnectionPool":
        pool = redis.ConnectionPool(host="127.0.0.1", port=port)
    if what == "checkout":
        assert pool is not None
        for _ in range(times):
            pool.release(pool.get_connection())
        return
    if pool is None:
        client = redis.Redis(host="127.0.0.1", port=port, single_connection_client=True)
    else:
        client = redis.Redis(connection_pool=pool)
    get = client.get
    for _ in range(times):
        get("bench")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
