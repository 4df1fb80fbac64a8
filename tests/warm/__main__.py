"""The warm Python: ``python -m tests.warm DESCRIPTOR``, of a socket on which the jobs come."""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any

from tests.warm.become import LIBC, become, rename
from tests.warm.ending import end_of, leave
from tests.warm.link import CLONE, CLONE_PARENT, LONGEST
from tests.warm.loaded import load


def _serve(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each job; returns in the child, with its job and its standard descriptors."""
    while True:
        size, standard, _, _ = socket.recv_fds(link, 64, 3)
        if not size:
            os._exit(0)
        data = b""
        while len(data) < int(size):
            data += link.recv(LONGEST)
        ctypes.pythonapi.PyOS_BeforeFork()
        pid = LIBC.syscall(CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            ctypes.pythonapi.PyOS_AfterFork_Child()
            return json.loads(data), standard
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        link.send(b"%d" % pid)
        for descriptor in standard:
            os.close(descriptor)


def _main() -> Any:
    """In each child: what it is to run."""
    import gc

    gc.disable()
    atexit.register(leave)  # the first of all, so the last one to run
    load()
    with socket.socket(fileno=int(sys.argv[1])) as link:
        able = rename(["tests.warm"], os.environ)
        link.send(b"able" if able else b"not")
        if not able:
            os._exit(0)
        gc.collect()
        gc.freeze()
        job, standard = _serve(link)
        link.detach()
    gc.enable()
    become(job, standard)
    return job


def _run(job: dict[str, Any]) -> None:
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    usual: dict[str, Any] = {} if sys.version_info >= (3, 14) else {"__annotations__": {}}
    main.__dict__.update(__builtins__=__builtins__, **usual)
    if "module" in job:
        import runpy

        runpy._run_module_as_main(job["module"])  # type: ignore[attr-defined]  # as -m does
    elif "code" in job:
        exec(compile(job["code"], "<string>", "exec"), main.__dict__)
    else:
        main.__dict__.update(__file__=job["script"], __cached__=None)
        exec(compile(Path(job["script"]).read_bytes(), job["script"], "exec"), main.__dict__)


if __name__ == "__main__":
    mine = _main()
    end_of(lambda: _run(mine))
