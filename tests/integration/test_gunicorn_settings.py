"""The service's settings in a real gunicorn: what stops the start, and what gunicorn's own settings mean."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers import ROOT, free_port, wait_for
from tests.load import Load
from tests.service import CONF, Service, nothing_is_left, renewed
from tests.stopwatch import Stopwatch

# ---- bad input ---------------------------------------------------------------------------------


def bad(name: str, value: str, *words: str):
    return pytest.param({name: value}, (name, *words), id=f"{name}={value[:30]}")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        bad("REDIS_CONNECTION_BUDGET", "0", "'0'", "auto"),
        bad("REDIS_CONNECTION_BUDGET", "many", "'many'", "auto"),
        bad("REDIS_POOL_TIMEOUT", "soon", "'soon'"),
        bad("REDIS_URL", "http://x", "'http://x'", "redis://"),
        bad("REDIS_URL", "redis://127.0.0.1:1/0", "Connection refused", "start it"),
        bad("REDIS_URL", "redis://127.0.0.1:1/0?timeout=x", "timeout"),
        bad(
            "REDIS_URL", "redis://no-such-host.invalid:6379/0", "'no-such-host.invalid' does not resolve", "correct it"
        ),
        bad("REDIS_URL", "unix:///nowhere/redis.sock", "No such file", "start it"),
        bad("WORKER_THREADS", "x", "'x'"),
        bad("WORKER_CLASS", "nope", "'nope'", "gthread"),
        bad("WEB_CONCURRENCY", "0", "WEB_CONCURRENCY=0 starts no workers; set it to 1 or more, or unset it"),
        bad("WORKER_TOKEN", "two words", "printable"),
        bad("WORKER_TOKEN_FILE", "relative/path", "absolute"),
        bad("WORKER_TOKEN_FILE", "/nowhere/token", "cannot be read (No such file or directory)"),
        bad("WORKER_TOKEN_FILE", "/dev/null", "is not a file"),
        bad("WORKER_READONLY_TOKEN_FILE", "/proc/self/environ", "holds no token"),
        pytest.param(
            {"WORKER_TOKEN": "x", "WORKER_TOKEN_FILE": "/nowhere/token"},
            ("WORKER_TOKEN_FILE and WORKER_TOKEN are both set",),
            id="WORKER_TOKEN-twice",
        ),
        bad("POOLMGR_SOCKET", "/tmp/" + "x" * 120, "107"),
        bad("POOLMGR_SOCKET", "relative/path", "absolute"),
        bad("POOLMGR_SOCKET", "/nowhere/s", "No such file", "mkdir -p -m 700 /nowhere"),
        pytest.param(
            {"POOLMGR_SOCKET": "/nowhere/s", "REDIS_URL": "redis://127.0.0.1:1/0"},
            ("POOLMGR_SOCKET", "No such file", "mkdir -p -m 700 /nowhere"),
            id="POOLMGR_SOCKET=/nowhere/s-REDIS_URL",
        ),
        bad("POOLMGR_SOCKET", "/dev/null", "/dev/null"),
        bad("POOLMGR_LINGER", "-1", "'-1'"),
    ],
)
def test_a_wrong_value_stops_the_start_with_one_line(make, environ, words):
    assert_one_line(make(environ=environ), words)


def assert_one_line(service: Service, words: tuple[str, ...]) -> str:
    status, _ = service.run()
    told = [line for line in service.log.splitlines() if not line.startswith("{")]
    assert status == 1, service.log
    assert len(told) == 1, service.log
    for word in words:
        assert word in told[0]
    wait_for(lambda: not service.processes(), 5)
    assert service.log.splitlines()[-1] == told[0], "it is the last that is said"
    return told[0]


def test_no_worker_on_the_command_line_is_told_as_such(make):
    assert_one_line(make(arguments=("--workers", "0")), ("--workers 0 starts no workers", "to 1 or more"))


def test_a_wrong_password_is_told_without_telling_it(make, redis_server):
    server = redis_server(port=free_port(), requirepass="right")
    service = make(redis_url=f"redis://:wrong-one@127.0.0.1:{server.port}/0")
    line = assert_one_line(service, ("REDIS_URL", "***", "password", "correct"))
    assert "wrong-one" not in line
    assert "wrong-one" not in service.log
    line = assert_one_line(make(redis_url=f"redis://127.0.0.1:{server.port}/0"), ("REDIS_URL", "wants a password"))
    assert "refuses" not in line, "there was none to refuse"


def test_a_server_that_accepts_and_says_nothing_is_told(make):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = make(
            redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0",
            environ={"REDIS_POOL_TIMEOUT": "1", "REDIS_SOCKET_TIMEOUT": "0.5"},
        )
        status, _ = service.run()
    told = [line for line in service.log.splitlines() if not line.startswith("{")]
    assert status == 1
    assert len(told) == 1
    assert "REDIS_URL" in told[0]
    assert "answer" in told[0]


def test_a_right_that_is_missing_is_named(make, redis_server):
    server = redis_server(port=free_port())
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-select")
    line = assert_one_line(
        make(redis_url=f"redis://app:secret@127.0.0.1:{server.port}/1"), ("REDIS_URL", "'select'", "allow")
    )
    assert "+ping" not in line


def test_a_database_that_is_not_there_is_told(make, redis_server):
    server = redis_server(port=free_port(), databases=4)
    line = assert_one_line(
        make(redis_url=f"redis://127.0.0.1:{server.port}/9"), ("REDIS_URL", "out of range", "another")
    )
    assert "+ping" not in line


def test_a_port_in_use_is_told_in_one_line(make):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert_one_line(make(port=port), (f"127.0.0.1:{port}", "in use", f"(--bind 127.0.0.1:{port + 1})"))
        assert_one_line(make(environ={"PORT": str(port)}), ("PORT", str(port), "in use", "(PORT=8001)"))


def test_a_name_that_is_almost_one_of_ours_is_told_once(make):
    service = make(environ={"REDIS_CONNECTION_BUDGT": "3", "REDIS_POOL_SIZE": "9"}).start()
    told = [(event["variable"], event["remedy"]) for event in service.events("setting.unknown")]
    assert told == [("REDIS_CONNECTION_BUDGT", "did you mean REDIS_CONNECTION_BUDGET?")]


def test_a_taken_address_of_the_metrics_comes_with_its_remedy(make):
    with socket.create_server(("127.0.0.1", 0)) as other:
        service = make(environ={"POOLMGR_METRICS": f"127.0.0.1:{other.getsockname()[1]}"}).start()
        (event,) = wait_for(lambda: service.events("metrics.unavailable"), what="the metrics cannot be served")
    assert "POOLMGR_METRICS" in event["remedy"]


def test_somebody_elses_socket_is_refused(make, isolated):
    isolated.write_text("not a socket")
    service = make()
    status, log = service.run()
    assert status == 1
    assert str(isolated) in log.splitlines()[-1]
    assert isolated.read_text() == "not a socket"


# ---- what gunicorn's own settings mean ---------------------------------------------------------


def test_PORT_and_WEB_CONCURRENCY_and_GUNICORN_CMD_ARGS_keep_their_meaning(make):
    port = free_port()
    service = make(port=port, workers=3, environ={"PORT": str(port), "GUNICORN_CMD_ARGS": "--name given"}).start()
    wait_for(lambda: len(service.workers()) == 3, 10)  # the first may answer before the last is forked
    assert f"http://0.0.0.0:{port}" in service.log
    service.clean_up()
    other = make(workers=1, environ={"GUNICORN_CMD_ARGS": "--workers=2 --threads=2"}).start()
    wait_for(lambda: len(other.workers()) == 2, 5)


def test_without_WEB_CONCURRENCY_there_are_two_or_more(make):
    service = make(workers=None).start()
    wait_for(lambda: len(service.workers()) == max(2, os.cpu_count() or 1), 10)


@pytest.mark.parametrize("worker_class", ["gthread", "sync", "gevent", "tornado"])
def test_all_worker_classes_serve(make, worker_class):
    if worker_class in ("gevent", "tornado"):
        pytest.importorskip(worker_class)
    service = make(worker_class=worker_class).start()
    shown = "poolmgr.gunicorn.worker.ThreadWorker" if worker_class == "gthread" else worker_class
    assert f"Using worker: {shown}" in service.log
    for number in range(20):
        assert service.ask("INCR", "n").json == {"result": number + 1}
    assert service.ask("BLPOP", "nothing", "0.05").json == {"result": None}
    with Load(service, "/readyz", callers=4) as load:
        load.wait_for_answers(40)
    assert load.failures() == []
    before = set(service.workers())
    service.send(signal.SIGHUP)
    renewed(service, before)
    lines = len(service.events("request"))
    assert service.ask("GET", "n").json == {"result": "20"}
    if worker_class == "sync":  # it answers first and logs then, and an end in between is an error to it
        wait_for(lambda: len(service.events("request")) > lines)
    service.stop()
    wait_for(lambda: nothing_is_left(service), 5)
    assert "Traceback" not in service.log
    assert not service.events("py.warnings")
    assert "Warning" not in service.log


@pytest.mark.parametrize("worker_class", ["gthread", "gevent"])
def test_a_blocked_command_does_not_hold_up_the_others_of_its_worker(make, worker_class):
    service = make(worker_class=worker_class, workers=1, threads=6).start()
    assert service.ask("PING").status == 200
    watch = Stopwatch()
    with ThreadPoolExecutor(6) as callers:
        blocked = [callers.submit(service.ask, "BLPOP", "nothing", "1") for _ in range(5)]
        assert callers.submit(service.ask, "PING").result().json == {"result": "PONG"}
        assert not any(answer.done() for answer in blocked)
        assert all(answer.result().json == {"result": None} for answer in blocked)
    assert watch.fair() < 4, "one after the other takes five seconds"


def test_a_preloaded_application_serves(make):
    service = make(arguments=("--preload",)).start()
    assert service.ask("PING").json == {"result": "PONG"}
    service.stop()
    wait_for(lambda: nothing_is_left(service), 5)


def test_the_configuration_of_a_wheel_is_the_same(make, short_dir):
    elsewhere = short_dir / "cwd"
    elsewhere.mkdir()
    service = make(conf="python:poolmgr.conf", cwd=elsewhere, environ={"PYTHONPATH": str(ROOT)}).start()
    assert service.ask("PING").json == {"result": "PONG"}


def test_a_checkout_is_found_from_anywhere(make, short_dir):
    elsewhere = short_dir / "cwd"
    elsewhere.mkdir()
    service = make(cwd=elsewhere, environ={"PYTHONPATH": None}).start()
    assert service.ask("PING").json == {"result": "PONG"}


@pytest.mark.parametrize("conf", [str(CONF), "python:poolmgr.conf"])
def test_somebodys_own_module_of_the_name_worker_is_the_one_they_get(make, short_dir, conf):
    site, elsewhere = short_dir / "site", short_dir / "cwd"
    site.mkdir()
    elsewhere.mkdir()
    (elsewhere / "worker.py").write_text("WHOSE = b'theirs'")
    (elsewhere / "theirs.py").write_text(
        "import worker\n"
        "def app(environ, start):\n"
        "    start('200 OK', [('Content-Type', 'application/json')])\n"
        "    return [b'{\"whose\": \"' + worker.WHOSE + b'\"}']\n"
    )
    for package in ("poolmgr", "worker"):  # as after pip install
        (site / package).symlink_to(ROOT / package)
    environ = {"PYTHONPATH": None if conf == str(CONF) else str(site)}
    service = make(conf=conf, cwd=elsewhere, app="theirs:app", environ=environ).start(path="/")
    assert service.get("/").json == {"whose": "theirs"}


def test_somebodys_own_application_is_served_and_makes_no_token(make):
    service = make(app="tests.apps.load:app").start(path="/pid")
    assert service.get("/get").json["value"] == "value"
    assert "token" not in service.files()
