"""Ctrl-C while a service starts: it ends at once, says nothing of it, and leaves no process and no file."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import status_of, wait_for
from tests.service import Service, nothing_is_left

GUNICORN = """if True:
    import os, signal, sys
    os.setsid()  # a terminal's Ctrl-C is for all processes of a group
    event, text, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
    sys.argv[:4] = ["gunicorn"]
    def interrupt(name, arguments):
        global times
        if name == event and text in str(arguments):
            times -= 1
            if times == 0:
                os.killpg(0, signal.SIGINT)
    from gunicorn.app.wsgiapp import run
    sys.addaudithook(interrupt)
    run()"""
"""gunicorn, whose whole group gets SIGINT just before one of it does something for the n-th time (PEP 578)."""


@pytest.fixture
def start(make) -> Callable[..., Service]:
    """Starts gunicorn to be interrupted. Others' packages are loaded already, but in the cases that are about
    them (``cold``)."""

    def spawn(event: str, text: str = "", times: int = 1, *, cold: bool = False, **options: Any) -> Service:
        program = (sys.executable, "-c", GUNICORN, event, text, str(times))
        service: Service = make(program=program, cold=cold, **options)
        return service.spawn()

    return spawn


def assert_quiet(service: Service, status: int) -> None:
    assert service.process is not None
    found = status_of(service.process, 20)
    assert [line for line in service.log.splitlines() if not line.startswith("{")] == []
    assert found == status
    wait_for(lambda: nothing_is_left(service), 5, what="no process and no file")


@pytest.mark.parametrize(
    ("event", "text", "times"),
    [
        pytest.param("import", "'poolmgr.settings'", 1, id="configuration"),
        pytest.param("import", "'redis.client'", 1, id="configuration-packages"),
        pytest.param("import", "'falcon.app'", 1, id="service-packages"),
        pytest.param("open", "/logger.", 1, id="logger"),
        pytest.param("socket.bind", "", 1, id="address"),
        pytest.param("open", "s.redis.lock", 1, id="lifeline"),
        pytest.param("subprocess.Popen", "keeper", 1, id="embedded-server"),
        pytest.param("fcntl.flock", "", 2, id="launch-lock"),
        pytest.param("os.posix_spawn", "", 1, id="supervisor"),
        pytest.param("socket.connect", "/s'", 3, id="supervisor-is-awaited"),
        pytest.param("open", "/token'", 1, id="token"),
        pytest.param("os.link", "/token'", 1, id="token-is-made"),
    ],
)
def test_a_start_is_interrupted(start, event, text, times):
    assert_quiet(start(event, text, times, cold=text in ("'redis.client'", "'falcon.app'")), 130)


def test_a_start_from_the_wheel_is_interrupted(start):
    assert_quiet(start("import", "'poolmgr.settings'", conf="python:poolmgr.conf"), 130)


def test_once_gunicorn_has_its_handlers_it_ends_in_its_own_way(start):
    assert_quiet(start("os.fork"), 0)


@pytest.mark.parametrize("event", ["os.fork", "socket.connect"])
def test_the_look_at_the_server_is_interrupted(start, server, event):
    text = "" if event == "os.fork" else f"{server.port})"
    assert_quiet(start(event, text, redis_url=server.url), 130)


def test_the_wait_for_a_server_that_says_nothing_is_interrupted(start):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = start("never", redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}")
        silent.settimeout(20)
        with silent.accept()[0]:  # the supervisor's: the master waits for what its child will say
            os.killpg(service.pid, signal.SIGINT)
            assert service.process is not None
            assert status_of(service.process, 5) == 130
            assert "Error" not in service.log
            assert "Traceback" not in service.log
