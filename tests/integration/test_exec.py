"""A process becomes another program where nothing of its addresses tells the two apart: no randomisation
(``setarch -R``, a debugger, some containers), the same interpreter, arguments of the same length."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import RedisServer, free_port, wait_for
from tests.program import Program
from tests.stopwatch import Stopwatch
from tests.supervisor_process import Start

SCRIPT = """
import os, sys, time
generation, program = int(sys.argv[1]), sys.argv[2]
if program == "works":
    import poolmgr
    pool = poolmgr.ConnectionPool.from_url(os.environ["URL"], timeout=10)
    began = time.monotonic()
    held = [pool.get_connection() for _ in range(6)]
    print(generation, time.monotonic() - began, flush=True)
    if os.environ.get("INHERIT"):
        for connection in held: os.set_inheritable(connection._sock.fileno(), True)
    sys.stdin.readline()
    after = os.environ.get("AFTER", "works")
    if generation: os.execv(sys.executable, [sys.executable, __file__, str(generation - 1), after])
else:
    print(generation, 0.0, flush=True)
    time.sleep(60)
"""

BACK = 1.0
"""Seconds within which the permits of the program before are back. Without that they never are."""


class Chain(Program):
    """A process that becomes the next program of the chain when it is told to."""

    def next(self) -> float:
        """The seconds that it took the present program to have its connections."""
        return float(self.says().split()[1])


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Callable[..., Chain]]:
    if shutil.which("setarch") is None:
        pytest.skip("needs setarch")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with contextlib.ExitStack() as stack:
        yield lambda generations, **environ: stack.enter_context(
            Chain(script, generations, "works", before=["setarch", "-R"], **environ)
        )


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server(port=free_port(), maxclients=9)


def test_each_program_has_the_permits_of_the_one_before(
    supervisor: Start, server: RedisServer, chain: Callable[..., Chain]
) -> None:
    """A budget of 8, and 6 for each."""
    running = supervisor(8, POOLMGR_LINGER="60")
    programs = chain(3, URL=server.url)
    programs.next()
    for _ in range(3):
        programs.tell()
        assert programs.next() < 5, "it waits for the charge of the program before"
    wait_for(lambda: running.server()["quarantine"] == 0, what="all that was charged is proven gone")
    assert running.server()["unproven"] == 0
    assert server.rejected() == 0


@pytest.mark.parametrize("inherit", ["", "1"])
def test_a_program_that_uses_no_pool_holds_no_permits(
    supervisor: Start, server: RedisServer, chain: Callable[..., Chain], inherit: str
) -> None:
    """Also where it was left the connections: what bears the name of the program before is ended."""
    running = supervisor(8, POOLMGR_LINGER="60")
    programs = chain(1, URL=server.url, AFTER="sleeps", INHERIT=inherit)
    programs.next()
    programs.tell()
    programs.next()
    watch = Stopwatch()
    wait_for(lambda: running.server()["charged"] + running.server()["quarantine"] == 0, 10, what="nothing is charged")
    assert watch.fair() < BACK + 2
    assert programs.process.poll() is None, "it lives"
    assert server.rejected() == 0


def test_it_is_seen_by_a_supervisor_that_starts_afterwards(
    supervisor: Start, server: RedisServer, chain: Callable[..., Chain]
) -> None:
    """The snapshot says by what the program that was charged is known."""
    before = supervisor(8, POOLMGR_LINGER="60")
    programs = chain(1, URL=server.url, AFTER="sleeps")
    programs.next()
    before.kill()
    programs.tell()
    programs.next()
    after = supervisor(8, POOLMGR_LINGER="60")
    other = after.member()
    wait_for(lambda: not after.status()["servers"] or after.server()["charged"] == 0, 10, what="nothing is charged")
    other.close()
