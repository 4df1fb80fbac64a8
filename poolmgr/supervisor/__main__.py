"""``python -m poolmgr.supervisor``: take the lock, listen, then load everything else.

The order matters: clients may connect (and wait in the queue) as soon as the socket listens, while the imports below
still run; and the lock is taken before the snapshot is read. A second supervisor that finds the lock taken ends at
once, with status 0: the one that was wanted is there.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from poolmgr.supervisor.disk.singleton import Singleton


SWITCH = 0.0001
"""Seconds for which a worker thread may hold the interpreter while the event loop waits for it. Python's default is
5 ms, and the loop may wait three times for one message: when it wakes, when it has read, and when it has written."""


def main(arguments: list[str]) -> int:
    """Run a supervisor; returns the process's exit status."""
    import gc

    gc.disable()  # until all is loaded: what is loaded stays, and looking for garbage in it takes a sixth of the time
    from poolmgr import gil
    from poolmgr.spawn import extend_path

    extend_path()
    if not gil.held():
        return _fail(gil.REFUSED)
    from poolmgr.supervisor.disk.singleton import Singleton, TakenError, UnfitError

    path, group = _options(arguments)
    if not path:
        path = _default_path()
    try:
        singleton = Singleton(os.path.abspath(path))
        listener = singleton.listen()
    except TakenError:
        _tell_starter("")
        return 0
    except UnfitError as error:
        return _fail(str(error))
    return _serve(path, singleton, listener, group)


def _serve(path: str, singleton: Singleton, listener: socket.socket, group: str) -> int:
    import asyncio
    import gc

    singleton.give_sign()  # on a busy machine this takes seconds, and must not look hung
    from poolmgr import settings as settings_of
    from poolmgr.errors import PoolmgrError

    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # structlog loads it if it is there: a fifth of the start
    from poolmgr.logs import structured

    singleton.give_sign()
    from poolmgr.kernel import processes
    from poolmgr.supervisor.supervisor import Supervisor

    singleton.give_sign()

    os.environ["POOLMGR_SOCKET"] = path
    try:
        settings = settings_of.load()
        gid = _group(group)
    except (PoolmgrError, KeyError) as error:
        return _fail(str(error))
    if reason := processes.unfit():
        return _fail(f"{reason}; REDIS_CONNECTION_BUDGET=off does without a supervisor")
    if reason := settings_of.unenforced():
        return _fail(f"{reason}, so a supervisor has nothing to do: set REDIS_CONNECTION_BUDGET to a number or to auto")
    structured.configure(settings)
    sys.setswitchinterval(SWITCH)
    gc.freeze()  # the collector looks at what has been loaded no more: that would take it ten milliseconds each time
    gc.enable()
    _tell_starter("")

    async def run() -> None:
        await Supervisor(settings, singleton, listener, group=gid).run()

    asyncio.run(run())
    return 0


def _options(arguments: list[str]) -> tuple[str, str]:
    """``--socket PATH`` and ``--group NAME``; by hand, since argparse costs ten milliseconds."""
    values = {"--socket": os.environ.get("POOLMGR_SOCKET", "").strip(), "--group": ""}
    rest = list(arguments)
    while rest:
        name, mark, value = rest.pop(0).partition("=")
        if name in ("-h", "--help"):
            sys.stdout.write("usage: python -m poolmgr.supervisor [--socket PATH] [--group NAME]\n")
            raise SystemExit(0)
        if name not in values or (not mark and not rest):
            raise SystemExit(f"poolmgr.supervisor: {name!r} is not --socket PATH or --group NAME")
        values[name] = value if mark else rest.pop(0)
    return values["--socket"], values["--group"]


def _default_path() -> str:
    from poolmgr.settings import load
    from poolmgr.settings.paths import private_directory

    private_directory()
    return load().socket


def _group(name: str) -> int | None:
    if not name:
        return None
    import grp

    return grp.getgrnam(name).gr_gid


def _tell_starter(error: str) -> None:
    from poolmgr.spawn import report_start

    report_start(error)


def _fail(text: str) -> int:
    from poolmgr.logs.redaction import printable

    _tell_starter(text)
    sys.stderr.write(f"poolmgr.supervisor: {printable(text)}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
