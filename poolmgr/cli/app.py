"""The subcommands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

import poolmgr
from poolmgr.cli import budget, config, fleet, limits, status

app = typer.Typer(
    name="poolmgr",
    help="One Redis connection budget for all processes of this host: see who holds what, and change it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"redis-poolmgr {poolmgr.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    pass


app.command("status")(status.command)
app.command("limits")(limits.command)
app.command("budget")(budget.command)
app.command("config")(config.command)
app.add_typer(fleet.app, name="fleet")
