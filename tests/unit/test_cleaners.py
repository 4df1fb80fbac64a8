"""What keeps cleaners of /tmp away is a lock on the directory (a real one: tests/integration/test_http_token.py)."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from poolmgr.kernel import cleaners
from poolmgr.supervisor.disk.singleton import Singleton


def is_locked(directory: Path) -> bool:
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def test_many_may_lock_it_and_it_is_free_after_the_last(short_dir: Path):
    held = [cleaners.keep_away(short_dir) for _ in range(3)]
    for handle in held:
        assert is_locked(short_dir)
        assert not os.get_inheritable(handle)
        os.close(handle)
    assert not is_locked(short_dir)


def test_a_directory_that_others_may_write_is_theirs_too(short_dir: Path):
    short_dir.chmod(0o777)
    before = len(os.listdir("/proc/self/fd"))
    assert cleaners.keep_away(short_dir) == -1
    assert cleaners.keep_away(short_dir / "none") == -1
    assert len(os.listdir("/proc/self/fd")) == before
    assert not is_locked(short_dir)


def test_somebodys_exclusive_lock_is_respected(short_dir: Path):
    handle = os.open(short_dir, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert cleaners.keep_away(short_dir) == -1
    os.close(handle)


def test_a_supervisor_does(short_dir: Path):
    taken = Singleton(str(short_dir / "s"))
    assert is_locked(short_dir)
    taken.remove()
