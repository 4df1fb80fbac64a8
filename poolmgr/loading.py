"""Modules loaded when they are first needed, and never half of one in a forked child.

An import holds its module's lock. A fork in the middle of another thread's import leaves that lock taken in
the child, by a thread that does not exist there, and whoever imports the module in the child waits for
ever. So a fork waits for the imports made here, and none begins while it is made.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from types import ModuleType

logging.getLogger(__name__)
"""Loaded here, though nothing is logged: a fork also takes logging's own lock, which imports need, and hooks run
in the reverse order of their registration. Registered after ours, logging's would be taken first: a deadlock."""

_lock = threading.RLock()
"""Held while a module is loaded, and over every fork."""


def load(name: str) -> ModuleType:
    """The module of that name, loaded if it has not been."""
    with _lock:
        return importlib.import_module(name)


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
