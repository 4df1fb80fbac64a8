"""Whose table of commands holds for a connection of the HTTP service, and when it is read again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ResponseError

from worker import catalog as catalog_of
from worker.catalog import Catalog
from worker.errors import Problem
from worker.policy import Allowed, Refused


def row(name: bytes, *flags: bytes) -> list[Any]:
    return [name, -1, list(flags), 0, 0, 0, [b"@fast"]]


class Server:
    """Answers what a catalog asks."""

    def __init__(self, run_id: str, *names: bytes) -> None:
        self.run_id = run_id
        self.names = list(names)
        self.asked: list[bytes] = []
        self.forbids: set[bytes] = set()

    def answer(self, words: list[bytes]) -> Any:
        asked = b" ".join(words[:2]) if words[:2] == [b"COMMAND", b"INFO"] else words[0]
        self.asked.append(asked)
        if asked in self.forbids:
            return ResponseError("no permissions")
        if asked == b"INFO":
            return f"# Server\r\nredis_version:7\r\nrun_id:{self.run_id}\r\n".encode()
        return [row(name, b"readonly") for name in self.names]


class Connection:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.callbacks: list[Any] = []

    def register_connect_callback(self, callback: Any) -> None:
        if callback not in self.callbacks:
            self.callbacks.append(callback)

    def reconnect(self, server: Server) -> None:
        self.server = server
        for callback in self.callbacks:
            callback(self)


class Exchange:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def ask(self, commands: list[list[bytes]]) -> list[Any]:
        return [self.connection.server.answer(words) for words in commands]


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(catalog_of, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def policy(catalog: Catalog, connection: Connection) -> Any:
    return catalog.policy(Exchange(connection))  # type: ignore[arg-type]


def newer(catalog: Catalog, connection: Connection) -> Any:
    return catalog.newer(Exchange(connection))  # type: ignore[arg-type]


WHOLE = [b"COMMAND", b"COMMAND INFO"]


def test_a_table_is_read_once_for_a_server_and_each_connection_is_asked_who_is_there(clock):
    server, catalog = Server("a", b"get"), Catalog()
    first, second = Connection(server), Connection(server)
    found = policy(catalog, first)
    assert server.asked == [b"INFO", *WHOLE]
    assert policy(catalog, first) is policy(catalog, second) is found
    assert server.asked == [b"INFO", *WHOLE, b"INFO"]


def test_another_server_in_its_place_is_judged_by_its_own_table(clock):
    catalog = Catalog()
    connection = Connection(Server("a", b"get"))
    assert isinstance(policy(catalog, connection).decide([b"GET", b"k"], readonly=True), Allowed)
    connection.reconnect(Server("b", b"strlen"))
    assert isinstance(policy(catalog, connection).decide([b"GET", b"k"], readonly=True), Refused)
    connection.reconnect(Server("a", b"get"))
    assert connection.server.asked == []
    assert isinstance(policy(catalog, connection).decide([b"GET", b"k"], readonly=True), Allowed)
    assert connection.server.asked == [b"INFO"], "it is remembered"


def test_a_server_that_does_not_say_who_it_is_is_read_for_each_connection(clock):
    server, catalog = Server("a", b"get"), Catalog()
    server.forbids.add(b"INFO")
    connection = Connection(server)
    policy(catalog, connection)
    policy(catalog, connection)
    assert server.asked == [b"INFO", *WHOLE]
    policy(catalog, Connection(server))
    assert server.asked == [b"INFO", *WHOLE] * 2


def test_it_is_read_again_after_a_minute_and_for_an_unknown_name_after_five_seconds(clock):
    """A module may have been loaded. Whoever names what is not there has the server asked that often and no more."""
    server, catalog = Server("a", b"get"), Catalog()
    connection = Connection(server)
    policy(catalog, connection)
    server.names.append(b"json.get")
    for _ in range(1000):
        newer(catalog, connection)
    assert server.asked == [b"INFO", *WHOLE]
    clock[0] += catalog_of.UNKNOWN_AFTER
    for _ in range(1000):
        assert newer(catalog, connection).knows(b"json.get")
    assert server.asked == [b"INFO", *WHOLE, *WHOLE]
    server.names.remove(b"get")
    clock[0] += catalog_of.LIFETIME
    assert not policy(catalog, connection).knows(b"get")
    assert server.asked == [b"INFO", *WHOLE, *WHOLE, *WHOLE]


@pytest.mark.parametrize("forbidden", WHOLE)
def test_a_table_that_cannot_be_read_any_more_holds_no_longer(clock, forbidden):
    server, catalog = Server("a", b"get"), Catalog()
    connection = Connection(server)
    policy(catalog, connection)
    server.forbids.add(forbidden)
    clock[0] += catalog_of.LIFETIME
    for _ in range(3):
        with pytest.raises(Problem, match=r"\+command") as caught:
            policy(catalog, connection)
        assert caught.value.status == 503
    assert catalog.latest is None
    server.forbids.clear()
    assert policy(catalog, connection).knows(b"get")


def test_no_more_servers_are_remembered_than_fit(clock):
    catalog = Catalog()
    for number in range(3 * catalog_of.MOST):
        policy(catalog, Connection(Server(f"s{number}", b"get")))
    assert len(catalog._servers) == catalog_of.MOST
