"""The text of the table's script, ``table.lua``, for each server."""

from __future__ import annotations

import functools
import os
from typing import Any


@functools.cache
def text(major: int) -> str:
    """The script for a server of that major version of Redis (Valkey calls itself 7 there). From 7.0 on its first line
    lets it run when memory is full: a renewal that is refused then would shut every gate
    (https://redis.io/docs/latest/develop/programmability/lua-api/#script-flags)."""
    lines = _file("table.lua").decode()
    return f"#!lua flags=allow-oom\n{lines}" if major >= 7 else lines


def _file(name: str) -> bytes:
    """A file beside this one, which may be in an archive
    (https://docs.python.org/3/library/importlib.html#importlib.abc.ResourceLoader). ``importlib.resources`` takes
    longer to load than all of :mod:`poolmgr.fleet`, in every supervisor."""
    loader: Any = __spec__.loader
    data: bytes = loader.get_data(os.path.join(os.path.dirname(__file__), name))
    return data
