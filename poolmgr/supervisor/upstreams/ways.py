"""The ways to one server that members have named, and the order in which the supervisor tries them.

A way is an address with TLS settings and credentials. Each belongs to the clients that have named it, and any of them
may be wrong: a missing certificate file, another server's password. So results decide: working ways are tried first,
and failed ones last, however new. A way is forgotten when all its clients are gone. Pure; credentials stay in here, and
never go into a log, a status or the snapshot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from poolmgr.wire import Endpoint

KEPT = 8
"""How many ways with one key are kept: the worst are dropped."""

NEVER = -1e9


class Way(msgspec.Struct):
    """One way. Times are monotonic seconds.

    Attributes:
        tags: processes that have named it; empty if taken over from another upstream.
        worked: when the server last accepted a connection by it; failed: when one last failed.
        error: why it failed; silent: no answer came in time.
        forbidden: commands that the server does not let us give by it.
    """

    endpoint: Endpoint
    named: int
    tags: set[str] = msgspec.field(default_factory=set)
    worked: float = NEVER
    failed: float = NEVER
    error: str = ""
    silent: bool = False
    forbidden: frozenset[str] = frozenset()

    @property
    def works(self) -> bool:
        return self.worked > self.failed

    @property
    def tried(self) -> bool:
        return max(self.worked, self.failed) > NEVER


class Ways:
    """All ways to a server, by their keys. Iterating gives the keys."""

    def __init__(self) -> None:
        self._of: dict[str, list[Way]] = {}
        self._shut: dict[str, str] = {}
        """By key: why the address took no connection when it was last tried."""
        self._count = 0

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._of))

    def __len__(self) -> int:
        return len(self._of)

    def of(self, key: str) -> list[Endpoint]:
        """The ways with that key."""
        return [way.endpoint for way in self._of.get(key, ())]

    def all(self) -> Iterator[Way]:
        for ways in self._of.values():
            yield from ways

    def learn(self, endpoint: Endpoint, tag: str = "") -> bool:
        """A process has named this way. Returns whether the key is new."""
        ways = self._of.setdefault(endpoint.key, [])
        new = not ways
        self._count += 1
        way = next((way for way in ways if way.endpoint == endpoint), None)
        if way is None:
            way = Way(endpoint, self._count)
            ways.append(way)
        if tag:
            way.tags.add(tag)
        if len(ways) > KEPT:
            ways.remove(max((other for other in ways if other is not way), key=_merit))
        return new

    def take(self, others: Ways) -> None:
        """Take over ways to the same server."""
        for theirs in others.all():
            self.learn(theirs.endpoint)
            mine = next(way for way in self._of[theirs.endpoint.key] if way.endpoint == theirs.endpoint)
            mine.tags |= theirs.tags
            if theirs.worked > mine.worked:
                mine.worked, mine.forbidden = theirs.worked, theirs.forbidden
            if theirs.failed > mine.failed:
                mine.failed, mine.error, mine.silent = theirs.failed, theirs.error, theirs.silent

    def take_out(self, keys: Collection[str]) -> Ways:
        """Take out the ways with these keys, which lead to another server."""
        found = Ways()
        found._of = {key: self._of.pop(key) for key in list(self._of) if key in keys}
        found._count = self._count
        return found

    def leave(self, key: str, tag: str) -> None:
        """A process no longer uses this way."""
        for way in self._of.get(key, ()):
            way.tags.discard(tag)

    def worked(
        self,
        endpoint: Endpoint,
        now: float,
        *,
        asked: frozenset[str] = frozenset(),
        forbidden: frozenset[str] = frozenset(),
    ) -> None:
        """A connection by it was accepted. Commands that were not asked keep their earlier result."""
        self._shut.pop(endpoint.key, None)
        for way in self._of.get(endpoint.key, ()):
            if way.endpoint == endpoint:
                way.worked, way.forbidden = now, forbidden | (way.forbidden - asked)
                way.error, way.silent = "", False

    def failed(
        self, endpoint: Endpoint, error: str, now: float, *, silent: bool = False, unconnected: bool = False
    ) -> None:
        """A connection by it was not accepted; ``silent``: no answer came in time; ``unconnected``: the address took
        none, so that every way with that key would have failed."""
        if unconnected:
            self._shut[endpoint.key] = error
        else:
            self._shut.pop(endpoint.key, None)
        for way in self._of.get(endpoint.key, ()):
            if way.endpoint == endpoint:
                way.failed, way.error, way.silent = now, error, silent

    def keep(self, tags: Collection[str]) -> list[str]:
        """Keep only the ways of these processes, which are here or have left connections. If that drops every way, the
        best one with each key stays: our own connections may be searched for by it. Returns the keys without a way."""
        dropped = []
        for way in self.all():
            way.tags.intersection_update(tags)
        used = any(way.tags for way in self.all())
        for key, ways in list(self._of.items()):
            left = [way for way in ways if way.tags] if used else [min(ways, key=_merit)]
            if left:
                self._of[key] = left
            else:
                del self._of[key]
                dropped.append(key)
        return dropped

    def own(self, tag: str) -> bool:
        """Whether this process uses a way of its own, which may lead elsewhere than ours."""
        return any(way.endpoint.own for way in self.all() if tag in way.tags)

    def hopeless(self, tag: str) -> bool:
        """Whether all ways that a process has named have failed, or lead to an address that takes no connection. A way
        of its own may lead elsewhere than ours."""
        named = [way for way in self.all() if tag in way.tags]
        return bool(named) and all(
            way.failed > way.worked or (way.endpoint.key in self._shut and not way.endpoint.own) for way in named
        )

    def error_of(self, tag: str) -> str:
        """Why the way that a process has named failed, of several the last one; empty: none was tried."""
        failed = [way for way in self.all() if tag in way.tags and way.error]
        return max(failed, key=lambda way: way.failed).error if failed else ""

    def names_of(self, endpoint: Endpoint) -> set[str]:
        """Processes that have named this way."""
        return {tag for way in self._of.get(endpoint.key, ()) if way.endpoint == endpoint for tag in way.tags}

    @property
    def endpoints(self) -> tuple[tuple[Endpoint, ...], ...]:
        """The ways that the supervisor can try, by key, best first. The key with the best way comes last: a look
        answered by all keys then ends with one by which it can list. Only keys without any answer come after it: a
        connection by one of these keeps its permit, and there may be no other permit to look further with."""
        found = [sorted((way for way in ways if not way.endpoint.unseen), key=_merit) for ways in self._of.values()]
        best_last = sorted((ways for ways in found if ways), key=lambda ways: _rank(ways[0]), reverse=True)
        best_last.sort(key=lambda ways: ways[0].silent)
        return tuple(tuple(way.endpoint for way in ways) for ways in best_last)

    @property
    def unseen(self) -> str:
        """Why the supervisor can try none of them; empty: it can, or no way is known."""
        reasons = {way.endpoint.unseen for way in self.all()}
        return "" if "" in reasons else ", ".join(sorted(reasons))


def _rank(way: Way) -> tuple[int, int]:
    """Smaller is better: it works and lets us list; is untried; works and lets us do less; has failed."""
    if not way.works:
        return (1, 0) if not way.tried else (3, 0)
    return (2, len(way.forbidden)) if "CLIENT LIST" in way.forbidden else (0, len(way.forbidden))


def _merit(way: Way) -> tuple[tuple[int, int], float]:
    """Smaller is better. Among equals: latest to work; newest; longest since failure."""
    if way.works:
        return _rank(way), -way.worked
    return _rank(way), way.failed if way.tried else -way.named
