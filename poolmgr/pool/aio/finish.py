"""Runs a coroutine that does not suspend, from code that is not one.

A coroutine that never suspends cannot be cancelled, so everything that cleans up is of that kind; and the member's
thread and finalizers may have to do it too, where there is no loop.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What it returns.

    Raises:
        RuntimeError: it has suspended, and is closed.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} may not wait here")
