"""Short programs beside the service, on the same budget: each ends in another way that no goodbye announces.

``python -m tests.chaos.guest KIND SECONDS``, where KIND is:

* ``exec``: becomes another program, which knows nothing of the pool and stays for that long;
* ``chain``: becomes itself three times, and uses the pool each time;
* ``vanish``: five children use the pool and end with ``os._exit``;
* ``closed``: closes all its descriptors, as a daemon does, and must work again after one error.

It exits with 0 if every call that had to succeed did.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

import redis

import poolmgr

TRIES = 3
"""Attempts of the client after its descriptors were closed: the first one meets what was closed."""


def _use() -> None:
    client = poolmgr.get_client()
    client.set("guest", os.getpid())
    assert client.get("guest") is not None


def _exec(seconds: str) -> None:
    _use()
    os.execv(sys.executable, [sys.executable, "-c", f"import time; time.sleep({float(seconds)})"])


def _chain(seconds: str, left: int = 3) -> None:
    _use()
    if left:
        os.execv(sys.executable, [sys.executable, "-m", "tests.chaos.guest", "chain", seconds, str(left - 1)])


def _vanish(seconds: str) -> None:
    _use()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(Exception):
                _use()
                status = 0
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _closed(seconds: str) -> None:
    _use()
    os.closerange(3, 1024)
    for attempt in range(TRIES):
        try:
            _use()
            break
        except (redis.RedisError, OSError):
            if attempt == TRIES - 1:
                raise
    time.sleep(float(seconds))
    _use()


KINDS = {"exec": _exec, "chain": _chain, "vanish": _vanish, "closed": _closed}


def main(kind: str, *rest: str) -> None:
    if kind == "chain" and len(rest) > 1:
        _chain(rest[0], int(rest[1]))
    else:
        KINDS[kind](rest[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
