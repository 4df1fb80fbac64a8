"""A debugger, as far as a process can tell: it stops all threads, and takes no note of their ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.helpers import kill

_DEBUGGER = """
import ctypes, os, sys
SEIZE, INTERRUPT = 0x4206, 0x4207
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p
for thread in map(int, os.listdir(f"/proc/{sys.argv[1]}/task")):
    for request in SEIZE, INTERRUPT:
        assert ptrace(request, thread, None, None) == 0, os.strerror(ctypes.get_errno())
os.write(1, b"has it")
sys.stdin.read()
"""


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """While a debugger holds a process; skips the test where there can be none. A process that ends meanwhile stays a
    zombie, with all its threads, until the debugger is gone."""
    debugger = subprocess.Popen(
        [sys.executable, "-c", _DEBUGGER, str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert debugger.stdin is not None
    assert debugger.stdout is not None
    with debugger.stdin, debugger.stdout:
        try:
            if debugger.stdout.read(6) != b"has it":
                pytest.skip("there is no ptrace here")
            yield
        finally:
            kill(debugger.pid)
            debugger.wait()
