"""The scope of a supervisor's ledger: made with the first lock file of a boot, never derived.

It stands in ``S.scope``; the lock's owner reads or makes it. A clone of this machine that has the file too has another
boot id, and makes its own. An orderly end removes it, unless permits were freed there without a proof: then the file
lists the servers at which connections may be left, until a successor has searched them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import msgspec

from poolmgr.kernel import processes

SUFFIX = ".scope"
"""The suffix of the socket's path."""


class _Contents(msgspec.Struct, frozen=True):
    boot: str
    namespace: int
    scope: str
    unsearched: tuple[str, ...] = ()


class Scope:
    """The scope of one socket's path; made under its lock.

    Args:
        path: the socket's.

    Attributes:
        text: what the names of connections bear.
        unsearched: keys of servers at which connections may be left whose permits were freed without a proof.
    """

    def __init__(self, path: str) -> None:
        self._path = path + SUFFIX
        self._boot, self._namespace = processes.boot_id(), processes.namespaces()
        self.text = ""
        self.unsearched: set[str] = set()
        with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError):
            found = msgspec.json.decode(Path(self._path).read_bytes(), type=_Contents)
            if (found.boot, found.namespace) == (self._boot, self._namespace):
                self.text, self.unsearched = found.scope, set(found.unsearched)

    def make(self) -> str:
        """The existing scope, else a new one."""
        if not self.text:
            self.text = secrets.token_hex(8)
            self._write()
        return self.text

    def use(self, scope: str) -> None:
        """The file was lost, and this was in it."""
        self.text = scope
        self._write()

    def unproven(self, keys: Iterable[str]) -> None:
        """Permits were freed without a proof at the server with these keys."""
        self.unsearched.update(keys)
        self._write()

    def searched(self, keys: Iterable[str]) -> None:
        """That server's connections have been counted."""
        if not self.unsearched.isdisjoint(keys):
            self.unsearched.difference_update(keys)
            self._write()

    def _write(self) -> None:
        """Write the file, whole or not at all. If that fails, the successor makes its own scope. This loses only what
        was unprovable anyway."""
        body = msgspec.json.encode(_Contents(self._boot, self._namespace, self.text, tuple(sorted(self.unsearched))))
        new = self._path + ".new"
        with contextlib.suppress(OSError):
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(fd, body)
            finally:
                os.close(fd)
            os.replace(new, self._path)

    def remove(self) -> None:
        """An orderly end, with the lock still held."""
        if not self.unsearched:
            for path in (self._path, self._path + ".new"):
                with contextlib.suppress(OSError):
                    os.unlink(path)
