"""Load modules on first use, and never leave one half loaded in a forked child.

An import holds its module's lock. A fork in the middle of another thread's import leaves that lock taken in the
child, by a thread that does not exist there, and an import of that module in the child waits forever. So a fork waits
for the imports made here, and no import begins during a fork.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 (for its lock over forks, see below)
import importlib
import logging
import sys
import threading
from types import ModuleType

from poolmgr.native import at_fork
from poolmgr.taking import taken

logging.getLogger(__name__)
"""Loaded here, though this module logs nothing. A fork also takes logging's own lock, which imports need, and hooks run
in the reverse order of their registration. If logging's hook were registered after ours, its lock would be taken first:
a deadlock. ``concurrent.futures.thread`` has such a hook as well. redis-py loads it, perhaps in the middle of the first
fork (:func:`poolmgr._prepare_children`): after the fork its hook would then release a lock that was not taken."""

_ending = sys.is_finalizing

_lock = threading.RLock()
"""Held while a module is loaded, and over every fork."""


_loaded: dict[str, ModuleType] = {}
"""At the interpreter's end no import works, not even of a module that was loaded."""


def load(name: str) -> ModuleType:
    """The module of that name, loaded if it has not been."""
    if _ending() and name in _loaded:
        return _loaded[name]
    for _ in taken(_lock):
        try:
            _loaded[name] = importlib.import_module(name)
        finally:
            _lock.release()
    return _loaded[name]


TO_CONNECT = ("codecs", "copyreg", "hiredis", "ntpath", "redis.observability.attributes", "warnings")
"""Modules that redis-py imports in the middle of a connect, though they were loaded long before. ``ntpath`` is Python
3.13's: there each ``pathlib.Path`` that is made imports it, and ours read ``/proc``."""


def importable() -> None:
    """Call this before redis-py connects. A destructor that needs a connection while the interpreter ends (after the
    goodbye, that is) would get an ImportError for a module that is loaded but no longer listed."""
    if _ending():
        for name in TO_CONNECT:
            if name in _loaded:
                sys.modules.setdefault(name, _loaded[name])
    elif TO_CONNECT[0] not in _loaded:
        _loaded.update({name: sys.modules[name] for name in TO_CONNECT if name in sys.modules})


at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
