"""Where gunicorn is to listen, and where Redis is: whatever is wrong with it stops the start with one line that
says what to do. Every kind of it once; all of them are in ``tests/unit/test_addresses.py``."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests import warm
from tests.helpers import ROOT, free_port
from tests.service import CONF, GUNICORN, Service

ADDRESS = "give HOST:PORT or [IPV6]:PORT with a port from 1 to 65535"


def started(*arguments: str, conf: str = str(CONF), **environ: str) -> subprocess.CompletedProcess[str]:
    """What gunicorn says that cannot start."""
    return warm.run(
        [*GUNICORN, "-c", conf, "--workers", "1", *arguments],
        env={**os.environ, "POOLMGR_METRICS": "off", "POOLMGR_LOG_FORMAT": "json", **environ},
        cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    told = [line for line in (done.stdout + done.stderr).splitlines() if line and not line.startswith("{")]
    assert done.returncode == 1
    assert len(told) == 1, told
    for word in ("Error: ", *words):
        assert word in told[0]


@pytest.mark.parametrize("bind", ["127.0.0.1:65536", "::1:8000", "fd://"])
def test_what_is_no_address(bind: str) -> None:
    assert_one_line(started("--bind", bind), f"--bind {bind!r} is not an address", ADDRESS, "(--bind 127.0.0.1:8000)")


@pytest.mark.parametrize("port", ["65536", "abc"])
def test_what_is_no_port(port: str) -> None:
    assert_one_line(started(PORT=port), f"PORT={port!r} is not a port", "from 1 to 65535", "(PORT=8000)")


def test_what_gunicorns_own_variable_says_is_looked_at_as_well() -> None:
    done = started(GUNICORN_CMD_ARGS="--bind 127.0.0.1:8000 --bind 127.0.0.1:65536")
    assert_one_line(done, "--bind '127.0.0.1:65536' is not an address", ADDRESS)


def test_a_port_that_is_none_in_a_configuration_with_gunicorns_own_logs(short_dir: Path) -> None:
    conf = short_dir / "own.py"
    conf.write_text("from poolmgr.gunicorn.hooks import install\nbind = '127.0.0.1:65536'\ninstall(globals())\n")
    done = started("worker.app:app", conf=str(conf))
    assert done.returncode == 1
    (last,) = [line for line in done.stderr.splitlines() if "Error" in line]
    assert "--bind '127.0.0.1:65536' is not an address" in last


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("no-such-host.invalid:8000", ("--bind is no-such-host.invalid:8000", "set another address")),
        ("fd://1", ("fd://1", "not a socket")),
        ("unix:/nowhere/x.sock", ("unix:/nowhere/x.sock", "No such file", "a directory that is there")),
    ],
)
def test_where_nothing_can_listen(bind: str, words: tuple[str, ...]) -> None:
    assert_one_line(started("--bind", bind), *words)


def test_an_address_that_is_given_twice() -> None:
    port = free_port()
    done = started("--bind", f"127.0.0.1:{port}", "--bind", f"127.0.0.1:{port}")
    assert_one_line(done, f"--bind is 127.0.0.1:{port} twice", "leave one out")


def test_the_port_beside_the_last_one_is_the_one_before() -> None:
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", 65535))
        except OSError:
            pytest.skip("the last port is in use")
        other.listen()
        assert_one_line(started("--bind", "127.0.0.1:65535"), "in use", "(--bind 127.0.0.1:65534)")


def test_the_port_that_is_proposed_is_another_one() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("0.0.0.0", 8001))
        except OSError:
            pytest.skip("port 8001 is in use")
        other.listen()
        assert_one_line(started(PORT="8001"), "in use", "(PORT=8002)")


@pytest.mark.parametrize("where", ["127.0.0.1:65536", "[::1"])
def test_a_server_that_is_at_no_address(where: str) -> None:
    assert_one_line(started(REDIS_URL=f"redis://{where}"), "REDIS_URL=", "set it to redis://HOST:PORT/DB")


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:{}/http.sock", "[::1]:0", "localhost:0"])
def test_addresses_that_are_some(make, short_dir: Path, bind: str) -> None:
    if "::" in bind:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 here")
    service: Service = make(workers=1, arguments=("--bind", bind.format(short_dir)), app="worker.app:app")
    service.start()
    assert service.log.count("Listening at") == 1
