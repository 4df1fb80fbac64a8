"""``poolmgr config``: every variable, its value, and where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from poolmgr import settings
from poolmgr.cli import documents
from poolmgr.cli.output import NARROW, WIDE, complain, console, print_json, table


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of all variables for documents.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Print nothing but what is wrong.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Print an example environment file.")] = False,
) -> None:
    """Every variable, its value and where it came from; secrets are hidden. Status 1 if a value is wrong."""
    if markdown:
        print(documents.markdown_table())
        return
    if example:
        print(documents.environment_file())
        return
    rows = settings.describe()
    if as_json:
        print_json(msgspec.json.encode(rows))
    elif not check:
        out = console()
        out.print(render(rows, out.width))
        out.print(WHOSE)
    for row in rows:
        if row.error:
            complain(f"{'Warning' if row.source == 'unknown' else 'Error'}: {row.error}")
    if any(row.error and row.source != "unknown" for row in rows):
        raise typer.Exit(1)


WHOSE = (
    "\nThis is what a process started from this shell would use. A service that runs uses the environment that it was "
    "started with; `poolmgr limits` shows its budgets."
)


def render(rows: Iterable[settings.Row], width: int = WIDE) -> RenderableType:
    """The variables as a table of this many columns. In a narrow one each meaning is on a line below."""
    known = [row for row in rows if row.source != "unknown"]
    if width < NARROW:
        return _stacked(known, width)
    shown = table("variable", "value", "from", "meaning")
    for row in known:
        shown.add_row(row.name, escape(row.value), row.source, _meaning(row), style=_style(row))
    return shown


def _stacked(rows: Sequence[settings.Row], width: int) -> Group:
    name, source = max(len(row.name) for row in rows), max(len(row.source) for row in rows)
    sizes = name, width - name - source - 4, source
    parts: list[RenderableType] = [_line(("variable", "value", "from"), sizes, "bold")]
    for row in rows:
        parts.append(_line((row.name, escape(row.value), row.source), sizes, _style(row)))
        parts.append(Padding(_meaning(row), (0, 0, 0, 4), style=_style(row) or "none"))
    return Group(*parts)


def _line(cells: Sequence[str], sizes: Sequence[int], style: str | None) -> Table:
    line = table("", "", "")
    line.show_header = False
    for column, size in zip(line.columns, sizes, strict=True):
        column.width = size
    line.add_row(*cells, style=style)
    return line


def _meaning(row: settings.Row) -> str:
    return escape(row.meaning.replace("`", ""))


def _style(row: settings.Row) -> str | None:
    return "red" if row.error else None
