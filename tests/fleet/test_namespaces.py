"""The network that the tests make for a fleet: it must not be what loses a request."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.fleet.namespaces import Namespace, bridge, join

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("ip") is None, reason="the program ip (package iproute2) is not installed"),
]


def address(hub: Namespace) -> str:
    return subprocess.run(
        ["nsenter", "-t", str(hub.pid), "--net", "--mount", "ip", "-o", "link", "show", "br0"],
        check=True, capture_output=True, text=True,
    ).stdout.split("link/ether ")[1].split()[0]  # fmt: skip


def test_the_servers_address_stays_as_hosts_come_and_go() -> None:
    """A bridge takes the lowest address of its ports, unless it was given one. When that changes, the other hosts send
    to the one they know until it is proven wrong. That takes some five seconds (arp(7), delay_first_probe_time)."""
    hub = bridge()
    made: list[Namespace] = []
    try:
        seen = [address(hub)]
        for number in range(3):
            made.append(Namespace(f"host-{number}"))
            join(hub, made[-1].pid, f"h{number}", 10 + number)
            seen.append(address(hub))
        made[0].end()
        seen.append(address(hub))
        assert len(set(seen)) == 1
    finally:
        for host in made:
            host.end()
        hub.end()
