"""Which releases must be looked at closely: all of them, if anything but redis-py listens to them.

A release asks one question about that: whether the list of listeners is the one that the pool has seen in the beginning
(:attr:`Releases._usual`). redis-py makes another list for each change.
"""

from __future__ import annotations

from typing import Any, ClassVar

from redis.event import EventDispatcher

CLOSELY: Any = object()
"""No list of listeners is this."""


class Releases:
    """What a pool knows of those who listen to its releases."""

    _release: ClassVar[type]
    """The event that redis-py dispatches after a release, in the pool's flavour."""
    _event_dispatcher: Any
    _listeners: Any
    """Lists of listeners by event. None is ever taken out: where the last listener goes, redis-py leaves an empty
    list."""
    _usual: Any
    """The list that a release expects there; :data:`CLOSELY`: look closely."""
    _known: Any
    """The list with redis-py's own listener only; None: there are others."""

    def _hear(self) -> None:
        """Find out who listens."""
        found = getattr(self._event_dispatcher, "_event_listeners_mapping", {}).get(self._release)
        if type(self._event_dispatcher) is EventDispatcher and len(found or ()) == 1:
            self._listeners, self._usual = self._event_dispatcher._event_listeners_mapping, found
            self._known = found
        else:
            self._listeners, self._usual = {self._release: None}, CLOSELY
            self._known = None

    @property
    def _strict(self) -> bool:
        """Every release is looked at closely."""
        return self._usual is CLOSELY

    @_strict.setter
    def _strict(self, value: bool) -> None:
        if value:
            self._usual = CLOSELY

    @property
    def _listened(self) -> bool:
        """Whether others than redis-py listen now."""
        return self._known is None or self._listeners[self._release] is not self._known
