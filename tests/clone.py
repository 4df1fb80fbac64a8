"""A clone of this machine, as far as a process can see: another boot, and other files at the same paths.

Everything else is the same: machine id, host name, user, pid namespace, addresses.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

from poolmgr import own_tag, tags
from tests.fake_member import FakeMember
from tests.helpers import wait_for
from tests.supervisor_process import SupervisorProcess

BOOT_ID = "/proc/sys/kernel/random/boot_id"


def unavailable() -> str:
    """Why there can be no clones here; empty if there can."""
    if os.getuid() != 0:
        return "needs root, to mount"
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        return "unshare or nsenter is not installed"
    tried = subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, check=False)
    return tried.stderr.decode().strip()


class Clone:
    """Processes with ``command`` before their own run in it.

    Args:
        directory: what is in it is this clone's own.
        boot: False: another service of this very machine, which has a directory of its own (systemd's PrivateTmp=).
    """

    def __init__(self, directory: Path, *, boot: bool = True) -> None:
        self.directory = directory
        self.boot_id = str(uuid.uuid4()) if boot else Path(BOOT_ID).read_text().strip()
        script = f"mount -t tmpfs -o mode=700 none {directory} && echo ready && exec sleep 1000"
        if boot:
            (directory / "boot_id").write_text(f"{self.boot_id}\n")
            script = f"mount --bind {directory / 'boot_id'} {BOOT_ID} && {script}"
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self.command = ["nsenter", "--mount", f"--target={self._process.pid}", f"--wdns={Path.cwd()}"]
        self.outside = Path(f"/proc/{self._process.pid}/root{directory}")
        """Where this machine sees that directory."""

    def supervisor(self, path: str, budget: object = 12, **environ: str) -> SupervisorProcess:
        found = SupervisorProcess(
            str(self.outside / Path(path).name), REDIS_CONNECTION_BUDGET=str(budget), **environ, POOLMGR_SOCKET=path
        )
        found.command = self.command
        return found.start()

    def member(self, path: str) -> FakeMember:
        """This process, as it would be there."""
        tag = tags.find(own_tag.make(path))
        assert tag is not None
        boot = hashlib.blake2s(self.boot_id.encode()).hexdigest()[: len(tag.boot)]
        name = f"pm1.{own_tag.make(path).split('.')[1]}.{boot}.{tag.pid}.{tag.start}.{tag.salt}"
        return FakeMember(str(self.outside / Path(path).name), tag=name).connect()

    def end(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        wait_for(lambda: not self.outside.exists())
