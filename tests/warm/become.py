"""A forked process becomes the program that it is to be: its name, environment, descriptors and path."""

from __future__ import annotations

import ctypes
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PR_SET_NAME, PR_SET_MM, PR_SET_MM_MAP = 15, 35, 14

LIBC: Any = ctypes.CDLL(None, use_errno=True)
_kept: list[Any] = []


class _Map(ctypes.Structure):
    """``struct prctl_mm_map`` of linux/prctl.h."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in (
            "start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack",
            "arg_start", "arg_end", "env_start", "env_end", "auxv",
        )),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    ]  # fmt: skip


def rename(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Have ``/proc`` show these (prctl(2), PR_SET_MM_MAP); whether it does."""
    words = b"".join(os.fsencode(word) + b"\0" for word in argv)
    variables = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environ.items())
    place = ctypes.create_string_buffer(words + variables)
    _kept.append(place)
    begin = ctypes.addressof(place)
    # From proc(5): the numbers there begin with 1, and the first two are left of the bracket.
    stat = [int(word) for word in Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[1:]]
    start_code, end_code, start_stack = stat[22:25]
    start_data, end_data, start_brk = stat[41:44]
    LIBC.sbrk.restype = ctypes.c_void_p
    wanted = _Map(
        start_code, end_code, start_data, end_data, start_brk, LIBC.sbrk(0), start_stack,
        begin, begin + len(words), begin + len(words), begin + len(words + variables), 0, 0, 0xFFFFFFFF,
    )  # fmt: skip
    return bool(LIBC.prctl(PR_SET_MM, PR_SET_MM_MAP, ctypes.byref(wanted), ctypes.sizeof(wanted), 0) == 0)


def become(job: dict[str, Any], standard: list[int]) -> None:
    """A process as if it had been started so."""
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
    os.closerange(3, 1024)
    os.chdir(job["cwd"])
    os.umask(job["umask"])
    environ = job["environ"]
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    os.environ.update(environ)
    rename(
        job["argv"] if "script" not in job or job["argv"][0] == sys.executable else [sys.executable, *job["argv"]],
        environ,
    )
    name = os.path.basename(job["script"] if "script" in job and job["argv"][0] != sys.executable else sys.executable)
    LIBC.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    sys.dont_write_bytecode = bool(environ.get("PYTHONDONTWRITEBYTECODE"))
    if environ.get("PYTHONFAULTHANDLER"):
        import faulthandler

        faulthandler.enable()
    _open_standard(bool(environ.get("PYTHONUNBUFFERED")))
    words = job["argv"] if job["argv"][0] != sys.executable else job["argv"][3 if "dev" in job else 1 :]
    if "script" in job:
        first = str(Path(job["script"]).resolve().parent)
        sys.argv = words
    else:
        first = "" if "code" in job else os.getcwd()
        sys.argv = [words[0], *words[2:]]
    given = [os.path.abspath(entry) for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [first, *given, *(entry for entry in sys.path[1:] if entry not in given)]
    for entry in [entry for entry, finder in sys.path_importer_cache.items() if finder is None]:
        del sys.path_importer_cache[entry]  # it may be there now; a finder sees for itself that its directory is newer


def _open_standard(unbuffered: bool) -> None:
    """As a start does, from what the descriptors are now."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        before = getattr(sys, f"__{name}__")
        raw = io.FileIO(number, mode, closefd=False)
        raw.name = f"<{name}>"
        buffer = io.BufferedReader(raw) if mode == "r" else raw if unbuffered else io.BufferedWriter(raw)
        lines = not unbuffered and (name == "stderr" or os.isatty(number))
        opened = io.TextIOWrapper(
            buffer, before.encoding, before.errors, line_buffering=lines, write_through=unbuffered
        )
        opened.mode = mode  # type: ignore[misc]
        setattr(sys, name, opened)
        setattr(sys, f"__{name}__", opened)
