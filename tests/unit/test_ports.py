"""Ports for the servers of tests: one that is free now must not be another's before it is used."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests import helpers
from tests.helpers import free_port


def test_no_port_is_given_twice_and_none_is_the_kernels_to_give():
    found = [free_port() for _ in range(50)]
    assert len(set(found)) == 50
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(found) < max(first, 32_000), "32768 is the first of them by default"


def test_two_processes_of_the_suite_have_no_port_in_common(monkeypatch: pytest.MonkeyPatch):
    ports: list[int] = []
    for worker in range(16):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{worker}")
        ports += itertools.islice(helpers._ports(), 1_250)
    assert len(set(ports)) == len(ports) == 16 * 1_250
