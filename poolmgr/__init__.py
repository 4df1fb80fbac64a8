"""A Redis connection pool whose connections, over all processes of a host, stay within one budget.

The public names, loaded on first use. So the supervisor and the command line, which are in this package too, do not
load a pool, and ``import poolmgr`` costs next to nothing. Of packages from outside the public names may load
only redis and msgspec.

Behind them:

- ``pool``: the pools, and who of a pool's callers gets the next connection; ``asyncio``: the public names for tasks
- ``member``: a process's permits, its thread, and which of its pools gets the next permit
- ``supervisor``: who is connected, the Redis servers, what is on disk, what is seen from outside
- ``budget``: the rules by which processes share a budget, and how large it is; ``fleet``: by which hosts do
- ``wire``: the messages, ``frames``: their bytes; ``tags``, ``own_tag``: the name of a process at a server
- ``status``: the schema of ``poolmgr status --json``
- ``settings``, ``logs``, ``errors``, ``exceptions``; ``cli``: the command; ``gunicorn``, ``conf``: under gunicorn
- ``launch``, ``spawn``: how a supervisor is found or started; ``embedded``: the Valkey server if you name none
- ``kernel``: what Linux says; ``certificates``; what the interpreter needs: ``forklock``, ``gil``, ``lazy``,
  ``native``, ``taking``, ``threads``
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from poolmgr import gil
from poolmgr.lazy import load
from poolmgr.native import at_fork

if TYPE_CHECKING:
    from poolmgr.errors import (
        PoolmgrError as PoolmgrError,
        SettingsError as SettingsError,
        SupervisorError as SupervisorError,
    )
    from poolmgr.exceptions import (
        ConnectionPoolTimeoutError as ConnectionPoolTimeoutError,
        PoolClosedError as PoolClosedError,
        ReplyTooLargeError as ReplyTooLargeError,
        ServerDownError as ServerDownError,
    )
    from poolmgr.pool.stats import Hooks as Hooks, Stats as Stats
    from poolmgr.pool.sync.default import get_client as get_client, get_pool as get_pool
    from poolmgr.pool.sync.pool import ConnectionPool as ConnectionPool
    from poolmgr.pool.sync.sentinel import SentinelConnectionPool as SentinelConnectionPool

__version__ = "0.2.0"

_HOMES = {
    "ConnectionPool": "poolmgr.pool.sync.pool",
    "ConnectionPoolTimeoutError": "poolmgr.exceptions",
    "Hooks": "poolmgr.pool.stats",
    "PoolClosedError": "poolmgr.exceptions",
    "PoolmgrError": "poolmgr.errors",
    "ReplyTooLargeError": "poolmgr.exceptions",
    "SentinelConnectionPool": "poolmgr.pool.sync.sentinel",
    "ServerDownError": "poolmgr.exceptions",
    "SettingsError": "poolmgr.errors",
    "Stats": "poolmgr.pool.stats",
    "SupervisorError": "poolmgr.errors",
    "get_client": "poolmgr.pool.sync.default",
    "get_pool": "poolmgr.pool.sync.default",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 (the table above is the list)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(load(home), name)
    globals()[name] = value
    return value


def _prepare_children() -> None:
    """Before a fork: load the modules of a pool's first use. Otherwise each child would load them, which takes far
    longer than its task, and would share none of that memory."""
    if not sys.is_finalizing() and gil.held():
        for name in ("poolmgr.pool.sync.pool", "poolmgr.member.member", "mmap"):
            load(name)


at_fork(before=_prepare_children)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
