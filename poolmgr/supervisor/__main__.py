"""``python -m poolmgr.supervisor``: take the lock, listen, then load everything else.

The order matters: clients may connect (and wait in the queue) as soon as the socket listens, while the imports below
still run; and the lock is taken before the snapshot is read. A second supervisor that finds the lock taken ends at
once, with status 0: the one that was wanted is there.

Scripts that run now and then start one each time, and most of what that costs is imports. So it loads no package that
it has no use for, and unloads none at its end.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from poolmgr.supervisor.disk.singleton import Singleton


SWITCH = 0.0001
"""Seconds for which a worker thread may hold the interpreter while the event loop waits for it. Python's default is
5 ms, and the loop may wait three times for one message: when it wakes, when it has read, and when it has written."""

SPARED = ("greenlet", "rich", "ssl", "typing_extensions")
"""What structlog, asyncio and msgspec load if it is there, and do without. The event loop has no connection with TLS.
What has one, in a thread and to a server, loads ``ssl`` later."""


def main(arguments: list[str]) -> int:
    """Run a supervisor; returns the process's exit status."""
    import gc

    gc.disable()  # until all is loaded: what is loaded stays, and looking for garbage in it takes a sixth of the time
    from poolmgr import gil
    from poolmgr.spawn import extend_path

    extend_path()
    if not gil.held():
        return _fail(gil.REFUSED)
    spared = {name for name in SPARED if name not in sys.modules}
    sys.modules.update(dict.fromkeys(spared))  # type: ignore[arg-type]  # None: an import of it fails
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
    return _serve(path, singleton, listener, group, spared)


def _serve(path: str, singleton: Singleton, listener: socket.socket, group: str, spared: set[str]) -> int:
    import asyncio
    import gc
    import logging

    singleton.give_sign()  # on a busy machine this takes seconds, and must not look hung
    from poolmgr import settings as settings_of
    from poolmgr.errors import PoolmgrError

    heard = _is_heard()
    if heard:
        from poolmgr.logs import structured

    singleton.give_sign()
    from poolmgr.kernel import processes
    from poolmgr.supervisor.supervisor import Supervisor

    for name in spared:
        sys.modules.pop(name, None)
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
    if heard:
        structured.configure(settings)
    else:
        logging.disable()
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


def _is_heard() -> bool:
    """Whether its log goes anywhere: that of a supervisor which a script has started does not."""
    from poolmgr.spawn import output

    try:
        found = os.fstat(output())
    except OSError:
        return False
    return found.st_rdev != os.stat(os.devnull).st_rdev or not stat.S_ISCHR(found.st_mode)


def _tell_starter(error: str) -> None:
    from poolmgr.spawn import report_start

    report_start(error)


def _fail(text: str) -> int:
    from poolmgr.logs.redaction import printable

    _tell_starter(text)
    sys.stderr.write(f"poolmgr.supervisor: {printable(text)}\n")
    return 1


def _leave(status: int) -> None:
    """End without unloading what was loaded, which frees nothing that the kernel would not."""
    import atexit

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # there is none, or nobody reads it
            pass
    os._exit(status)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
