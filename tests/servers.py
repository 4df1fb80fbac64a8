"""Which server a test has: its kind, and what it lacks.

``docs/servers.md`` has the table for people; ``tests/integration/test_servers.py`` asks the server for each line of it.
"""

from __future__ import annotations

import functools
import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pytest


class Kind(NamedTuple):
    """``Redis 7.0.15``: the maker's word and three numbers."""

    name: str
    version: tuple[int, int, int]

    @property
    def minor(self) -> str:
        """As the document has it: ``Redis 7.0``."""
        return f"{self.name} {self.version[0]}.{self.version[1]}"

    @property
    def names_libraries(self) -> bool:
        """``CLIENT SETINFO``: Redis 7.2, and all of Valkey."""
        return self.version >= (7, 2, 0)


@functools.cache
def kind_of(binary: str) -> Kind:
    """What a program says of itself."""
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(\w+) server v=(\d+)\.(\d+)\.(\d+)", text)
    assert found is not None, text
    return Kind(found[1], (int(found[2]), int(found[3]), int(found[4])))


def let_redis_py_cache(kind: Kind, cached: type, patch: pytest.MonkeyPatch) -> None:
    """redis-py's cache takes servers that are called redis, from 7.4 on. Here another name is as good; an older one
    is skipped."""
    import pytest  # not with this file, which the programs of tests load too

    if kind.version < (7, 4, 0):
        pytest.skip(f"redis-py's cache does not take {kind.minor}")
    patch.setattr(cached, "DEFAULT_SERVER_NAME", kind.name.lower())
