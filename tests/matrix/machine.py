"""A root with a layer of its own on top, and commands that run in it, in namespaces of their own.

Of this machine they see the kernel and nothing else: not its files, its processes, its network, its control groups or
its System V objects. What they write goes to the layer, which :meth:`Machine.remove` takes away. While packages are
fetched, and only then, they share this machine's network.

systemd can be booted in it, as ``tests/systemd`` does: the control groups of a run are its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.helpers import ROOT
from tests.matrix.roots import CACHE
from tests.systemd.machine import TIED

CLONE = "/clone"
SHARED = "/shared"
"""Where the command finds the clone, and a directory that both sides write to."""

TRUST = "/etc/ssl/certs/ca-certificates.crt"

OUTER = """\
set -eu
mount --make-rprivate /
group=$2/group
mkdir -p $group
mount -t cgroup2 cgroup2 $group
mkdir -p $group/$1
echo $$ >$group/$1/cgroup.procs
umount $group
shift
exec unshare --cgroup sh -c "$INNER" matrix "$@"
"""

INNER = """\
set -eu
layer=$1 root=$2 wheels=$3 prefix=$4 network=$5
shift 5
m=$layer/root
mount -t overlay overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work" $m
mount -t proc proc $m/proc
mount -t sysfs sysfs $m/sys
mount -t cgroup2 cgroup2 $m/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $m/dev
for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 $m/dev/${node%:*} c 1 ${node#*:}; done
mknod -m 666 $m/dev/tty c 5 0
mkdir $m/dev/pts $m/dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts $m/dev/pts
ln -s pts/ptmx $m/dev/ptmx
ln -s /proc/self/fd $m/dev/fd
ln -s /proc/self/fd/0 $m/dev/stdin
ln -s /proc/self/fd/1 $m/dev/stdout
ln -s /proc/self/fd/2 $m/dev/stderr
mount -t tmpfs -o mode=1777 tmpfs $m/dev/shm
mount -t tmpfs -o mode=1777 tmpfs $m/tmp
mount -t tmpfs -o mode=755 tmpfs $m/run
mkdir -p $m/wheels $m/shared $m/old
mount --bind "$wheels" $m/wheels
mount --bind $layer/shared $m/shared
if [ -n "$prefix" ]; then
  mkdir -p "$m$prefix"
  mount --bind "$prefix" "$m$prefix"
  mount -o remount,bind,ro "$m$prefix"
fi
hostname matrix
printf '127.0.0.1 localhost matrix\\n::1 localhost\\n' >$m/etc/hosts
echo matrix >$m/etc/hostname
if [ "$network" = yes ]; then
  for file in /etc/resolv.conf {trust}; do
    [ ! -e $file ] || cp -L --remove-destination $file $m$file
  done
else
  mount -o remount,bind,ro $m/wheels
  rm -f $m/etc/resolv.conf
  : >$m/etc/resolv.conf  # a file that tests show another one in the place of
  ip link set lo up
fi
cd $m
pivot_root . old
cd /clone
umount -l /old
rmdir /old
# Not by exec: this shell is process 1, and takes in what is orphaned.
"$@"
exit $?
""".replace("{trust}", TRUST)


class Machine:
    """One root with a layer.

    Args:
        root: a system's files; they are not written to.
        layer: keep what is written there, in the cache, under this name; empty: none that stays.
        prefix: of a Python that is not the root's, shown at the same path.
    """

    def __init__(self, root: Path, *, layer: str = "", prefix: Path | None = None) -> None:
        self._root, self._prefix = root, prefix
        layers = CACHE / "layers"
        layers.mkdir(parents=True, exist_ok=True)
        self._stays = bool(layer)
        self._layer = layers / layer if layer else Path(tempfile.mkdtemp(prefix="run-", dir=layers))
        for name in ("root", "upper", "work", "shared", "wheels"):
            (self._layer / name).mkdir(parents=True, exist_ok=True)
        self.wheels = self._layer / "wheels"
        self.shared = self._layer / "shared"

    def put_clone(self) -> None:
        """A clone of this checkout, with what is not committed yet."""
        home = self._layer / "upper" / CLONE.strip("/")
        fresh = self._layer / "clone"
        shutil.rmtree(fresh, ignore_errors=True)
        git("clone", "--quiet", "--no-hardlinks", str(ROOT), str(fresh))
        for name in git("ls-files", "-z", "--modified", "--others", "--exclude-standard").split("\0"):
            source, target = ROOT / name, fresh / name
            if name and source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        for name in git("ls-files", "-z", "--deleted").split("\0"):
            if name:
                (fresh / name).unlink(missing_ok=True)
        if (home / ".venv").is_dir():
            (home / ".venv").rename(fresh / ".venv")
        shutil.rmtree(home, ignore_errors=True)
        fresh.rename(home)

    def call(
        self,
        command: list[str],
        log: Path,
        *,
        environ: Mapping[str, str] | None = None,
        network: bool = False,
    ) -> int:
        """Run a command in it, as root, in the clone; its exit status."""
        group = f"poolmgr-matrix-{os.getpid()}"
        kinds = ["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]
        words = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        words += [f"{name}={value}" for name, value in (environ or {}).items()]
        wheels, prefix = str(self.wheels), str(self._prefix or "")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            try:
                return subprocess.call(
                    [*TIED, "unshare", *kinds, *([] if network else ["--net"]), "sh", "-c", OUTER, "matrix", group,
                     str(self._layer), str(self._root), wheels, prefix, "yes" if network else "no",
                     "env", "-i", *words, *command],
                    env={**os.environ, "INNER": INNER},
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                )  # fmt: skip
            finally:
                remove_group(group)

    def out(self, command: str) -> str:
        """What a shell command prints in it; empty if it fails."""
        with tempfile.TemporaryDirectory() as place:
            log = Path(place) / "log"
            status = self.call(["sh", "-c", command], log)
            return "" if status else log.read_text().strip()

    def remove(self) -> None:
        """Take the layer away, unless it is to stay."""
        if not self._stays:
            shutil.rmtree(self._layer, ignore_errors=True)


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


def remove_group(group: str) -> None:
    """Remove the run's control group, and those below it; all their processes have ended."""
    script = 'mount -t cgroup2 cgroup2 "$1" && [ ! -d "$1/$2" ] || find "$1/$2" -depth -type d -exec rmdir {} +'
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", place, group], capture_output=True)
