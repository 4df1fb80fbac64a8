"""Hosts of a fleet that are played by processes of their own (:mod:`bench.apps.hosts`), so that what they measure does
not wait for the process that plays all others."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from tests.helpers import ROOT


class Hosts:
    """One such process. Use it as a context manager, which ends it."""

    def __init__(self, port: int, fleet: str, budget: int, demand: int = 2) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.apps.hosts", str(port), fleet, str(budget), str(demand)],
            cwd=ROOT, env=dict(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def says(self) -> str:
        """The answer to what it was told.

        Raises:
            RuntimeError: it has failed.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError("a process that plays hosts has failed")
        return line

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.says()

    def __enter__(self) -> Hosts:
        assert self.says() == "ready"
        return self

    def __exit__(self, *_: Any) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            self._process.stdout.close()
