"""The text of the table's script, ``table.lua``, for each server."""

from __future__ import annotations

import functools
import importlib.resources


@functools.cache
def text(major: int) -> str:
    """The script for a server of that major version of Redis (Valkey calls itself 7 there). From 7.0 on its first line
    lets it run when memory is full: a renewal that is refused then would shut every gate
    (https://redis.io/docs/latest/develop/programmability/lua-api/#script-flags)."""
    lines = importlib.resources.files(__package__).joinpath("table.lua").read_text(encoding="utf-8")
    return f"#!lua flags=allow-oom\n{lines}" if major >= 7 else lines
