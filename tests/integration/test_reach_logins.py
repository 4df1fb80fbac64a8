"""Credentials that are for a time only: the supervisor asks for those of now, and waits where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import RedisServer, Servers, free_port, wait_for
from tests.program import Program, Programs
from tests.stopwatch import Stopwatch
from tests.supervisor_process import Start, SupervisorProcess

CLIENT = """
import pathlib, sys, time
import redis
import poolmgr

class Provider(redis.CredentialProvider):
    def get_credentials(self):
        time.sleep(float(sys.argv[4]))
        return "app", pathlib.Path(sys.argv[2]).read_text()

given = {"credential_provider": Provider()} if sys.argv[3] == "provider" else {"username": "app", "password": "first"}
pool = poolmgr.ConnectionPool(host="127.0.0.1", port=int(sys.argv[1]), **given)
held = []
for line in sys.stdin:
    if line.strip() == "rotate":
        pool.connection_kwargs["password"] = pathlib.Path(sys.argv[2]).read_text()
    else:
        held = [pool.get_connection() for _ in range(int(line))]
    print(len(held), flush=True)
"""


@pytest.fixture
def token(short_dir: Path) -> Path:
    path = short_dir / "token"
    path.write_text("first")
    return path


@pytest.fixture
def server(redis_server: Servers) -> Iterator[RedisServer]:
    server = redis_server(port=free_port(), maxclients=13)
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", ">first", "~*", "&*", "+@all")
    yield server
    assert server.rejected() == 0


@pytest.fixture
def running(supervisor: Start) -> SupervisorProcess:
    return supervisor(12, POOLMGR_LINGER="20")


@pytest.fixture
def client(server: RedisServer, token: Path, program: Programs) -> Programs:
    def make(hold: int, kind: str = "provider", takes: float = 0.0) -> Program:
        process = program("-c", CLIENT, server.port, token, kind, takes)
        assert process.ask(hold)
        return process

    return make


def rotates(server: RedisServer, token: Path, text: str) -> None:
    """The server takes another token from now on, and the file has it."""
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "resetpass", f">{text}")
    token.write_text(text)


def dies(running: SupervisorProcess, process: Program, within: float) -> None:
    """It is killed, and its permits are back in time."""
    process.kill()
    watch = Stopwatch()
    wait_for(lambda: process.pid not in [m["pid"] for m in running.server()["members"]], 10)
    wait_for(lambda: running.server()["quarantine"] == 0, 20, what="its permits are back")
    assert watch.fair() < within


@pytest.mark.parametrize("kind", ["provider", "slow provider", "arguments"])
def test_after_a_rotation_the_proofs_go_on_with_the_new_token(
    server: RedisServer, running: SupervisorProcess, client: Programs, token: Path, kind: str
) -> None:
    takes = 0.5 if kind == "slow provider" else 0.0
    word = "arguments" if kind == "arguments" else "provider"
    stays = client(1, word, takes)
    for text in ("token-b", "token-c"):
        victim = client(3, "provider", 0.0)
        rotates(server, token, text)
        if kind == "arguments":
            assert stays.ask("rotate")
        dies(running, victim, 5)
        assert running.server()["unproven"] == 0, "it was proven"
    wait_for(lambda: not running.server()["health"]["unseen"], 10)
    secrets = running.log.read_text() + str(running.status()) + Path(running.path + ".snapshot").read_bytes().hex()
    for text in ("token-b", "token-c"):
        assert text not in running.log.read_text()
        assert text.encode().hex() not in secrets
    assert not running.events("outage.began")


def test_where_nobody_has_a_new_one_a_wait_stands_in_and_it_is_shown(
    server: RedisServer, running: SupervisorProcess, client: Programs, token: Path
) -> None:
    client(1, "arguments")
    victim = client(3, "arguments")
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "resetpass", ">nobody-knows")
        before = admin.info("commandstats").get("cmdstat_auth", {}).get("calls", 0)
        dies(running, victim, 8)
        after = admin.info("commandstats")["cmdstat_auth"]["calls"]
    assert running.server()["unproven"] >= 3
    assert "WRONGPASS" in running.server()["health"]["unseen"]
    assert running.server()["health"]["up"]
    assert after - before < 40, "the server is not hammered meanwhile"
