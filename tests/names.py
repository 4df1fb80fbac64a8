"""A resolver of the test's own: where names lead is in a file, so that a test can have one lead elsewhere under load.

``install()`` in a process that is to use it (the test's own, or one that was started with the variable ``NAMES``).
Names that are not in the file are looked up as usual.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

VARIABLE = "NAMES"
"""The variable with the file's path."""

_real = socket.getaddrinfo


class Names:
    """The file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._leads: dict[str, tuple[str, ...]] = {}
        self._write()

    @property
    def environ(self) -> dict[str, str]:
        """For a process that is to use it."""
        return {VARIABLE: str(self.path)}

    def lead(self, **names: str | tuple[str, ...]) -> None:
        """From now on ``lead(cache="127.0.0.2")``; to several addresses, in that order, or with () to none."""
        for name, addresses in names.items():
            self._leads[name] = (addresses,) if isinstance(addresses, str) else addresses
        self._write()

    def _write(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self._leads))
        new.replace(self.path)


def install(path: str = "") -> None:
    """Look names up in the file first, in this process."""
    file = Path(path or os.environ[VARIABLE])

    def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        leads = json.loads(file.read_text())
        if host not in leads:
            return _real(host, port, *args, **kwargs)
        if not leads[host]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found for address in leads[host] for found in _real(address, port, *args, **kwargs)]

    socket.getaddrinfo = look_up
