"""What a person can do about a supervisor that is missing or does not answer, where this process runs.

systemd's commands are of use where systemd runs. Elsewhere a container starts the supervisor, or a person.
"""

from __future__ import annotations

import os

BOOTED = "/run/systemd/system"
"""A directory that exists where systemd is the first process (sd_booted(3))."""


def start() -> str:
    """How to start the supervisor where no process may start one by itself."""
    if os.path.isdir(BOOTED):
        return "run: systemctl start poolmgr.socket"
    return "start its container, or run: python -m poolmgr.supervisor"


def restart(pid: int = 0) -> str:
    """How to replace a supervisor that does not answer.

    Args:
        pid: its process; 0: not known, or not known to be one of ours.
    """
    command = "run: systemctl restart poolmgr" if os.path.isdir(BOOTED) else "restart its container"
    return f"{command}, or kill it: kill -9 {pid}" if pid > 1 else command
