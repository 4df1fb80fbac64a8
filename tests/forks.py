"""Forked children of a test's process."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

from tests.helpers import wait_for


def in_child(work: Callable[[], object]) -> int:
    """Run it in a forked child; the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended_well(pid: int, timeout: float = 10) -> None:
    """Wait until the child has ended, with status 0. One that hangs is killed."""
    statuses: list[int] = []

    def ended() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            statuses.append(status)
        return bool(statuses)

    try:
        wait_for(ended, timeout, what="the child ends")
    finally:
        if not statuses:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(statuses[0]) == 0
