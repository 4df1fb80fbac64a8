"""How a program from the warm Python ends: with the status and the last words of one that was started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, ClassVar

from tests.warm.loaded import LOADED


def leave() -> None:
    """Leave what was loaded here to the kernel: to free each object takes longer than the start did. What else a
    program has is freed as ever, after its own last calls."""
    for name in LOADED:
        sys.modules.pop(name, None)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # the interpreter finds that too, and ends with another status
        Last.status = None


class Last:
    """What is freed when all else is, and then ends the process: to clear the interpreter itself, and OpenSSL, takes as
    long as all before.

    It is an attribute of ``sys``: modules are freed before, and of ``sys`` what was there first.
    """

    status: ClassVar[int | None] = None
    """With which the program has ended, if that is known."""

    def __del__(self, leave: Any = os._exit) -> None:
        if self.status is not None:
            leave(self.status)


def end_of(run: Callable[[], None]) -> None:
    """Run it, and see how it ends."""
    sys.tests_warm_last = Last()  # type: ignore[attr-defined]
    try:
        run()
    except SystemExit as ended:
        Last.status = (ended.code or 0) & 0xFF if isinstance(ended.code, int | None) else 1
        raise
    except Exception:
        Last.status = 1
        raise
    Last.status = 0
