"""Upstash's own clients, unmodified, in environments of their own, against the service over HTTP."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.service import Service

SCRIPTS = ROOT / "tests" / "upstash"
PYTHON_CLIENT = "upstash-redis==1.8.0"
NODE_CLIENT = "@upstash/redis@1.39.0"
RATELIMIT = "@upstash/ratelimit@2.2.0"


@pytest.fixture
def service(isolated):
    service = Service(isolated.parent, workers=2).start()
    yield service
    assert "Traceback" not in service.log
    service.clean_up()


def installed(command: list[str], tmp_path: Path, what: str) -> None:
    """Install a client, or skip: only the package index can be missing, never the service."""
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    if done.returncode:
        pytest.skip(f"{what} cannot be installed here: {(done.stderr or done.stdout).strip().splitlines()[-1][:200]}")


def run(command: list[str], service: Service, cwd: Path) -> None:
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{service.port}", service.token],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "all well\n", done.stderr[-3000:]


def test_the_python_client(service, tmp_path):
    # Its own pip would take longer than all the rest.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=100)
    python = str(tmp_path / "venv" / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", PYTHON_CLIENT]
    installed(command, tmp_path, PYTHON_CLIENT)
    run([python, str(SCRIPTS / "client.py")], service, tmp_path)


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """Where both packages for JavaScript are installed."""
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        pytest.skip("npm is not installed")
    directory: Path = tmp_path_factory.mktemp("npm")
    installed([npm, "install", "--no-audit", "--no-fund", NODE_CLIENT, RATELIMIT], directory, "its npm package")
    return directory


def test_the_javascript_client(service, packages):
    run_javascript("client.mjs", service, packages)


def test_the_javascript_rate_limiter(service, packages):
    """Its scripts have a flag that only Upstash's servers know."""
    run_javascript("ratelimit.mjs", service, packages)


def run_javascript(script: str, service: Service, packages: Path) -> None:
    shutil.copy(SCRIPTS / script, packages)
    run(["node", script], service, packages)
