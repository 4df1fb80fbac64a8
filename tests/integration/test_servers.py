"""``docs/servers.md`` against the server that the tests have: each line of its table is asked for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import pytest
import redis
from redis.cache import CacheConfig

from tests.helpers import ROOT, RedisServer

DOCUMENT = ROOT / "docs" / "servers.md"


def takes(*words: str) -> Callable[[RedisServer], bool]:
    """A command that the server carries out."""

    def ask(server: RedisServer) -> bool:
        with server.observer() as client:
            try:
                client.execute_command(*words)
            except redis.ResponseError:
                return False
            return True

    return ask


def redirects(server: RedisServer) -> bool:
    with server.observer() as client, server.observer() as other:
        with contextlib.suppress(redis.ResponseError):
            return bool(client.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", other.client_id(), "BCAST"))
    return False


def is_cached(server: RedisServer) -> bool:
    try:
        with redis.Redis.from_url(server.url, protocol=3, cache_config=CacheConfig()) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def rights_by_subcommand(server: RedisServer) -> bool:
    try:
        return takes("ACL", "SETUSER", "probe", "on", "nopass", "-@all", "+client|list")(server)
    finally:
        with server.observer() as client:
            client.acl_deluser("probe")


LINES: dict[str, Callable[[RedisServer], bool]] = {
    "`CLIENT SETINFO`": takes("CLIENT", "SETINFO", "LIB-NAME", "probe"),
    "`CLIENT LIST ID`": takes("CLIENT", "LIST", "ID", "1"),
    "`CLIENT TRACKING … REDIRECT`": redirects,
    "`CLIENT CAPA redirect`": takes("CLIENT", "CAPA", "redirect"),
    "rights by subcommand": rights_by_subcommand,
    "redis-py's client-side cache": is_cached,
}


def column(kind: str) -> dict[str, str]:
    """What the document says of a server, line by line."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in DOCUMENT.read_text().splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]
    head = next(row for row in rows if "Redis 7.0" in row)
    assert kind in head, f"{DOCUMENT.name} has no column for {kind}: run this file with it, and write one"
    place = head.index(kind)
    return {row[0]: row[place] for row in rows if len(row) == len(head) and row is not head}


@pytest.mark.parametrize("line", LINES)
def test_the_server_has_what_the_document_says(server: RedisServer, line: str) -> None:
    said = column(server.kind.minor)[line]
    assert re.fullmatch("yes|no", said), said
    assert LINES[line](server) == (said == "yes")


def test_each_line_of_the_document_is_asked_for(server: RedisServer) -> None:
    assert column(server.kind.minor).keys() == LINES.keys()
