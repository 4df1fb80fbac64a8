"""A program of a test's own: a process with which the test talks by lines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests import warm
from tests.helpers import ROOT


class Program:
    """Python with these arguments, ``Program("-c", CODE, 7, URL="…")``, in an interpreter that finds this tree.

    Args:
        arguments: the interpreter's.
        before: what runs the interpreter: ``unshare …``.
        cwd: where it runs.
        environ: variables beside the test's own.
    """

    def __init__(self, *arguments: object, before: Sequence[str] = (), cwd: Path | str = ROOT, **environ: str) -> None:
        self.process: subprocess.Popen[str] = warm.Popen(
            [*before, sys.executable, *map(str, arguments)],
            # What it prints is there at once, and not when its buffer is full or it ends.
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environ},
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cold=any(warm.ABOUT_A_START.search(str(word)) for word in arguments),
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, line: object = "") -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def says(self) -> str:
        """Its next line; empty when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def ask(self, line: object = "") -> str:
        self.tell(line)
        return self.says()

    def ends(self, last: str = "") -> str:
        """Tell it a last word and wait until it has ended by itself, and well; what it still said."""
        said, _ = self.process.communicate(last, timeout=60)
        assert self.process.returncode == 0, said
        return said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


Programs = Callable[..., Program]
"""The fixture ``program``."""
