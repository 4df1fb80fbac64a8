"""Where no supervisor can be had, callers hear why at once; and where one can, nothing is said of what came before."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from poolmgr import launch, settings
from poolmgr.exceptions import ConnectionPoolTimeoutError, SupervisorError
from poolmgr.member.member import Member
from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import RedisServer, free_port, kill, python
from tests.stopwatch import Stopwatch
from tests.supervisor_process import Start
from tests.threads import Calls


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server(port=free_port(), maxclients=16)


@pytest.fixture
def not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLMGR_AUTOSTART", "0")


def test_where_none_may_be_started_callers_hear_of_it_at_once(isolated, not_started, server, supervisor: Start) -> None:
    member = Member(settings.load())
    pool = ConnectionPool(host="127.0.0.1", port=server.port, member=member, timeout=30)
    try:
        for _ in range(2):
            watch = Stopwatch()
            with pytest.raises(ConnectionPoolTimeoutError, match=r"POOLMGR_AUTOSTART=0 forbids starting one; "):
                pool.get_connection()
            assert watch.fair() < 5, "it would be waited for ten seconds"
        supervisor(8, POOLMGR_LINGER="60")
        deadline = time.monotonic() + 20
        while True:
            try:
                pool.release(pool.get_connection())
                break
            except ConnectionPoolTimeoutError:
                assert time.monotonic() < deadline
    finally:
        pool.close()
        member.leave()
        member.stop()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("os.posix_spawn", None),
        ("poolmgr.spawn._BETWEEN", "import os; raise OSError(11, os.strerror(11))"),
        ("poolmgr.spawn._BETWEEN", 'raise RuntimeError("can\'t start new thread")'),
    ],
)
def test_a_limit_of_processes_is_not_taken_for_a_missing_python(isolated, monkeypatch, name, value) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise BlockingIOError(11, os.strerror(11))

    monkeypatch.setattr(name, value or refuse)
    with pytest.raises(SupervisorError, match="cannot be started: .*raise the limit of processes"):
        launch.connect(settings.load())


def test_a_first_link_that_never_spoke_is_no_line_on_standard_error(isolated: Path, server) -> None:
    """Without a set-up of logging Python prints warnings, and of these ours are event names."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(isolated))
    listener.listen()

    def turn_away() -> None:
        listener.accept()[0].close()
        os.unlink(isolated)
        listener.close()

    turning = Calls(turn_away)
    code = """if True:
        import os, poolmgr, redis
        print(redis.Redis(connection_pool=poolmgr.ConnectionPool.from_url(os.environ['URL'])).ping())"""
    done = python(code, environ={"URL": server.url}, check=False)
    turning.join()
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_who_waits_for_one_that_does_not_come_up_is_not_told_that_none_is_needed(isolated: Path, server) -> None:
    """What ``poolmgr status`` says where there is none is no answer to a caller that has had one started."""
    code = """if True:
        import os, poolmgr
        from poolmgr import launch
        launch.MODULE = "tests.fake_supervisor"
        poolmgr.ConnectionPool.from_url(os.environ["URL"]).get_connection()"""
    done = python(code, environ={"URL": server.url, "FAKE": "stuck"}, timeout=60, check=False)
    kill(int(Path(f"{isolated}.stuck").read_text()))
    (said,) = [line for line in done.stderr.splitlines() if "ConnectionPoolTimeoutError: " in line]
    assert "does not serve yet" in said or "does not listen" in said
    assert "none runs" not in said
