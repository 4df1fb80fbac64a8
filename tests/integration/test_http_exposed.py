"""A worker service that all can reach says what belongs in front of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import RedisServer, free_port
from tests.service import Service


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ({"environ": {"PORT": "{port}"}}, "0.0.0.0:{port}"),
        ({"arguments": ("--bind", "0.0.0.0:{other}")}, "0.0.0.0:{other}"),
        ({"environ": {"PORT": "{port}"}, "worker_class": "sync"}, "0.0.0.0:{port}"),
        ({}, None),
        ({"arguments": ("--bind", "unix:{directory}/http")}, None),
    ],
)
def test_a_service_that_all_can_reach_says_what_belongs_in_front(
    make: Callable[..., Service], server: RedisServer, options: dict[str, Any], address: str | None
) -> None:
    port, other, directory = free_port(), free_port(), tempfile.mkdtemp(prefix="pm-", dir="/tmp")
    given = {
        key: {k: v.format(port=port) for k, v in value.items()} if isinstance(value, dict)
        else tuple(v.format(other=other, directory=directory) for v in value) if isinstance(value, tuple) else value
        for key, value in options.items()
    }  # fmt: skip
    service = make(redis_url=server.url, port=port, **given).start()
    found = service.events("worker.exposed")
    assert [line["address"] for line in found] == ([] if address is None else [address.format(port=port, other=other)])
    for line in found:
        assert "proxy" in line["remedy"] and ("WORKER_CLASS=gthread" in line["remedy"]) == ("worker_class" in options)
    shutil.rmtree(directory)
