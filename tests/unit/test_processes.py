"""Whether a process lives, also where that cannot be found out just now."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.helpers import ROOT

PRELUDE = """
import asyncio, atexit, contextlib, os, resource, subprocess
from poolmgr import tags
from poolmgr.kernel import processes
from poolmgr.supervisor.clients.watch import Watch
from poolmgr.budget.accounts import Identity

other = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
atexit.register(other.kill)
other.stdin.write(b"\\n")
other.stdout.read(1)  # it runs: Popen returns in the middle of exec, when its auxiliary vector is not there yet
process = Identity("tag", other.pid, processes.start_time(other.pid), processes.program(other.pid))
gone = []
loop = asyncio.new_event_loop()
watch = Watch(loop, gone.append)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

@contextlib.contextmanager
def without_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (os.open("/dev/null", os.O_RDONLY) + 1, hard))
    try:
        try:
            os.open("/dev/null", os.O_RDONLY)
            raise SystemExit("there is one left")
        except OSError:
            pass
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

def end():
    other.kill()
    other.wait()

def passes(seconds=0.02):
    loop.run_until_complete(asyncio.sleep(seconds))
"""


def run(code: str) -> None:
    """In a process of its own, for it uses up its descriptors."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_without_descriptors_nobody_is_declared_dead() -> None:
    run(
        """
        with without_descriptors():
            assert processes.lives(process)
            assert watch.add(process)
            watch.tick()
        assert gone == []
        watch.tick()  # now it is followed as it should be
        end()
        passes()
        assert gone == ["tag"], gone
        assert not processes.lives(process)
        """
    )


def test_who_ends_before_it_can_be_followed_is_noticed_later() -> None:
    run(
        """
        with without_descriptors():
            assert watch.add(process)
            other.kill()
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
            watch.tick()
            assert gone == []
        watch.tick()
        assert gone == ["tag"], gone
        """
    )


def test_a_pid_that_has_changed_hands_is_not_the_process() -> None:
    run(
        """
        later = Identity("tag", process.pid, process.start + 1, process.program)
        assert not processes.lives(later)
        assert not watch.add(later)
        assert processes.lives(process)
        """
    )
