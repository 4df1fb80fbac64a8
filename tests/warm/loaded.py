"""What the warm Python has at hand: everybody's packages, and the code of our modules."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path
from typing import Any

from tests.warm.link import ROOT

LOADED: list[str] = []
"""Names of modules that the warm Python has loaded, as each start does or before the program could."""

STAYS = {"__main__", "builtins", "sys", "warnings", "linecache"}
"""What an interpreter that ends needs: the last two for a warning about what it frees then."""


def load() -> None:
    import importlib

    sys.modules["rich"] = None  # type: ignore[assignment]  # as a supervisor has it
    names = ["structlog", "secrets", "asyncio"]
    names += ["redis", "redis.asyncio", "redis.sentinel", "redis.cluster", "hiredis", "msgspec", "psutil"]
    # Of gunicorn what reads no variable of the environment while it is loaded, as its config does.
    names += ["gunicorn.util", "gunicorn.sock", "gunicorn.http", "gunicorn.reloader", "argparse", "grp", "pwd"]
    names += ["uvloop"] if sys.flags.dev_mode else []  # these programs are about tasks
    names += ["falcon", "ssl", "runpy", "subprocess", "logging.config", "queue", "http.client"]
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    del sys.modules["rich"]
    assert "gunicorn.config" not in sys.modules and "poolmgr" not in sys.modules
    LOADED.extend(sys.modules.keys() - STAYS)
    for name in LOADED:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(sys.modules[name]))
    keep_code(ROOT)


def keep_code(root: Path) -> None:
    """Keep the code objects of our modules. Each program still executes them itself, and does not unmarshal them again.

    Only the same bytes, of the same file, are the same code.
    """
    import importlib._bootstrap_external as machinery
    from importlib.util import cache_from_source

    before: Any = machinery._compile_bytecode  # type: ignore[attr-defined]
    kept: dict[str, tuple[bytes, Any]] = {}

    def compile_bytecode(data: Any, name: Any = None, bytecode_path: Any = None, source_path: Any = None) -> Any:
        found = kept.get(bytecode_path)
        if found is not None and found[0] == data:
            return found[1]
        return before(data, name, bytecode_path, source_path)

    for package in ("poolmgr", "worker"):
        for source in (root / package).rglob("*.py"):
            place = cache_from_source(str(source))
            with contextlib.suppress(OSError, EOFError, ValueError, TypeError):
                data = Path(place).read_bytes()[16:]
                kept[place] = data, before(data, None, place, str(source))
    machinery._compile_bytecode = compile_bytecode  # type: ignore[attr-defined]
