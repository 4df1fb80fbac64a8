"""Names by which processes and their connections are recognised.

A *tag* names a process on the server: ``pm1.PLACE.BOOT.PID.START.RANDOM``. A connection's name is
its process's tag, a dash and a serial number, a dot and the *scope*, and in a fleet a dot and its host's *lease*,
after the user's own client name if there is one. The supervisor reads these names back from ``CLIENT LIST`` (rule S3)
to prove that connections are gone.

*Scope* says under which supervisor's ledger a connection was made. It is random, made with the first lock
file of a boot (:mod:`poolmgr.supervisor.disk.scope`), and sent to members when they register. *Boot* is a hash of the
kernel's boot id, which a clone of this machine does not share. *Place* is a hash of the machine id, the host
name, the process-id namespace, the user and the supervisor's socket path. An image or a lease can share or
change these, so *place* is not an identity: it only says that a connection may be ours, and must be counted. (Version
0.1.0 took it for the scope, and refuses a process with another one.)

*Lease* is the name under which the host has its part of the fleet's budget (:mod:`poolmgr.fleet`).
"""

from __future__ import annotations

import re

import msgspec

_TAG = re.compile(
    r"pm1\.([0-9a-f]{8})\.([0-9a-f]{6})\.(\d+)\.(\d+)\.([0-9a-f]{6})"
    r"(?:-(\d+)(?:\.([0-9a-f]{16})(?:\.([0-9a-f]{16})(?![0-9a-f]))?)?)?"
)


class Tag(msgspec.Struct, frozen=True, gc=False):
    """A tag taken apart. ``serial`` is 0 if the text does not name a single connection; ``scope`` and ``lease``
    are empty if it has none."""

    place: str
    boot: str
    pid: int
    start: int
    salt: str
    serial: int = 0
    scope: str = ""
    lease: str = ""

    @property
    def process(self) -> str:
        """The tag of the process, without the serial number and the scope."""
        return f"pm1.{self.place}.{self.boot}.{self.pid}.{self.start}.{self.salt}"


def find(text: str) -> Tag | None:
    """The tag inside a client name or ``LIB-NAME``, or None."""
    match = _TAG.search(text)
    if match is None:
        return None
    place, boot, pid, start, salt, serial, scope, lease = match.groups()
    return Tag(place, boot, int(pid), int(start), salt, int(serial or 0), scope or "", lease or "")


def name(tag: str, serial: int, scope: str, lease: str = "") -> str:
    """The name of a connection; the scope is empty if the supervisor sent none (version 0.1.0), and then there is no
    lease either."""
    if not scope:
        return f"{tag}-{serial}"
    return f"{tag}-{serial}.{scope}.{lease}" if lease else f"{tag}-{serial}.{scope}"
