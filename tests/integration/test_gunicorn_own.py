"""Somebody's own configuration file, with our hooks added to theirs."""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path

import pytest

from tests.helpers import alive, wait_for
from tests.service import Service, nothing_is_left, renewed

OWN = """
import os
bind = "127.0.0.1:{port}"
workers = 2
def on_starting(server): print("theirs: on_starting", flush=True)
def post_fork(server, worker): print("theirs: post_fork", flush=True)
def on_exit(server): print("theirs: on_exit", flush=True)
{more}
from poolmgr.gunicorn import install
install(globals())
"""


@pytest.fixture
def own(make, short_dir):
    """A service with a configuration file of somebody's own."""

    def build(app: str | None = "tests.apps.load:app", more: str = "") -> tuple[Service, Path]:
        path = short_dir.with_name(short_dir.name + "-conf.py")
        service = make(app=app, conf=str(path), arguments=("--no-control-socket",))
        path.write_text(OWN.format(port=service.port, more=textwrap.dedent(more)))
        paths.append(path)
        return service, path

    paths: list[Path] = []
    yield build
    for path in paths:
        path.unlink()


def test_a_reload_of_the_worker_service_with_a_wrong_environment_does_not_end_the_master(own):
    service, path = own(app=None)
    path.write_text(path.read_text().replace("import os", "wsgi_app = 'worker.app:app'\nimport os"))
    service.start()
    before = set(service.workers())
    path.write_text(path.read_text().replace("import os", "import os; os.environ['WORKER_MAX_BODY'] = 'much'"))
    service.send(signal.SIGHUP)
    renewed(service, before)
    answer = service.get("/healthz")
    assert answer.status == 503
    assert "not configured correctly" in answer.json["error"]
    assert "WORKER_MAX_BODY='much' is not allowed" in service.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_obeys_a_signal_that_comes_before_it_can_take_one(own, number):
    service, path = own()
    path.write_text(path.read_text().replace('print("theirs: post_fork", flush=True)', "import time; time.sleep(1)"))
    service.command += ["--graceful-timeout", "90"]
    service.spawn()
    wait_for(lambda: "Booting worker" in service.log, 20)
    service.send(number)
    assert service.stop(number, timeout=10) == 0, "else it waits for a minute and a half"


LOADS = """
def on_starting(server):
    print("theirs: on_starting", flush=True)
    server.loaded = [[] for _ in range(200_000)]
"""
"""As an application that loads twelve megabytes once, for all its workers."""


def test_install_adds_our_hooks_to_theirs(own):
    service, _ = own(more=LOADS)
    service.start(path="/pid")
    assert service.get("/collect").json["copied"] < 4 << 20, "a worker's collector leaves the application's alone"
    assert service.get("/get").json["value"] == "value"
    assert service.supervisor()
    service.stop()
    wait_for(lambda: nothing_is_left(service), 5)
    for line in ("on_starting", "post_fork", "on_exit"):
        assert f"theirs: {line}" in service.log
    assert service.log.count("set REDIS_URL=redis://") == 1, "events are told whole, and once"


def test_a_reload_with_a_wrong_environment_does_not_end_the_master(own):
    service, path = own()
    service.start(path="/pid")
    before = set(service.workers())
    path.write_text(path.read_text().replace("import os", "import os; os.environ['REDIS_CONNECTION_BUDGET'] = 'many'"))
    service.send(signal.SIGHUP)
    renewed(service, before)
    assert alive(service.pid)
    assert "hook.failed" in service.log
    answer = service.get("/get")
    assert answer.status == 503
    assert "REDIS_CONNECTION_BUDGET='many' is not allowed" in answer.json["error"]
