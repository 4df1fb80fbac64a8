"""The interpreter's own functions, even where the process has replaced them.

Test suites freeze ``time.monotonic`` (freezegun, ``unittest.mock``), also where a module imported it by name, and a
wait by a frozen clock never ends. eventlet removes ``select.poll``; its ``os.read`` and ``os.write`` switch to another
greenlet first. Ours never block, and run where a switch is forbidden: in finalizers and signal handlers. So these
functions come from copies of the modules, and from the module below ``os``, which no library patches.

Functions that *wait* (``threading``, ``selectors``, ``time.sleep``, sockets) are looked up by their usual names when
they are used, so that gevent and eventlet can replace them.
"""

from __future__ import annotations

import os
from importlib.machinery import BuiltinImporter, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any


def _copy(name: str) -> ModuleType:
    """A second copy of a module that is written in C and has no state."""
    spec = BuiltinImporter.find_spec(name) or PathFinder.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no module {name}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def at_fork(**callables: Any) -> None:
    """``os.register_at_fork``, where processes can fork at all."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**callables)


if TYPE_CHECKING:
    from posix import read, write
    from select import poll
    from time import monotonic, time
else:
    _time = _copy("time")
    monotonic, time = _time.monotonic, _time.time
    poll = getattr(_copy("select"), "poll", None)  # Windows has none, and needs none: no budget is enforced there
    try:
        from posix import read, write
    except ImportError:
        from nt import read, write

__all__ = ["at_fork", "monotonic", "poll", "read", "time", "write"]
