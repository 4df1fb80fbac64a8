"""What we take of the interpreter as it is, whatever else the process has put in its place.

Test suites freeze ``time.monotonic`` (freezegun, ``unittest.mock``), also where a module has imported it by name, and
whoever waits by a frozen clock waits for ever. eventlet takes ``select.poll`` away; its ``os.read`` and ``os.write``
switch to another greenlet first. Ours never block, and are called where nobody may switch: in finalizers and signal
handlers. So these come from where nobody looks: from copies of the modules, and from the module below ``os``.

Whatever *waits* is taken by its usual name when it is used (``threading``, ``selectors``, ``time.sleep``, sockets), so
that gevent and eventlet have their say.
"""

from __future__ import annotations

from importlib.machinery import BuiltinImporter, PathFinder
from importlib.util import module_from_spec
from posix import read, write
from types import ModuleType
from typing import TYPE_CHECKING


def _copy(name: str) -> ModuleType:
    """A second copy of a module that is written in C and has no state of its own."""
    spec = BuiltinImporter.find_spec(name) or PathFinder.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no module {name}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from select import poll
    from time import monotonic, time
else:
    _time = _copy("time")
    monotonic, time = _time.monotonic, _time.time
    poll = _copy("select").poll

__all__ = ["monotonic", "poll", "read", "time", "write"]
