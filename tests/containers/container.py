"""Pods and containers of namespaces: what a runtime gives an image, and nothing else of this machine.

A pod has a network, System V objects and a name of its own, and volumes. A container in it has its own files (the
image's, read-only), its own mounts and, unless the pod shares one, its own process numbers, of which its program is the
first. The program is started without capabilities, with the user's number that the image names.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.containers.image import Image
from tests.helpers import kill, status_of, wait_for
from tests.service import children_of
from tests.systemd.machine import TIED

HOLD = """\
set -eu
mount --make-rprivate /
mount -t tmpfs -o size=$2,mode=0777 tmpfs "$1/tmp"
mkdir "$1/tmp/volume"
chmod 0777 "$1/tmp/volume"
mount --bind "$1/tmp/volume" "$1/tmp"
hostname "$3"
ip link set lo up
exec "$4" -c "$5"
"""
"""A pod's first process. Its volume is as Kubernetes makes one: root's, with mode 0777 and no sticky bit."""

REAP = """\
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
signal.signal(signal.SIGCHLD, lambda *_: None)
print("ready", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        signal.pause()
"""

ENTER = """\
set -eu
mount --make-rprivate /
root=$1 lower=$2 volume=$3 secrets=$4
shift 4
mount -t overlay overlay -o "lowerdir=$lower" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "$root/dev/${node%:*}" c 1 "${node#*:}"; done
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mount --bind "$volume" "$root/tmp"
mount --bind "$secrets" "$root/mnt"
mount -o remount,bind,ro "$root/mnt"
cd "$root"
pivot_root . opt
cd "$DIRECTORY"
umount -l /opt
exec "$@"
"""

ALONE = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--clear-groups", "--pdeathsig=KILL"]
"""The last one again: the kernel forgets it when a process gets another user (prctl(2)), and a container would outlive
its runtime."""


class Pod:
    """A pod: its network, and its volume, of which all its containers have a part of their own process numbers.

    Args:
        shares_processes: ``shareProcessNamespace: true``.
        size: of the volume.
        name: its own, and its host's.
    """

    def __init__(self, *, shares_processes: bool = False, size: str = "32m", name: str = "pod") -> None:
        self.name = name
        self.shares_processes = shares_processes
        self.home = Path(tempfile.mkdtemp(prefix="pm-pod-", dir="/tmp"))
        for directory in ("tmp", "root", "secrets"):
            (self.home / directory).mkdir()
        (self.home / "secrets").chmod(0o755)
        self.containers: list[Container] = []
        kinds = [
            "--mount",
            "--net",
            "--uts",
            "--ipc",
            *(["--pid", "--fork", "--kill-child"] if shares_processes else []),
        ]
        self._holder = subprocess.Popen(
            [*TIED, "unshare", *kinds, "sh", "-c", HOLD, "pod", str(self.home), size, name, sys.executable,
             REAP],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        (self.pid,) = children_of(self._holder.pid) if shares_processes else (self._holder.pid,)

    @property
    def volume(self) -> Path:
        """What containers see as ``/tmp``."""
        return Path(f"/proc/{self.pid}/root{self.home}/tmp")

    def inside(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """A program of this machine, in the pod's network."""
        return subprocess.Popen([*TIED, "nsenter", "-t", str(self.pid), "-n", *command], **options)

    def secret(self, name: str, text: str) -> str:
        """A file that containers see below ``/mnt``; its path there."""
        new = self.home / "secrets" / f".{name}"
        new.write_text(text)
        new.rename(self.home / "secrets" / name)
        return f"/mnt/{name}"

    def run(self, image: Image, *, command: list[str] | None = None, **environ: Any) -> Container:
        found = Container(self, image, [*image.entry, *(command or image.command)], environ)
        self.containers.append(found)
        return found

    def end(self) -> None:
        for container in self.containers:
            container.remove()
        self._holder.kill()
        self._holder.wait(10)
        shutil.rmtree(self.home, ignore_errors=True)


class Container:
    """One container, from its start on."""

    def __init__(self, pod: Pod, image: Image, command: list[str], environ: Mapping[str, str]) -> None:
        self.pod, self.image = pod, image
        self.environ = {**image.environ, **environ}
        self.logs = {name: pod.home / f"{len(pod.containers)}.{name}" for name in ("stdout", "stderr")}
        uid, _, gid = image.user.partition(":")
        self._user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", *ALONE]
        words = [f"{name}={value}" for name, value in self.environ.items()]
        join = ["nsenter", "-t", str(pod.pid), "-m", "-n", "-u", "-i", *(["-p"] if pod.shares_processes else [])]
        own = ["unshare", "--mount", *([] if pod.shares_processes else ["--pid", "--fork", "--kill-child"])]
        with self.logs["stdout"].open("wb") as out, self.logs["stderr"].open("wb") as err:
            self._runtime = subprocess.Popen(
                [*TIED, *join, *own, "sh", "-c", ENTER, "container", str(pod.home / "root"), image.lower,
                 str(pod.home / "tmp"), str(pod.home / "secrets"), *self._user, "env", "-i", *words, *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env={**os.environ, "DIRECTORY": image.directory},
            )  # fmt: skip
        self._main = 0

    @property
    def pid(self) -> int:
        """Its first process, as this machine numbers it."""
        if not self._main:
            self._main = wait_for(self._find, 20, what="the container's program is there")
        return self._main

    def _find(self) -> int:
        """Below nsenter, which forks where it joins a namespace of processes, and unshare, which forks where it makes
        one."""
        if self._runtime.poll() is not None:
            raise AssertionError(f"the container has ended with {self._runtime.returncode}: {self.log}")
        (child,) = children_of(self._runtime.pid) or (0,)
        return child if child and b"unshare" not in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0] else 0

    @property
    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.logs.values())

    def lines(self) -> list[str]:
        return self.log.splitlines()

    def events(self, name: str = "") -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.lines() if line.startswith("{")]
        return [event for event in found if not name or event["event"] == name]

    @property
    def running(self) -> bool:
        return self._runtime.poll() is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A signal to its first process. SIGKILL is for all of them: so a runtime ends what is in its control group."""
        for pid in self._all() if number == signal.SIGKILL else [self.pid]:
            kill(pid, number)

    def _all(self) -> list[int]:
        """Its processes, as this machine numbers them: all that have its files."""
        found, files = [], os.stat(f"/proc/{self.pid}/ns/mnt").st_ino
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.stat(f"/proc/{name}/ns/mnt").st_ino == files:
                    found.append(int(name))
        return found

    def wait(self, timeout: float = 30.0) -> int:
        """Its exit status, as a runtime reports it."""
        status = status_of(self._runtime, timeout)
        return 128 - status if status < 0 else status

    def stop(self, timeout: float = 40.0) -> int:
        """As a runtime stops it: its stop signal to its first process, and no more."""
        self.kill(signal.Signals[self.image.stop])
        return self.wait(timeout)

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A program in the container, with its user and its environment, as a probe is run."""
        words = [f"{name}={value}" for name, value in self.environ.items()]
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-n", "-u", "-i", "-p", "-r", "-w", *self._user, "env", "-i", *words,
             *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def processes(self) -> dict[int, str]:
        """All processes in it, by their numbers there; a zombie is called that."""
        script = "import glob;[print(open(p).read().strip()) for p in glob.glob('/proc/[0-9]*/stat')]"
        found = {}
        for line in self.exec("python3", "-c", script).stdout.splitlines():
            number, _, rest = line.partition(" (")
            name, _, rest = rest.rpartition(") ")
            found[int(number)] = "zombie" if rest.startswith("Z") else name
        return found

    def remove(self) -> None:
        if self.running:
            with contextlib.suppress(OSError, AssertionError):
                self.kill()
            self._runtime.kill()
            self._runtime.wait(10)
        print(f"---- a container's log\n{self.log[-6000:]}")
