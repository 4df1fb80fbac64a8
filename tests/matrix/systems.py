"""Which systems there are, and what is installed in each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.helpers import ROOT

ALWAYS = ("python3", "python3-dev", "git", "ca-certificates", "netbase", "libffi-dev", "dbus")
"""What a root has beside what CI installs: what every installed system has, and what wheels are built with."""


@dataclass(frozen=True)
class System:
    """One release of Debian.

    Attributes:
        name: the archive's word for it, and ours.
        title: what the report calls it.
        servers: the programs from its archive with which the files of :data:`tests.matrix.served.FILES` run.
        days: how old a kept root may be; None: as old as it likes, for the release does not move.
    """

    name: str
    title: str
    servers: tuple[str, ...] = ("redis-server", "valkey-server")
    days: int | None = None

    @property
    def packages(self) -> tuple[str, ...]:
        """What is installed in it beside its base: the programs that CI installs here, and the servers."""
        return tuple(sorted({*ALWAYS, *ci_packages(), *self.servers}))


SYSTEMS = {
    system.name: system
    for system in (
        System("bookworm", "Debian 12", servers=("redis-server",)),
        System("trixie", "Debian 13"),
        System("sid", "Debian unstable", days=14),
    )
}


def ci_packages() -> set[str]:
    """The packages that ``.ci/run`` installs where their programs are missing: its lines ``need PROGRAM PACKAGE``, and
    what it adds to ``missing`` itself."""
    text = (ROOT / ".ci" / "run").read_text()
    found = set(re.findall(r"^need \S+ (\S+)$", text, re.MULTILINE))
    found.discard("debootstrap")  # a root has no network to make another one with
    for words in re.findall(r"missing\+=\(([a-z0-9 .+-]+)\)", text):
        found.update(words.split())
    return found
