"""Where the commands print: standard output, as wide as the terminal or as the content needs."""

from __future__ import annotations

import sys

import msgspec
from rich.console import Console
from rich.table import Table

WIDE = 200
"""Columns where there is no terminal: what is piped into a file or another program is not wrapped."""

NARROW = 110
"""Columns below which a table leaves out what can be left out."""


def console() -> Console:
    wanted = Console(highlight=False)
    return wanted if wanted.is_terminal else Console(highlight=False, width=WIDE)


def print_json(text: str | bytes) -> None:
    """JSON, indented, on standard output."""
    data = text.encode() if isinstance(text, str) else text
    sys.stdout.write(msgspec.json.format(data, indent=2).decode() + "\n")


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns in ``numbers`` are set to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made
