"""Modules loaded when they are first needed, and never half of one in a forked child.

An import holds its module's lock. A fork in the middle of another thread's import leaves that lock taken in
the child, by a thread that does not exist there, and whoever imports the module in the child waits for
ever. So a fork waits for the imports made here, and none begins while it is made.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 (for its lock over forks, see below)
import importlib
import logging
import sys
import threading
from types import ModuleType

from poolmgr.native import at_fork

logging.getLogger(__name__)
"""Loaded here, though nothing is logged: a fork also takes logging's own lock, which imports need, and hooks run
in the reverse order of their registration. Registered after ours, logging's would be taken first: a deadlock.
``concurrent.futures.thread`` has one as well. redis-py loads it, which may be in the middle of the first fork
(:func:`poolmgr._prepare_children`): after the fork its hook would release what none has taken before it."""

_ending = sys.is_finalizing

_lock = threading.RLock()
"""Held while a module is loaded, and over every fork."""


_loaded: dict[str, ModuleType] = {}
"""At the interpreter's end nothing can be imported, not even what has been."""


def load(name: str) -> ModuleType:
    """The module of that name, loaded if it has not been."""
    if _ending() and name in _loaded:
        return _loaded[name]
    with _lock:
        module = _loaded[name] = importlib.import_module(name)
    return module


TO_CONNECT = ("codecs", "copyreg", "hiredis", "redis.observability.attributes", "warnings")
"""What redis-py imports in the middle of a connect, though it was loaded long before."""


def importable() -> None:
    """To be called before redis-py connects. A destructor that needs a connection while the interpreter ends (after the
    goodbye, that is) would have an ImportError for what is loaded and only not listed any more."""
    if _ending():
        for name in TO_CONNECT:
            if name in _loaded:
                sys.modules.setdefault(name, _loaded[name])
    elif TO_CONNECT[0] not in _loaded:
        _loaded.update({name: sys.modules[name] for name in TO_CONNECT if name in sys.modules})


at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
