"""The machine of the tests of services ends with them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, alive, wait_for
from tests.systemd import machine

STARTER = """
import subprocess, sys, time
from tests.systemd.machine import TIED
print(subprocess.Popen([*TIED, *sys.argv[1:]]).pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
def test_it_ends_with_a_test_run_that_is_killed() -> None:
    command = [sys.executable, "-c", STARTER, "sleep", "300"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        wait_for(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "sleep", what="setpriv has become it")
        assert alive(pid)
        starter.kill()
        wait_for(lambda: not alive(pid), what=f"{machine.TIED} ends it")
