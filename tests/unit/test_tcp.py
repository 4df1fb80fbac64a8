"""A process's connections to servers, as the kernel says it, in both ways of asking."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from poolmgr.kernel import diag, tcp


@pytest.fixture(params=["asked", "read"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the kernel is asked for the connections, or all of its table is read because it cannot be asked."""

    def forbidden(*given: object) -> None:
        raise OSError("not this way")

    if request.param == "asked":
        monkeypatch.setattr(tcp, "_table", forbidden)
    else:
        monkeypatch.setattr(socket, "AF_NETLINK", socket.AF_UNIX)  # as a sandbox: this address has another family
    return str(request.param)


@contextlib.contextmanager
def server(host: str, port: int = 0) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        try:
            listener.bind((host, port))
        except OSError:
            if family == socket.AF_INET:
                raise
            pytest.skip("there is no IPv6")
        listener.listen()
        yield listener


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_counts_what_is_established_to_each_server(way: str, host: str) -> None:
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(server(host)) for _ in range(2))
        addresses = [listener.getsockname()[:2] for listener in (first, second)]
        for address in (*addresses, addresses[0]):
            stack.enter_context(socket.create_connection(address))
        closed = socket.create_connection(addresses[0])
        closed.close()
        ours = os.getpid()
        assert tcp.connections([ours, 1 << 22], addresses) == {(ours, addresses[0]): 2, (ours, addresses[1]): 1}


def test_another_host_with_that_port_is_another_server(way: str) -> None:
    with server("127.0.0.1") as here:
        address = here.getsockname()
        with server("127.0.0.2", address[1]), socket.create_connection(("127.0.0.2", address[1])):
            assert tcp.connections([os.getpid()], [address]) == {(os.getpid(), address): 0}


def test_many_take_several_answers() -> None:
    with server("127.0.0.1") as listener, contextlib.ExitStack() as stack:
        address = listener.getsockname()
        listener.listen(400)
        for _ in range(400):
            stack.enter_context(socket.create_connection(address))
        found = list(diag.inodes(address))
        assert len(found) == len(set(found)) == 400


def test_a_server_without_connections_has_none(way: str) -> None:
    with server("127.0.0.1") as listener:
        address = listener.getsockname()
        assert tcp.connections([os.getpid()], [address]) == {(os.getpid(), address): 0}


def test_one_that_is_not_accepted_yet_is_none(way: str) -> None:
    with socket.socket() as listener, socket.socket() as waits:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with socket.create_connection(address):
            waits.setblocking(False)
            waits.connect_ex(address)
            assert tcp.connections([os.getpid()], [address]) == {(os.getpid(), address): 1}
