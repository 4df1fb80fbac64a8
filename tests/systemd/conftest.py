"""One machine for all tests of this folder; the service is installed on it as the README says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.reach import connect
from tests.helpers import ROOT, debian_redis_binary, valkey_binary
from tests.systemd import wheels
from tests.systemd.machine import CannotBootError, Machine

README = (ROOT / "README.md").read_text()

BUDGET = 8
OBSERVERS = 2
TOKEN = "token-of-the-tests"
SERVER = "server-of-the-tests"

DOWNLOAD = "pip install '.[service]'"
WITHOUT_NETWORK = "pip install --quiet --no-index --find-links=/opt/share/wheels 'redis-poolmgr[service]'"


def commands(containing: str) -> str:
    """The block of shell commands in the README's chapter on systemd that has this word."""
    chapter = README.partition("\n## As systemd services\n")[2].partition("\n## ")[0]
    (found,) = [block for block in re.findall(r"```sh\n(.*?)```", chapter, re.DOTALL) if containing in block]
    return str(found)


class Installed:
    """The machine with the service on it, and a server for it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.run, self.out = machine.run, machine.out

    def redis(self, *words: str) -> str:
        """A command to the server, as its observer; what it says. No program is started for it: it is asked often."""
        with connect(self.machine.pid, 6379, 5) as sock, sock.makefile("rwb") as stream:
            encoded = [word.encode() for word in words]
            stream.write(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded))
            stream.flush()
            head = stream.readline()
            return (stream.read(max(0, int(head[1:]))) if head[:1] == b"$" else head[1:]).decode()

    def start_server(self) -> None:
        """With room for the budget and for nothing else."""
        limits = f"--maxclients {BUDGET + OBSERVERS} --save '' --bind 127.0.0.1 --dir /tmp"
        self.run(f"systemd-run --quiet --unit={SERVER} --collect /opt/share/redis-server --port 6379 {limits}")

    def use_server(self) -> None:
        """From now on there is a server, and the services use it."""
        binary = debian_redis_binary() or valkey_binary()
        shutil.copy(binary, self.machine.share / "redis-server")
        (self.machine.share / "redis-server").chmod(0o755)
        self.start_server()
        self.run(
            f"""cat >>/etc/redis-poolmgr/environment <<END
REDIS_URL=redis://127.0.0.1:6379/0
REDIS_CONNECTION_BUDGET={BUDGET}
WORKER_TOKEN={TOKEN}
WORKER_THREADS=8
WEB_CONCURRENCY=2
END
systemctl restart poolmgr.service redis-worker.service"""
        )

    def rejected(self) -> int:
        """The oracle: connections that the server has refused since its start."""
        found = re.search(r"rejected_connections:(\d+)", self.redis("INFO", "stats"))
        assert found is not None
        return int(found[1])

    def status(self) -> str:
        return self.out(
            "cd / && runuser -u poolmgr -- env POOLMGR_SOCKET=/run/poolmgr/supervisor "
            "/opt/redis-poolmgr/bin/poolmgr status --json"
        )

    def post(self, body: str) -> str:
        return self.out(f"curl -sS --max-time 10 127.0.0.1:8000/ -H 'Authorization: Bearer {TOKEN}' -d '{body}'")


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """A booted machine with a checkout in ``/opt/share/checkout`` and wheels instead of a network."""
    try:
        made = Machine()
    except CannotBootError as error:
        pytest.skip(f"no systemd to test with: {error}")
    try:
        try:
            made.boot()
        except CannotBootError as error:
            pytest.skip(f"no systemd to test with: {error}")
        wheels.make(made.share / "wheels", "service")
        checkout = made.share / "checkout"
        checkout.mkdir()
        shutil.copytree(ROOT / "deploy", checkout / "deploy")
        shutil.copy(Path(__file__).with_name("load.py"), made.share / "load.py")
        yield made
    finally:
        made.halt()


@pytest.fixture(scope="session")
def fresh(machine: Machine) -> Installed:
    """Just installed, nothing configured: the README's commands, the download of packages excepted."""
    script = commands("systemctl enable --now")
    assert DOWNLOAD in script
    machine.run(f"cd checkout\n{script.replace(DOWNLOAD, WITHOUT_NETWORK)}", timeout=500)
    return Installed(machine)


@pytest.fixture(scope="session")
def installed(fresh: Installed) -> Installed:
    """Installed, with a server of its own and a budget of :data:`BUDGET`."""
    fresh.use_server()
    return fresh
