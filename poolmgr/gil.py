"""Pool and member rely on the GIL, so a free-threaded Python that runs without it is refused.

What relies on it, in ``poolmgr/pool`` and ``poolmgr/member``: a copy of a deque or of a dictionary's values
(``tuple(self.queue)``) is one step, in which no other thread changes it; and so is ``counter += 1`` in nearly all
cases. Operations on one entry (``append``, ``popleft``, ``setdefault``, ``pop``) are single steps without the GIL too.

A free-threaded Python has the GIL where ``PYTHON_GIL=1`` or ``-X gil=1`` asks for it, and where an extension module
that was imported needs it (docs.python.org, "Python support for free threading").
"""

from __future__ import annotations

import sys

REFUSED = "poolmgr needs the GIL, and this free-threaded Python runs without it: start it with PYTHON_GIL=1"


def held() -> bool:
    """Whether one thread at a time runs Python code."""
    asked = getattr(sys, "_is_gil_enabled", None)  # from Python 3.13 on
    return asked is None or bool(asked())


def require() -> None:
    """Refuse to go on without.

    Raises:
        ImportError: there is no GIL.
    """
    if not held():
        raise ImportError(REFUSED)


def options() -> list[str]:
    """What a Python of ours is started with, so that it has one whatever it imports.

    Nothing is imported here: a supervisor may have to be started while the interpreter ends. The flag ``t`` marks a
    free-threaded build (PEP 703).
    """
    return ["-X", "gil=1"] if "t" in getattr(sys, "abiflags", "") else []
