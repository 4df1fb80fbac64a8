"""What is no address, and where nothing can listen: each in one line that says what to do. That such a line ends a
start is tested with a real gunicorn (``tests/integration/test_gunicorn_addresses.py``)."""

from __future__ import annotations

import errno
import socket
import sys

import pytest
from gunicorn import util

from poolmgr import settings
from poolmgr.exceptions import PoolmgrError
from poolmgr.gunicorn import checks
from poolmgr.gunicorn.checks import StartError, check_addresses, check_binds

ADDRESS = "give HOST:PORT or [IPV6]:PORT with a port from 1 to 65535"


@pytest.mark.parametrize(
    "bind",
    [
        "127.0.0.1:65536", "127.0.0.1:99999999999", "127.0.0.1:-1", "127.0.0.1:abc", "127.0.0.1:", ":", ":abc",
        "tcp://127.0.0.1:65536", "http://127.0.0.1:8000", "127.0.0.1:0x50",
        "[::1]:65536", "[::1]:abc", "::1:8000", "::1", "[::1", "::1]:8000",
        "fd://", "fd://abc",
    ],
)  # fmt: skip
def test_what_is_no_address(bind: str) -> None:
    with pytest.raises(StartError) as found:
        check_binds([bind])
    for words in (f"--bind {bind!r} is not an address", ADDRESS, "(--bind 127.0.0.1:8000)"):
        assert words in str(found.value)


@pytest.mark.parametrize("port", ["65536", "99999", "-1", "abc", "80 90"])
def test_what_is_no_port(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", port)
    with pytest.raises(StartError) as found:
        check_binds([f"0.0.0.0:{port}"])
    for words in (f"PORT={port!r} is not a port", "from 1 to 65535", "(PORT=8000)"):
        assert words in str(found.value)


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("300.1.1.1:8000", ("not known", "set another address")),
        ("no-such-host.invalid:8000", ("--bind is no-such-host.invalid:8000", "set another address")),
        ("192.0.2.1:8000", ("no such address", "use 127.0.0.1 or 0.0.0.0")),
        ("[2001:db8::1]:8000", ("[2001:db8::1]:8000", "use [::1] or [::]")),
        ("fd://123456", ("fd://123456", "not open here", "--bind 127.0.0.1:8000")),
        ("fd://-1", ("fd://-1", "not open here")),
        ("unix:", ("the path is missing", "--bind unix:/run/service.sock")),
        ("unix:/", ("not a socket", "set another path")),
        ("unix:/nowhere/x.sock", ("unix:/nowhere/x.sock", "No such file", "a directory that is there")),
        ("unix:/tmp/" + "x" * 120, ("too long", "at most 107 bytes")),
        ("unix:/proc/x.sock", ("unix:/proc/x.sock", "may write")),
    ],
)
def test_where_nothing_can_listen(bind: str, words: tuple[str, ...]) -> None:
    if "2001" in bind and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with pytest.raises(StartError) as found:
        check_addresses([util.parse_address(bind)])
    for word in words:
        assert word in str(found.value)


def test_a_descriptor_that_is_no_socket() -> None:
    with open("/dev/null") as file, pytest.raises(StartError, match="not a socket"):
        check_addresses([file.fileno()])


@pytest.mark.parametrize("where", ["127.0.0.1:65536", "127.0.0.1:0", "127.0.0.1:x", "[::1]:65536", "::1:6379", "[::1"])
def test_a_server_that_is_at_no_address(where: str) -> None:
    with pytest.raises(PoolmgrError) as found:
        settings.load({"REDIS_URL": f"redis://{where}"})
    assert "REDIS_URL=" in str(found.value)
    assert "set it to redis://HOST:PORT/DB" in str(found.value)


@pytest.mark.parametrize(
    ("arguments", "port", "words"),
    [
        ([], "", ("the default address is 127.0.0.1:8000", "PORT=8001 for all addresses", "--bind 127.0.0.1:8001")),
        (["--bind", "127.0.0.1:8000"], "", ("--bind is 127.0.0.1:8000", "(--bind 127.0.0.1:8001)")),
        ([], "8000", ("PORT is 127.0.0.1:8000", "(PORT=8001)")),
    ],
)
def test_the_remedy_fits_how_the_address_was_given(monkeypatch, arguments, port, words) -> None:
    monkeypatch.setattr(sys, "argv", ["gunicorn", *arguments])
    monkeypatch.setenv("PORT", port)
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    told = checks._why_not("127.0.0.1", 8000, OSError(errno.EADDRINUSE, "in use"))
    for word in words:
        assert word in told
