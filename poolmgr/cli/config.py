"""``poolmgr config``: every variable, its value, and where it came from."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from poolmgr import settings
from poolmgr.cli import documents
from poolmgr.cli.output import NARROW, WIDE, console, print_json, table


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
    for row in rows:
        if row.error:
            print(f"{'Warning' if row.source == 'unknown' else 'Error'}: {row.error}", file=sys.stderr)
    if any(row.error and row.source != "unknown" for row in rows):
        raise typer.Exit(1)


def render(rows: Iterable[settings.Row], width: int = WIDE) -> Table:
    """The variables as they are shown to people, in so many columns: where there are few, without their meanings."""
    last = ["meaning"] if width >= NARROW else []
    shown = table("variable", "value", "from", *last)
    for row in rows:
        if row.source != "unknown":
            meaning = row.meaning.replace("`", "")
            shown.add_row(
                row.name,
                escape(row.value),
                row.source,
                *(escape(meaning) for _ in last),
                style="red" if row.error else None,
            )
    return shown
