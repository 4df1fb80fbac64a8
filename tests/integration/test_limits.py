"""``poolmgr limits`` on real servers, read as a user would: where does this number come from?

And what the limit of open files does to a process's share, and what is done about it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, RedisServer, free_port, tool, wait_for
from tests.load import Load
from tests.service import GUNICORN, LOAD_APP, Service


@pytest.fixture
def serve(isolated: Path) -> Iterator[Any]:
    started: list[Service] = []

    def start(**options: Any) -> Service:
        service = Service(isolated.parent, app=LOAD_APP, **{"workers": 2, "threads": 4, **options})
        started.append(service)
        service.start(path="/get")
        count = len(service.workers())
        with Load(service, "/get", callers=2 * count) as load:
            wait_for(lambda: len(load.by_worker()) == count, 10, what="every worker has a pool")
        return service

    yield start
    for service in started:
        service.clean_up()


def limited(soft: int, hard: int) -> tuple[str, ...]:
    """gunicorn below these limits of open files."""
    return ("sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec {shlex.join(GUNICORN)} "$@"', "sh")


class Told:
    """What ``poolmgr limits`` prints, once it says ``what``."""

    def __init__(self, service: Service, what: str = "") -> None:
        def run(*more: str) -> str:
            return tool("limits", *more, environ={**service.environ, "COLUMNS": "200"})

        def told() -> tuple[str, dict[str, Any]] | None:
            """The same from both; a bound that has just risen counts when that has lasted."""
            text = run()
            (server,) = json.loads(run("--json"))["servers"]
            settled = "until that has lasted" not in server["derivation"] and what in server["derivation"]
            if settled and server["derivation"][:60] in text:
                return text, server
            said.append(f"{text}{server['derivation']}")
            return None

        said: list[str] = []
        try:
            found = wait_for(told, 20, what="the command says the same twice")
        except AssertionError:
            print("\n".join(said[-2:]))
            raise
        assert found is not None
        self.text, self.server = found
        self.budget: int = self.server["budget"]
        lines = self.text.splitlines()
        self.derivation: str = self.server["derivation"]
        self.rows = {cells[0]: cells[1:] for line in lines if len(cells := re.split(r"\s{2,}", line.strip())) > 1}

    def __getitem__(self, bound: str) -> str:
        return self.rows[bound][0]


def test_of_the_embedded_server(serve) -> None:
    service = serve()
    told = Told(service)
    assert re.match(r"budget \d+ = redis maxclients (\d+) \N{MINUS SIGN} reserve (\d+)", told.derivation)
    assert int(told["maxclients"]) - int(told["reserve"]) - int(told["other clients"]) == told.budget
    assert told["operator"] == "-"
    assert service.socket in told.text


def test_of_debians_redis_7(serve, debian_redis) -> None:
    server = debian_redis(port=free_port(), maxclients=200)
    with server.observer() as other:
        other.ping()
        told = Told(serve(redis_url=server.url), "1 other client")
    assert (
        told.derivation == "budget 179 = redis maxclients 200 \N{MINUS SIGN} reserve 20 \N{MINUS SIGN} 1 other client"
    )
    assert (told["maxclients"], told["reserve"], told["other clients"], told["hosts"]) == ("200", "20", "1", "1")
    assert "a tenth of maxclients" in told.rows["reserve"][1]


@pytest.mark.parametrize("kind", ["valkey", "debian"])
def test_of_a_user_without_the_right_to_CONFIG(serve, redis_server, request, kind: str) -> None:
    """INFO tells maxclients as well; without either the number is assumed, and how to say it better is told."""
    make = redis_server if kind == "valkey" else request.getfixturevalue("debian_redis")
    server: RedisServer = make(port=free_port(), maxclients=300)
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", ">word", "~*", "&*", "+@all", "-config")
        admin.execute_command("ACL", "SETUSER", "less", "on", ">word", "~*", "&*", "+@all", "-config", "-info")
    told = Told(serve(redis_url=f"redis://app:word@127.0.0.1:{server.port}"))
    assert told.budget == 270
    assert "maxclients 300" in told.derivation


def test_of_a_user_that_may_ask_for_no_limit(serve, debian_redis) -> None:
    server = debian_redis(port=free_port(), maxclients=300)
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "less", "on", ">word", "~*", "&*", "+@all", "-config", "-info")
    service = serve(redis_url=f"redis://less:word@127.0.0.1:{server.port}")
    told = Told(service)
    assert told.budget == 64
    for words in ("assumed", "maxclients is unknown", "set REDIS_CONNECTION_BUDGET", "allow the user INFO"):
        assert words in told.derivation
    assert told["maxclients"] == "-"
    assert "word" not in told.text


def test_of_a_limit_of_64_open_files(serve, redis_server) -> None:
    server = redis_server(port=free_port(), maxclients=1000)
    # One worker: the second one's room would be added to the first one's step by step, for a quarter of a minute.
    told = Told(serve(redis_url=server.url, program=limited(64, 64), workers=1))
    assert 2 <= told.budget < 64
    assert told.derivation.startswith(f"budget {told.budget} = what the members' file-descriptor limits leave")
    assert "maxclients 1000" in told.derivation, "what it would be otherwise"
    assert told["descriptors"] == str(told.budget)
    assert "ulimit -n" in told.rows["descriptors"][1], "what to do"


# ---- the limit of open files ---------------------------------------------------------------------------------

MANY = """
    import resource, sys, threading, poolmgr
    client = poolmgr.get_client()
    client.ping()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    errors, ready, done = [], threading.Barrier({count} + 1, timeout=20), threading.Event()
    def hold():
        try:
            connection = client.connection_pool.get_connection()
            ready.wait()
            done.wait(20)
            client.connection_pool.release(connection)
        except BaseException as error:
            errors.append(repr(error))
            ready.abort()
    threads = [threading.Thread(target=hold) for _ in range({count})]
    for thread in threads:
        thread.start()
    try:
        ready.wait()
        held = len(client.client_list(_type="normal"))
    except threading.BrokenBarrierError:
        held = 0
    done.set()
    for thread in threads:
        thread.join()
    print(before, resource.getrlimit(resource.RLIMIT_NOFILE)[0], held, errors[:1])
"""


def hold_many(server: RedisServer, count: int, soft: int, hard: int, **environ: str) -> list[str]:
    """A process below these limits that holds so many connections at once: its soft limit before and after, how
    many connections there are, an error."""
    code = textwrap.dedent(MANY).format(count=count)
    done = subprocess.run(
        ["sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh", sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "REDIS_URL": server.url, **environ},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split(maxsplit=3)


def test_a_members_soft_limit_is_raised_when_its_share_needs_it(redis_server) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096:
        pytest.skip("too few descriptors here")
    server = redis_server(port=free_port(), maxclients=131)
    before, after, held, errors = hold_many(server, 120, 96, 4096, REDIS_CONNECTION_BUDGET="130")
    assert errors.strip() == "[]"
    assert int(after) == 4096, "raised"
    assert int(held) >= 120
    assert int(before) in (96, 4096)
    assert server.rejected() == 0


def test_a_members_soft_limit_is_left_alone_where_it_does(redis_server) -> None:
    server = redis_server(port=free_port(), maxclients=31)
    before, after, _, errors = hold_many(server, 10, 512, 4096, REDIS_CONNECTION_BUDGET="30")
    assert (before, after, errors.strip()) == ("512", "512", "[]")


def test_a_member_whose_hard_limit_leaves_few_waits_and_does_not_run_out(redis_server) -> None:
    server = redis_server(port=free_port(), maxclients=131)
    _, after, held, errors = hold_many(server, 60, 80, 80, REDIS_CONNECTION_BUDGET="130", REDIS_POOL_TIMEOUT="1")
    assert after == "80"
    assert held == "0", "it could not hold that many"
    assert "Too many open files" not in errors
    assert "ConnectionPoolTimeoutError" in errors or "BrokenBarrier" in errors
