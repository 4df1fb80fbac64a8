"""Roots: a system's files, made once from the archive and kept.

A root is made under a name that says it is unfinished, and gets its own name when it is whole, so that an interrupted
run leaves nothing that looks like a root.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.matrix.systems import System

CACHE = Path(
    os.environ.get("POOLMGR_MATRIX_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redis-poolmgr" / "matrix"
)

FORM = 1
"""Counts up with what is done to a root below, so that those of before are not taken for the new ones."""

NEEDED = {
    "debootstrap": "debootstrap",
    "unshare": "util-linux",
    "pivot_root": "util-linux",
    "setpriv": "util-linux",
    "ip": "iproute2",
    "git": "git",
}
"""Programs of this machine, and Debian's packages that have them."""

INSTALL = """\
set -eu
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d  # no service starts (invoke-rc.d(8))
apt-get -o Acquire::Check-Valid-Until=false update -qq
apt-get -o Acquire::Check-Valid-Until=false install -y -qq --no-install-recommends "$@"
apt-get clean
rm -rf /var/lib/apt/lists/*
"""


class UnavailableError(Exception):
    """Why there can be no matrix here, in one line."""


Say = Callable[[str], None]


def check() -> None:
    """Raise :class:`UnavailableError` if something that every run needs is missing."""
    if os.getuid() != 0:
        raise UnavailableError("needs root, to make namespaces and to run debootstrap")
    missing = sorted({package for program, package in NEEDED.items() if not shutil.which(program)})
    if missing:
        raise UnavailableError(f"not installed: {', '.join(missing)} (apt install {' '.join(missing)})")
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "--cgroup", "true"],
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        raise UnavailableError(f"no namespaces can be made here: {last_line(tried.stderr)}")


def root_of(system: System, say: Say, *, again: bool = False) -> Path:
    """The system's root, from the cache if it is there.

    Raises:
        UnavailableError: it is not, and the archive does not give it.
    """
    recipe = hashlib.sha256(json.dumps([FORM, INSTALL, system.packages]).encode()).hexdigest()[:12]
    home = CACHE / "roots" / f"{system.name}-{recipe}"
    if home.is_dir():
        age = (time.time() - home.stat().st_mtime) / 86400
        if not again and (system.days is None or age < system.days):
            say(f"root from the cache, {age:.0f} days old: {home}")
            return home
        shutil.rmtree(home)
    for old in (CACHE / "roots").glob(f"{system.name}-*"):
        shutil.rmtree(old)  # of another recipe, or half-made
    unfinished = home.with_name(home.name + ".unfinished")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    say(f"debootstrap {system.name} ...")
    _do(["debootstrap", "--variant=minbase", system.name, str(unfinished)], f"debootstrap has no root of {system.name}")
    say(f"installing {len(system.packages)} packages and what they need ...")
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "RUNLEVEL=1"]
    _do(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={unfinished}/proc", "chroot",
         str(unfinished), *environment, "sh", "-c", INSTALL, "install", *system.packages],
        f"the archive does not give what {system.name} needs",
    )  # fmt: skip
    os.utime(unfinished)
    unfinished.rename(home)
    return home


def bare_root(suite: str, say: Say) -> Path:
    """A release's smallest root, as an image of it is, from the cache if it is there.

    Raises:
        UnavailableError: it is not, and the archive does not give it.
    """
    home = CACHE / "roots" / f"bare-{suite}-{FORM}"
    if not home.is_dir():
        unfinished = home.with_name(f"{home.name}.unfinished-{os.getpid()}")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        say(f"debootstrap {suite} ...")
        _do(["debootstrap", "--variant=minbase", suite, str(unfinished)], f"debootstrap has no root of {suite}")
        try:
            unfinished.rename(home)
        except OSError:  # another run was quicker
            shutil.rmtree(unfinished)
    return home


def _do(command: list[str], failed: str) -> None:
    log = CACHE / "logs" / "root.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w+") as out:
        status = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        out.seek(0)
        said = out.read()
    if status:
        raise UnavailableError(f"{failed}: {last_line(said)} (all of it: {log})")


def last_line(text: str) -> str:
    """What a program said last, without its empty lines."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it says nothing")
