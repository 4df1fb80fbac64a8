"""The supervisor reaches a server over TLS as its members do, and closes such connections properly."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from poolmgr import wire
from tests.helpers import RedisServer, debian_redis_binary, free_port, wait_for
from tests.supervisor_process import SupervisorProcess


@pytest.fixture
def certificate(short_dir: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None or debian_redis_binary() is None:
        pytest.skip("openssl and redis-server are not both installed")
    key, certificate = short_dir / "key.pem", short_dir / "certificate.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return key, certificate


@pytest.mark.parametrize("trusted", [True, False])
def test_a_server_over_tls(
    short_dir: Path, redis_server: Callable[..., RedisServer], certificate: tuple[Path, Path], trusted: bool
) -> None:
    key, ca = certificate
    port = free_port()
    server = redis_server(
        binary=debian_redis_binary() or "",
        maxclients=20,
        tls_port=port,
        tls_cert_file=str(ca),
        tls_key_file=str(key),
        tls_ca_cert_file=str(ca),
        tls_auth_clients="no",
    )
    endpoint = wire.Endpoint(
        key=f"tcp://localhost:{port}",
        host="localhost",
        port=port,
        tls={"ssl_ca_certs": str(ca), "ssl_cert_reqs": "required"} if trusted else {"ssl_cert_reqs": "required"},
    )
    running = SupervisorProcess(str(short_dir / "s"), REDIS_CONNECTION_BUDGET="12", POOLMGR_LINGER="5").start()
    try:
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
    finally:
        running.stop()
