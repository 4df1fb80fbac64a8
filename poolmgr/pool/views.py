"""``_available_connections`` and ``_in_use_connections``: redis-py's private lists, as others read and change them.

Each is made when asked for, and shows the state at that moment. Changes to it change the pool: code
that pops idle connections until there are none comes to an end, and has them to itself.

A connection that is not the pool's, put there by foreign code, is shown there and never lent: the pool has no permit
for it.

A pool of any flavour says here what it has by three methods: :class:`Viewed`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, SupportsIndex


class Viewed(Protocol):
    """A pool, as its lists know it."""

    @property
    def _origin(self) -> Any: ...

    def _idle_ones(self) -> list[Any]:
        """Its idle connections."""

    def _lent_ones(self) -> set[Any]:
        """Those out with callers."""

    def _borrow(self, connection: Any) -> bool:
        """Take an idle connection, as if it were lent; whether it still was idle."""

    def _give_back(self, connection: Any) -> None:
        """Release a connection that was taken out of the idle ones. Does not block."""


class Strangers:
    """Connections that foreign code has put into a pool's private attributes."""

    def __init__(self) -> None:
        self.available: list[Any] = []
        self.in_use: set[Any] = set()


def strangers(pool: Viewed) -> Strangers:
    """The strangers of a pool; made when first asked for."""
    found: Strangers = pool.__dict__.setdefault("_strangers", Strangers())
    return found


class Available(list[Any]):
    """The idle connections."""

    def __init__(self, pool: Viewed) -> None:
        super().__init__([*pool._idle_ones(), *strangers(pool).available])
        self._pool = pool

    def append(self, connection: Any) -> None:
        """Give back a connection that was taken out; show a stranger."""
        super().append(connection)
        self._give(connection)

    def insert(self, index: SupportsIndex, connection: Any) -> None:
        super().insert(index, connection)
        self._give(connection)

    def extend(self, connections: Iterable[Any]) -> None:
        for connection in connections:
            self.append(connection)

    def _give(self, connection: Any) -> None:
        pool = self._pool
        if getattr(connection, "_origin", None) is pool._origin and getattr(connection, "_ticket", None) is not None:
            pool._give_back(connection)
        else:
            strangers(pool).available.append(connection)

    def pop(self, index: SupportsIndex = -1) -> Any:
        """An idle connection for the caller alone. It comes back with ``release``, or when nothing refers to it.

        Raises:
            IndexError: there is none.
        """
        while True:
            connection = super().pop(index)
            if self._take(connection):
                return connection

    def _take(self, connection: Any) -> bool:
        there = strangers(self._pool).available
        if connection in there:
            there.remove(connection)
            return True
        return self._pool._borrow(connection)

    def remove(self, connection: Any) -> None:
        super().remove(connection)
        if not self._take(connection):
            raise ValueError("this connection is not idle any more")

    def __delitem__(self, index: Any) -> None:
        gone = self[index]
        super().__delitem__(index)
        for connection in gone if isinstance(index, slice) else [gone]:
            self._take(connection)

    def clear(self) -> None:
        del self[:]


class InUse(set[Any]):
    """The connections out with callers."""

    def __init__(self, pool: Viewed) -> None:
        super().__init__([*pool._lent_ones(), *strangers(pool).in_use])
        self._pool = pool

    def add(self, connection: Any) -> None:
        super().add(connection)
        if getattr(connection, "_origin", None) is not self._pool._origin:
            strangers(self._pool).in_use.add(connection)
        else:
            self._pool._borrow(connection)

    def update(self, *others: Iterable[Any]) -> None:
        for connections in others:
            for connection in connections:
                self.add(connection)

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        strangers(self._pool).in_use.discard(connection)

    def remove(self, connection: Any) -> None:
        super().remove(connection)
        strangers(self._pool).in_use.discard(connection)
