"""Where the commands print: standard output, as wide as the terminal or as the content needs.

All output of a command goes through this module, which removes the characters that a terminal obeys: a server's error,
a process's title and an environment come from others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import msgspec
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from poolmgr.logs.redaction import printable, printable_json

WIDE = 200
"""Columns without a terminal: output to a file or another program is not wrapped."""

NARROW = 110
"""Columns below which a table leaves out what can be left out."""


class _Console(Console):
    """Rich's own, whose segments carry no control character but for its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def console() -> Console:
    wanted = _Console(highlight=False)
    return wanted if wanted.is_terminal else _Console(highlight=False, width=WIDE)


def complain(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(printable(text, line=True) + "\n")


def print_json(text: str | bytes) -> None:
    """JSON, indented, on standard output."""
    data = text.encode() if isinstance(text, str) else text
    sys.stdout.write(printable_json(msgspec.json.format(data, indent=2).decode()) + "\n")


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns in ``numbers`` are set to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made
