"""Certificates of a test's own, and servers that speak TLS with them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import debian_redis_binary


def certify(directory: Path, name: str = "cert", *hosts: str) -> Path:
    """Make ``name``.pem and ``name``.key in a directory, for these hosts or this machine; the first one's path."""
    names = [f"DNS:{host}" for host in hosts] or ["DNS:localhost", "IP:127.0.0.1"]
    certificate = directory / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={hosts[0] if hosts else 'localhost'}", "-addext", f"subjectAltName={','.join(names)}",
         "-keyout", certificate.with_suffix(".key"), "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate


def over_tls(certificate: Path, port: int) -> dict[str, str | int]:
    """The options of a RedisServer that speaks TLS on this port. Skips where there is no such server."""
    return {
        "binary": able_to_speak_tls(), "tls_port": port, "tls_auth_clients": "no", "tls_cert_file": str(certificate),
        "tls_key_file": str(certificate.with_suffix(".key")), "tls_ca_cert_file": str(certificate),
    }  # fmt: skip


def able_to_speak_tls() -> str:
    """The program of a server that can. Skips where it or openssl is missing."""
    binary = debian_redis_binary()
    if binary is None or shutil.which("openssl") is None:
        pytest.skip("needs redis-server with TLS, and openssl")
    return binary
