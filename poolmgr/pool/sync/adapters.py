"""Pooled connections that are not simply redis-py's: classes not derived from redis-py's, and those with a cache."""

from __future__ import annotations

import functools
import weakref
from typing import Any

from redis.connection import CacheProxyConnection
from redis.exceptions import RedisError

from poolmgr.member.ports import Permit
from poolmgr.pool.entry import PoolEntry


class Bare(PoolEntry):
    """In front of a connection class that is not redis-py's: each of its connections has one permit."""

    _permit: Permit | None = None
    _sock: Any = True
    """A class without this attribute counts as connected."""

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        origin = self._origin
        if self._permit is None and origin is not None:
            self._permit = origin.claim(self)
        return super().connect(*args, **kwargs)  # type: ignore[misc]

    def disconnect(self, *args: Any, **kwargs: Any) -> Any:
        permit, self._permit = self._permit, None
        base: Any = super()
        result = base.disconnect(*args, **kwargs) if hasattr(base, "disconnect") else None
        if permit is not None:
            permit.gone()
        return result

    def __del__(self) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            permit.gone()

    def _abandon(self) -> None:
        self._permit = None

    def _look(self) -> str:
        look = getattr(self, "can_read", None)
        try:
            return "dirty" if look is not None and look() else ""
        except Exception:  # a foreign class: whatever it raises, do not use the connection
            return "stale"


class Cached(PoolEntry, CacheProxyConnection):
    """A connection with redis-py's client-side cache around it; the pool's questions go to the inner one.

    Before it answers from the cache, redis-py reads the invalidations of the connection that filled the
    entry, even while another thread uses that one, and so may take away its reply. Here an entry refers
    to a :class:`Drain`, which reads from a connection only while it is idle.
    """

    _conn: Any

    @property
    def _sock(self) -> Any:
        return self._conn._sock

    @property
    def _owed(self) -> int:  # type: ignore[override]
        return int(self._conn._owed)

    @property
    def _special(self) -> bool:
        return bool(self._conn._special)

    @_special.setter
    def _special(self, value: bool) -> None:
        self._conn._special = value

    @property
    def _draws(self) -> Any:
        return self._conn._draws

    @property
    def _retired(self) -> str:
        return str(self._conn._retired)

    @_retired.setter
    def _retired(self, value: str) -> None:
        self._conn._retired = value

    def _authenticated(self) -> None:
        self._conn._authenticated()

    def _get_parser(self) -> Any:
        return self._conn._get_parser()

    def _look(self) -> str:
        return str(self._conn._look())

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        super().send_command(*args, **kwargs)  # type: ignore[no-untyped-call]
        key = self._current_command_cache_key
        entry = None if key is None else self._cache.get(key)
        if entry is not None and entry.connection_ref is self._conn:
            entry.connection_ref = self._drain

    @functools.cached_property
    def _drain(self) -> Any:
        return Drain(self)

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        super().disconnect(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._since = 0.0

    def _abandon(self) -> None:
        self._conn._abandon()


Cached.__module__ = CacheProxyConnection.__module__  # it stands for that, as a class of derive() for its base
Cached.__name__ = Cached.__qualname__ = CacheProxyConnection.__name__


class Drain:
    """Stands for a connection in the cache's entries: reads its invalidations if it is idle.

    If it is lent, its holder reads them with its next reply; until then the cache may be a moment behind,
    as with an invalidation that is still on its way.
    """

    def __init__(self, connection: Cached) -> None:
        self._connection = weakref.ref(connection)

    def can_read(self, timeout: float = 0) -> bool:
        """Always False: it has read all there was to read."""
        connection = self._connection()
        origin = None if connection is None else connection._origin
        pool = None if origin is None else origin.pool
        if connection is None or pool is None:
            return False
        try:
            pool._idle.remove(connection)
        except ValueError:  # lent
            return False
        connection._loan.append(0.0)
        try:
            connection._process_pending_invalidations()  # type: ignore[no-untyped-call]
        except (RedisError, OSError):
            connection.disconnect()
        finally:
            pool.release(connection)
        return False

    def read_response(self, *args: Any, **kwargs: Any) -> None:
        """Not reached: there is never anything to read."""
