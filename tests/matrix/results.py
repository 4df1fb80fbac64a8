"""What ran on which system, and how it ended, as ``docs/platforms/results.json`` has it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.helpers import ROOT

FILE = ROOT / "docs" / "platforms" / "results.json"


class Figures(msgspec.Struct, kw_only=True):
    """One part: a folder of tests, the first minute, or the files for one server.

    Attributes:
        status: of the command that ran it; 0: well.
        commit: what ran; ``+`` at its end: with changes that were not committed.
    """

    passed: int = 0
    skipped: int = 0
    failed: int = 0
    seconds: float = 0
    status: int = 0
    date: str = ""
    commit: str = ""

    @property
    def well(self) -> bool:
        return not self.failed and not self.status

    @property
    def text(self) -> str:
        """For people: ``12 passed, 3 skipped, 0 failed``."""
        words = f"{self.passed} passed, {self.skipped} skipped, {self.failed} failed"
        return words if self.well or self.failed else f"{words}, status {self.status}"


class Found(msgspec.Struct, kw_only=True):
    """One system with one Python.

    Attributes:
        parts: by the name of the part: ``run``, a folder of ``tests``, ``server redis-server 8.0.2``.
    """

    title: str
    release: str = ""
    python: str = ""
    kernel: str = ""
    systemd: str = ""
    servers: dict[str, str] = msgspec.field(default_factory=dict)
    parts: dict[str, Figures] = msgspec.field(default_factory=dict)


Results = dict[str, Found]
"""By ``trixie``, or ``trixie with Python 3.13.5t``."""


def load(path: Path = FILE) -> Results:
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else {}


def save(results: Results, path: Path = FILE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(results))


def encode(results: Results) -> bytes:
    return msgspec.json.format(msgspec.json.encode(results, order="sorted"), indent=1) + b"\n"
