"""``poolmgr budget SERVER N``: change a server's budget while everything runs."""

from __future__ import annotations

from typing import Annotated

import typer

from poolmgr import settings, wire
from poolmgr.cli.ask import ask
from poolmgr.cli.output import console
from poolmgr.errors import SettingsError, SupervisorError
from poolmgr.settings import parsers


def command(
    server: Annotated[
        str, typer.Argument(help="host:port or the path of its Unix socket, as poolmgr status shows it.")
    ],
    budget: Annotated[
        str,
        typer.Argument(
            metavar="N|auto|reset",
            help="Connections of all processes together; auto: what the server leaves; reset: as the environment says.",
        ),
    ],
) -> None:
    """Change a server's budget live. It holds over restarts of the supervisor; connections in use are not cut."""
    loaded = settings.load()
    try:
        key = parsers.endpoint_key(server)
    except ValueError:
        raise SettingsError(
            f"SERVER {parsers.conceal(server)!r} is not a server; give HOST:PORT, HOST or /PATH"
        ) from None
    try:
        number = "reset" if budget.strip() == "reset" else parsers.budget(budget.strip())
    except ValueError:
        raise SettingsError(
            f"N {parsers.conceal(budget)!r} is not a budget; give a whole number from 1 to 1000000, auto or reset"
        ) from None
    answer = ask(loaded, wire.SetBudget(server=key, budget=str(number)))
    if not answer.ok:
        raise SupervisorError(answer.body)
    console().print(answer.body, markup=False)
