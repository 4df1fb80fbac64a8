"""Prints the example environment file, made from the table of all variables.

    python deploy/systemd/environment.py >deploy/systemd/environment.example

A test holds the two together.
"""

from __future__ import annotations

import sys
from pathlib import Path

HEAD = """\
# Environment of poolmgr.service and redis-worker.service: every variable that they read.
#
# The format is systemd's (EnvironmentFile= in systemd.exec(5)): NAME=VALUE, no "export", no shell. A line
# that is commented out shows the default, or an example if there is no default. The file is read when a
# unit starts, so after a change:
#   systemctl restart poolmgr.service redis-worker.service
# Both units read this file. The supervisor's environment decides the budget.
"""

BY_THE_UNITS = {
    "POOLMGR_SOCKET": "The units say so; to change it, change ListenStream= of poolmgr.socket too.",
    "POOLMGR_AUTOSTART": "redis-worker.service says 0: there only systemd starts the supervisor.",
    "POOLMGR_METRICS": "poolmgr.service says 127.0.0.1:9108.",
}
"""Remarks on the variables that a unit sets itself."""


def render() -> str:
    """The whole file."""
    from poolmgr.cli.documents import environment_file

    return environment_file(HEAD, BY_THE_UNITS) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.stdout.write(render())
