"""The supervisor reaches a server over TLS as its members do, and closes such connections properly."""

from __future__ import annotations

from pathlib import Path

import pytest

from poolmgr import wire
from tests.certificates import able_to_speak_tls, certify, over_tls
from tests.helpers import Servers, free_port, wait_for
from tests.supervisor_process import Start


@pytest.mark.parametrize("trusted", [True, False])
def test_a_server_over_tls(short_dir: Path, redis_server: Servers, supervisor: Start, trusted: bool) -> None:
    able_to_speak_tls()
    ca, port = certify(short_dir), free_port()
    server = redis_server(maxclients=20, **over_tls(ca, port))
    endpoint = wire.Endpoint(
        key=f"tcp://localhost:{port}",
        host="localhost",
        port=port,
        tls={"ssl_ca_certs": str(ca), "ssl_cert_reqs": "required"} if trusted else {"ssl_cert_reqs": "required"},
    )
    running = supervisor(12, POOLMGR_LINGER="5")
    member = running.member().hello(endpoint)
    if not trusted:
        health = member.until(lambda m: m.last(wire.Health))
        assert not health.up
        assert "TLS" in health.error
        assert not member.limits
        return
    member.until(lambda m: m.limits)
    wait_for(lambda: len(server.clients()) == 1)
    assert running.server()["own"] == 1
    member.send(wire.Bye())
    assert running.wait(10) == 0, "its connection was closed to the end"
    assert not server.clients()
