"""``poolmgr limits``: how each server's budget came about."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from poolmgr import settings, status, wire
from poolmgr.cli.ask import ask
from poolmgr.cli.output import console, print_json, table
from poolmgr.errors import SupervisorError


def command(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """How each server's budget came about: every bound that was looked at."""
    answer = ask(settings.load(), wire.Query("limits"))
    if not answer.ok:
        raise SupervisorError(answer.body)
    if as_json:
        print_json(answer.body)
        return
    try:
        found = status.load_limits(answer.body)
    except msgspec.DecodeError as error:
        raise SupervisorError(f"the supervisor's answer cannot be read ({error}): is it of another version?") from None
    out = console()
    if not found.servers:
        out.print("no process has asked for a connection yet")
    for server in found.servers:
        out.print(Text.from_markup(f"[bold]{escape(server.id)}[/bold]"))
        budget = "not known yet" if server.budget is None else f"budget {server.budget}"
        out.print(Text(f"  {server.derivation or budget}"))
        rows = table("bound", "value", "", numbers=("value",))
        for name, value, remark in server.parts:
            rows.add_row(escape(name), "-" if value is None else str(value), escape(remark))
        if server.parts:
            out.print(Padding(rows, (0, 0, 0, 2), expand=False))
