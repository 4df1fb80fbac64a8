"""The command ``poolmgr``: look at the budget and change it. A file for each subcommand.

The command asks the supervisor and prints the answer. It must never start a supervisor or decide anything.
"""

from __future__ import annotations

import gc
import sys

from poolmgr.errors import PoolmgrError


def main() -> None:
    """Run the command line; an error of ours is one line on standard error and exit status 1."""
    gc.disable()  # looking for garbage in what is being loaded takes a seventh of the time
    from poolmgr.cli.app import app

    gc.freeze()
    gc.enable()

    try:
        app()
    except PoolmgrError as error:
        from poolmgr.cli.output import complain

        complain(f"Error: {error}")
        raise SystemExit(1) from None
    except BrokenPipeError:  # | head
        sys.stderr.close()
        raise SystemExit(141) from None
