"""A machine with a real systemd, for one test run: namespaces of its own on this machine's files.

systemd runs as process 1 of its own pid namespace, with a network of its own (loopback only). What it
writes to is private: /run, /tmp, /var/tmp and /var/log start empty, and /etc, /opt, /srv and /var/lib are
this machine's with private changes on top. Everything is gone with the machine, and the kernel kills
all of its processes when this one ends, however it ends. Else the next one would be disturbed: the control
groups of two machines have the same names. systemd must never be booted without a mount
namespace of its own: its tmpfiles rules would empty this machine's /tmp.

:attr:`Machine.share` is one directory that both sides see: ``/opt/share`` inside. ``python3`` inside is the
very Python that runs the tests, so that the packages installed here can be used; where it lies in a home
directory, it is shown at ``/opt/python``, for a service may not look into those.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.helpers import alive

TIED = ("setpriv", "--pdeathsig", "KILL")
"""What a program is started with that ends with its starter, however that ends (setpriv(1))."""

SHARE = "/opt/share"
PYTHON = "/opt/python"

BOOT = f"""\
set -e
mount --make-rprivate /
mkdir -p /mnt && mount -t tmpfs tmpfs /mnt
for directory in /etc /opt /srv /var/lib; do
  [ -d $directory ] || continue
  mkdir -p /mnt$directory/upper /mnt$directory/work
  mount -t overlay overlay -o lowerdir=$directory,upperdir=/mnt$directory/upper,workdir=/mnt$directory/work $directory
done
mkdir -p {SHARE}
mount --bind "$1" {SHARE}
[ "$2" = /usr ] || {{ mkdir -p {PYTHON} && mount --bind "$2" {PYTHON}; }}
for directory in /run /tmp /var/tmp /var/log; do mount -t tmpfs tmpfs $directory; done
# What was installed here for good is not what is tested.
rm -rf /opt/redis-poolmgr /etc/redis-poolmgr /etc/systemd/system/*poolmgr* /etc/systemd/system/redis-worker*
rm -rf /etc/sysusers.d/redis-poolmgr.conf /etc/tmpfiles.d/redis-poolmgr.conf
if [ "$2" != /usr ]; then  # where its library is looked for, if it has one
  mkdir -p /etc/systemd/system.conf.d
  printf '[Manager]\\nDefaultEnvironment=LD_LIBRARY_PATH={PYTHON}/lib\\n' >/etc/systemd/system.conf.d/python.conf
fi
ip link set lo up
export container=sandbox
exec {{systemd}} --system --unit=basic.target --show-status=0
"""


class CannotBootError(Exception):
    """Why no systemd can be had here."""


def systemd() -> str:
    """The program.

    Raises:
        CannotBootError: it is not here, or something else that is needed is missing.
    """
    if sys.platform != "linux":
        raise CannotBootError("needs Linux")
    if os.getuid() != 0:
        raise CannotBootError("needs to be root, to make namespaces")
    found = next((path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if Path(path).exists()), None)
    needed = "setpriv unshare nsenter ip systemctl journalctl systemd-analyze systemd-run curl ps pgrep runuser userdel"
    missing = [name for name in needed.split() if shutil.which(name) is None]
    if found is None or missing:
        raise CannotBootError(f"not installed: {', '.join(missing) or 'systemd'}")
    return found


def _base_python() -> Path:
    """The interpreter below a virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


class Machine:
    """Booted by :meth:`boot`, ended by :meth:`halt`."""

    def __init__(self) -> None:
        self.share = Path(tempfile.mkdtemp(prefix="pm-machine-"))
        self.share.chmod(0o755)
        self._python = "/usr" if Path("/usr/bin/python3").resolve() == _base_python() else sys.base_prefix
        self.path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        if self._python != "/usr":
            self.path = f"{PYTHON}/bin:{self.path}"
        self._outer: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def boot(self, timeout: float = 120.0) -> None:
        """Return when systemd is up.

        Raises:
            CannotBootError: with what it said.
        """
        log = self.share / "boot.log"
        script = BOOT.replace("{systemd}", systemd())
        unshare = [*TIED, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--ipc"]
        with log.open("wb") as out:
            self._outer = subprocess.Popen(
                [*unshare, "--cgroup", "--net", "sh", "-c", script, "boot", str(self.share), self._python],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._outer.poll() is None:
            self._pid = self._pid or self._find()
            if self._pid:
                state = self.run("systemctl is-system-running", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.02)
        said = log.read_text(errors="replace").strip()[-400:]
        self.halt()
        raise CannotBootError(f"systemd does not boot in namespaces here: {said or 'it says nothing'}")

    @property
    def pid(self) -> int:
        """Of its systemd."""
        return self._pid

    def _find(self) -> int:
        """systemd, as this machine numbers it."""
        assert self._outer is not None
        try:
            children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
            return next((int(c) for c in children if Path(f"/proc/{c}/comm").read_text().strip() == "systemd"), 0)
        except OSError:
            return 0

    def halt(self) -> None:
        """End it and everything that runs in it."""
        if self._outer is not None:
            self._outer.kill()
            self._outer.wait(10)
            deadline = time.monotonic() + 10
            while self._pid and alive(self._pid) and time.monotonic() < deadline:
                time.sleep(0.01)
        shutil.rmtree(self.share, ignore_errors=True)

    def start(self, script: str) -> subprocess.Popen[str]:
        """Run a shell script in it, as root."""
        enter = ["nsenter", "-t", str(self._pid), "-a"]
        environment = ["env", "-i", f"PATH={self.path}", "HOME=/root", "LANG=C.UTF-8", "SYSTEMD_COLORS=0"]
        if self._python != "/usr":
            environment.append(f"LD_LIBRARY_PATH={PYTHON}/lib")
        return subprocess.Popen(
            [*enter, *environment, "bash", "-euc", f"cd {SHARE}\n{script}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *, check: bool = True, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run a shell script in it, as root, and wait for its end."""
        process = self.start(script)
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        done = subprocess.CompletedProcess(script, process.returncode, out, err)
        if check and done.returncode:
            said = f"{out[-3000:]}\n{err[-3000:]}"
            journal = self.run("journalctl --no-pager --output=cat --lines=150", check=False).stdout
            raise AssertionError(f"status {done.returncode} of:\n{script}\n{said}\nthe journal:\n{journal}")
        return done

    def out(self, script: str) -> str:
        """What a script says."""
        return self.run(script).stdout.strip()

    def property(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.out(f"systemctl show --value --property={name} {unit}")

    def journal(self, unit: str) -> str:
        """What a unit has logged."""
        return self.out(f"journalctl --no-pager --output=cat --unit={unit}")
