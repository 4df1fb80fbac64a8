"""Ports for the servers of tests: one that is free now must not be another's before it is used."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import pytest

from tests import helpers
from tests.helpers import free_port


def test_no_port_is_given_twice_and_none_is_the_kernels_to_give():
    found = [free_port() for _ in range(50)]
    assert len(set(found)) == 50
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert not [port for port in found if first <= port <= last]


def test_two_processes_of_the_suite_have_no_port_in_common(monkeypatch: pytest.MonkeyPatch):
    ports: list[int] = []
    for worker in range(16):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{worker}")
        ports += itertools.islice(helpers._ports(), helpers.PORTS)
    assert len(set(ports)) == len(ports) == 16 * helpers.PORTS
    assert max(ports) < 32_768, "the first one of the kernel's by default"


def test_a_port_is_not_looked_for_for_ever(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(helpers, "_of_this_process", itertools.repeat(taken.getsockname()[1]))
        with pytest.raises(AssertionError, match="is free"):
            free_port()
