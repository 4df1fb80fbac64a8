"""The embedded server: started once, kept by whoever uses it, gone with the last of them."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from poolmgr import embedded, settings
from poolmgr.exceptions import SettingsError
from tests.helpers import alive, kill, python, wait_for
from tests.program import Program, Programs
from tests.service import processes_of

HOLD = """
import os, sys
from poolmgr import embedded, settings
print(embedded.ensure(settings.load()), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def nothing_left(isolated: Path):
    yield
    for pid in processes_of(str(isolated)):
        kill(pid)


@contextlib.contextmanager
def holder() -> Iterator[Program]:
    """A process that has called ``ensure``; it ends when its standard input does."""
    with Program("-c", HOLD) as process:
        assert process.says().startswith("unix://")
        yield process


def servers(isolated: Path) -> list[int]:
    return [
        pid
        for pid, command in processes_of(str(isolated)).items()
        if "valkey-server" in command and "keeper.py" not in command
    ]


def server_pid(isolated: Path) -> int:
    return next(iter(servers(isolated)), 0)


def keeper_pid(isolated: Path) -> int:
    return next((pid for pid, command in processes_of(str(isolated)).items() if "keeper.py" in command), 0)


def nothing_is_left(isolated: Path) -> bool:
    return not processes_of(str(isolated)) and not any(isolated.parent.glob("s.*"))


def client() -> redis.Redis:
    return redis.Redis.from_url(embedded.url(settings.load()), single_connection_client=True)


def test_it_answers_on_a_private_unix_socket_and_on_no_port(isolated: Path):
    with holder():
        server = client()
        assert server.ping()
        assert server.config_get("port")["port"] == "0"
        assert server.config_get("save")["save"] == ""
        assert int(server.info("clients")["maxclients"]) == embedded.MAXCLIENTS
        assert stat.S_IMODE(Path(f"{isolated}.redis").stat().st_mode) & 0o077 == 0
        server.close()


def test_many_processes_at_once_start_one(isolated: Path, program: Programs):
    starting = [program("-c", HOLD) for _ in range(8)]
    assert all(process.says().startswith("unix://") for process in starting)
    assert len(servers(isolated)) == 1
    for process in starting:
        process.ends()
    wait_for(lambda: nothing_is_left(isolated), 5)


def test_it_says_once_that_nothing_is_kept_and_what_to_set():
    code = (
        "import logging; logging.basicConfig(format='%(message)s %(remedy)s');"
        "from poolmgr import embedded, settings; [embedded.ensure(settings.load()) for _ in range(3)]"
    )
    with holder() as first:
        assert python(code).stderr == "", "it runs already"
        first.ends()
    said = python(code).stderr.splitlines()
    assert len(said) == 1
    assert "embedded.started" in said[0]
    assert "REDIS_URL=redis://" in said[0]


def test_it_outlives_its_starter_and_ends_with_the_last_holder(isolated: Path):
    with holder() as first, holder() as second:
        first.kill()
        server = client()
        server.set("key", "value")
        assert server.get("key") == b"value"
        assert not nothing_is_left(isolated)
        second.ends()
        wait_for(lambda: nothing_is_left(isolated), 5)


def test_a_forked_child_keeps_it_though_its_parent_is_killed(isolated: Path, program: Programs):
    code = (
        "import os, signal, time\nfrom poolmgr import embedded, settings\nembedded.ensure(settings.load())\n"
        "if os.fork() == 0:\n print(os.getpid(), flush=True)\n time.sleep(60)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    process = program("-c", code)
    child = int(process.says())
    process.process.wait()
    assert client().ping()
    kill(child)
    wait_for(lambda: nothing_is_left(isolated), 5)


def test_a_killed_keeper_is_replaced_and_the_server_adopted(isolated: Path):
    with holder() as first:
        server, keeper = server_pid(isolated), keeper_pid(isolated)
        client().set("key", "value")
        kill(keeper)
        wait_for(lambda: not alive(keeper))
        with holder() as second:
            assert server_pid(isolated) == server
            assert keeper_pid(isolated) not in (0, keeper)
            assert client().get("key") == b"value"
            second.ends()
        first.ends()
    wait_for(lambda: nothing_is_left(isolated), 5)


def test_a_killed_server_is_started_again(isolated: Path):
    with holder() as first:
        server = server_pid(isolated)
        kill(server)
        wait_for(lambda: server_pid(isolated) not in (0, server))
        wait_for(answers, 5)
        first.ends()
    wait_for(lambda: nothing_is_left(isolated), 5)


def answers() -> bool:
    try:
        return bool(client().ping())
    except redis.ConnectionError:
        return False


def test_the_keyboard_does_not_reach_it(isolated: Path):
    with holder() as first:
        for pid in (server_pid(isolated), keeper_pid(isolated)):
            assert os.getsid(pid) != os.getsid(first.pid)
            assert os.getpgid(pid) != os.getpgid(first.pid)
        os.kill(keeper_pid(isolated), signal.SIGHUP)
        os.kill(keeper_pid(isolated), signal.SIGINT)
        assert client().ping()
        first.ends()
    wait_for(lambda: nothing_is_left(isolated), 5)


def test_what_a_killed_server_left_is_no_obstacle(isolated: Path):
    Path(f"{isolated}.redis").touch()
    Path(f"{isolated}.redis.lock").touch()
    with holder() as first:
        assert client().ping()
        first.ends()


def test_a_path_that_is_too_long_is_told_in_one_line(monkeypatch, short_dir: Path):
    monkeypatch.setenv("REDIS_URL", "redis://x")
    monkeypatch.setenv("POOLMGR_SOCKET", str(short_dir) + "/" + "x" * (105 - len(str(short_dir))))
    with pytest.raises(SettingsError, match=r"POOLMGR_SOCKET=.* too long: .*longer than 107 bytes; set a shorter one"):
        embedded.ensure(settings.load())


def test_a_server_that_cannot_start_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(embedded, "server_binary", lambda: "/bin/false")
    with pytest.raises(embedded.EmbeddedServerError) as caught:
        embedded.ensure(settings.load())
    assert "/bin/false does not start" in str(caught.value)
    assert "REDIS_URL=redis://" in str(caught.value)
    assert "\n" not in str(caught.value)
    for fd in embedded._lifelines.values():
        os.close(fd)
    embedded._lifelines.clear()
