"""The service in a real gunicorn: starts, signals, bad input, other people's applications; nothing left."""

from __future__ import annotations

import os
import signal
import socket
import sys
import textwrap
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import redis

from poolmgr.gunicorn import PARTING
from tests.helpers import ROOT, alive, free_port, kill, wait_for
from tests.service import CONF, GUNICORN, Load, Service, children_of


@pytest.fixture
def make(isolated):
    """Makes services that are ended with the test, however it ends."""
    made: list[Service] = []

    def build(**options) -> Service:
        service = Service(isolated.parent, **options)
        made.append(service)
        return service

    yield build
    for service in made:
        service.clean_up()


def renewed(service: Service, before: set[int]) -> set[int]:
    """The workers of a service of two, once none of the earlier ones is there any more."""
    wait_for(lambda: len(service.workers()) == 2 and not before & set(service.workers()), 20, what="new workers")
    return set(service.workers())


def has_workers(service: Service, count: int) -> bool:
    return len(service.workers()) == count


def nothing_is_left(service: Service) -> bool:
    return not service.processes() and not service.files()


# ---- ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_after_a_signal_no_process_and_no_file_is_left(make, number):
    service = make().start()
    assert service.ask("SET", "k", "v").json == {"result": "OK"}
    assert service.files(), "there was something to remove"
    assert service.stop(number) == 0
    wait_for(lambda: nothing_is_left(service), 5, what=f"nothing is left: {service.processes()} {service.files()}")
    assert "Traceback" not in service.log
    assert not [event for event in service.events() if event["level"] in ("error", "critical")]


def test_in_the_end_nothing_is_said_after_the_masters_last_line(make):
    """In a terminal it would stand in the next prompt. Also where no worker has used a pool, and so said goodbye."""
    service = make(environ={"POOLMGR_LINGER": "60"}).start()
    assert service.supervisor()
    service.stop()
    assert service.events()[-1]["event"] == "supervisor.ended"
    assert not service.supervisor()
    wait_for(lambda: nothing_is_left(service), 5)


def test_a_master_waits_for_its_supervisor_to_end_but_not_long(make):
    service = make().start()
    kill(service.supervisor(), signal.SIGSTOP)
    service.send(signal.SIGINT)
    wait_for(lambda: "Shutting down: Master" in service.log, 10)
    seen = time.monotonic()
    assert service.stop() == 0
    assert PARTING * 0.9 < time.monotonic() - seen < PARTING + 5
    kill(service.supervisor(), signal.SIGCONT)
    wait_for(lambda: nothing_is_left(service), 5)


def test_a_master_that_leaves_does_not_end_what_others_use(make):
    service = make(redis_url=None).start()
    second = service.upgrade()
    before = service.supervisor()
    assert service.stop() == 0
    assert service.ask("PING").json == {"result": "PONG"}
    assert service.supervisor() == before
    kill(second, signal.SIGINT)
    wait_for(lambda: nothing_is_left(service), 5)


def test_a_quick_shutdown_does_not_wait_for_blocked_commands(make):
    service = make(workers=1, threads=2, environ={"REDIS_SOCKET_TIMEOUT": "60"}).start()
    with ThreadPoolExecutor(4) as callers:  # more than there are threads: some are queued
        answers = [callers.submit(service.ask, "BLPOP", "nothing", 0) for _ in range(4)]
        wait_for(lambda: blocked(service) == 2, 10)
        service.stop(signal.SIGINT)
        wait_for(lambda: nothing_is_left(service), 5 - 2)
        assert all(answer.exception() is not None for answer in answers)


def blocked(service: Service) -> int:
    """How many clients of the embedded server are blocked."""
    with redis.Redis(unix_socket_path=f"{service.socket}.redis", decode_responses=True) as client:
        return int(client.info("clients")["blocked_clients"])


def test_an_idle_service_has_its_supervisor_and_its_server(make):
    service = make().start()
    assert service.supervisor()
    assert service.ask("PING").json == {"result": "PONG"}
    assert Counter(event["event"] for event in service.events())["supervisor.started"] == 1


def test_a_killed_master_leaves_nothing_once_its_workers_have_noticed(make):
    service = make().start()
    service.ask("SET", "k", "v")
    service.stop(signal.SIGKILL)
    wait_for(lambda: not service.processes(), 10)
    assert [name for name in service.files() if name != "token"] == []


def test_a_killed_service_leaves_nothing_at_all(make):
    """Every process of gunicorn's at once, as the kernel does when memory is short."""
    service = make().start()
    service.ask("SET", "k", "v")
    for pid in [*service.workers(), service.pid]:
        kill(pid)
    wait_for(lambda: not service.processes(), 10)
    assert [name for name in service.files() if name != "token"] == []


# ---- goes on -----------------------------------------------------------------------------------


def test_a_reload_keeps_the_data_the_token_and_one_line_for_each_event(make):
    service = make().start()
    token, before = service.token, set(service.workers())
    service.ask("SET", "k", "v")
    for _ in range(2):
        service.send(signal.SIGHUP)
        before = renewed(service, before)
    assert service.token == token
    assert service.ask("GET", "k").json == {"result": "v"}
    service.get("/healthz?once")
    service.get("/healthz?after")
    wait_for(lambda: {"/healthz?once", "/healthz?after"} <= set(paths_logged(service)))
    assert paths_logged(service).count("/healthz?once") == 1
    assert len(service.events("embedded.started")) == 1
    assert alive(service.pid)


def paths_logged(service: Service) -> list[str]:
    return [event["path"] for event in service.events("request")]


def test_more_and_fewer_workers(make):
    service = make(workers=2).start()
    service.send(signal.SIGTTIN)
    wait_for(lambda: len(service.workers()) == 3, 10)
    for count in (2, 1):  # one at a time: the kernel makes two pending signals of a kind one
        service.send(signal.SIGTTOU)
        wait_for(partial(has_workers, service, count), 10)
    assert service.ask("PING").status == 200


@pytest.mark.parametrize("program", [GUNICORN, (sys.executable, "-m", "gunicorn")], ids=["script", "module"])
def test_an_upgrade_keeps_the_data_and_the_token_and_leaves_nothing(make, program):
    service = make(program=program).start()
    token = service.token
    service.ask("SET", "k", "v")
    second = service.upgrade()
    assert service.stop(signal.SIGTERM) == 0
    assert service.token == token
    assert service.ask("GET", "k").json == {"result": "v"}
    assert len(service.events("embedded.started")) == 1
    assert len(service.events("supervisor.started")) == 1
    os.kill(second, signal.SIGINT)
    wait_for(lambda: nothing_is_left(service), 5)


def test_an_upgrade_that_is_taken_back_changes_nothing(make):
    service = make().start()
    service.ask("SET", "k", "v")
    second = service.upgrade()
    os.kill(second, signal.SIGTERM)
    wait_for(lambda: not alive(second), 10)
    assert service.token
    assert service.ask("GET", "k").json == {"result": "v"}


def test_a_killed_supervisor_fails_no_request_and_its_successor_is_found(make):
    service = make(app="tests.apps.load:app").start(path="/pid")
    with Load(service, "/get", callers=4) as load:
        load.wait_for_answers(20)
        first = service.supervisor()
        kill(first)
        wait_for(lambda: service.supervisor() not in (0, first), 20)
        load.wait_for_answers(100)
    assert load.failures() == []


def test_redis_goes_away_and_comes_back(make, redis_server):
    server = redis_server(port=free_port())
    service = make(redis_url=server.url).start()
    assert service.ask("SET", "k", "v").status == 200
    server.stop()
    answer = wait_for(lambda: (found := service.ask("GET", "k")).status == 503 and found, 10)
    assert "Redis cannot be reached" in answer.json["error"]
    assert int(answer.headers["retry-after"]) >= 1
    assert service.get("/readyz").status == 503
    assert service.get("/healthz").status == 200
    server.start()
    wait_for(lambda: service.ask("GET", "k").status == 200, 15)
    wait_for(lambda: service.get("/readyz").status == 200, 5)
    assert "Traceback" not in service.log


def test_an_outage_ends_although_the_supervisor_that_told_of_it_has_ended_first(make, redis_server):
    """Callers fail fast meanwhile and want no connection: that alone has nobody start another one."""
    server = redis_server(port=free_port())
    service = make(workers=1, redis_url=server.url).start()
    assert service.ask("SET", "k", "v").status == 200
    server.stop()
    wait_for(lambda: "(2 s)" in service.ask("GET", "k").json.get("error", ""), 10, what="nobody waits any more")
    kill(service.supervisor())
    server.start()
    wait_for(lambda: service.ask("GET", "k").status == 200, 15)


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
        bad("REDIS_URL", "unix:///nowhere/redis.sock", "No such file", "start it"),
        bad("WORKER_THREADS", "x", "'x'"),
        bad("WORKER_CLASS", "nope", "'nope'", "gthread"),
        bad("WORKER_TOKEN", "two words", "printable"),
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


def test_a_wrong_password_is_told_without_telling_it(make, redis_server):
    server = redis_server(port=free_port(), requirepass="right")
    service = make(redis_url=f"redis://:wrong-one@127.0.0.1:{server.port}/0")
    line = assert_one_line(service, ("REDIS_URL", "***", "password", "correct"))
    assert "wrong-one" not in line
    assert "wrong-one" not in service.log
    line = assert_one_line(make(redis_url=f"redis://127.0.0.1:{server.port}/0"), ("REDIS_URL", "wants a password"))
    assert "refuses" not in line, "there was none to refuse"


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


def test_somebody_elses_socket_is_refused(make, isolated):
    isolated.write_text("not a socket")
    service = make()
    status, log = service.run()
    assert status == 1
    assert str(isolated) in log.splitlines()[-1]
    assert isolated.read_text() == "not a socket"


# ---- what gunicorn's own settings mean ------------------------------------------------------------


def test_PORT_and_WEB_CONCURRENCY_and_GUNICORN_CMD_ARGS_keep_their_meaning(make):
    port = free_port()
    service = make(port=port, workers=3, environ={"PORT": str(port), "GUNICORN_CMD_ARGS": "--name given"}).start()
    assert len(service.workers()) == 3
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
    assert f"Using worker: {worker_class}" in service.log
    for number in range(20):
        assert service.ask("INCR", "n").json == {"result": number + 1}
    assert service.ask("BLPOP", "nothing", "0.05").json == {"result": None}
    with Load(service, "/readyz", callers=4) as load:
        load.wait_for_answers(40)
    assert load.failures() == []
    before = set(service.workers())
    service.send(signal.SIGHUP)
    renewed(service, before)
    assert service.ask("GET", "n").json == {"result": "20"}
    service.stop()
    wait_for(lambda: nothing_is_left(service), 5)
    assert "Traceback" not in service.log
    assert not service.events("py.warnings")
    assert "Warning" not in service.log


@pytest.mark.parametrize("worker_class", ["gthread", "gevent"])
def test_a_blocked_command_does_not_hold_up_the_others_of_its_worker(make, worker_class):
    service = make(worker_class=worker_class, workers=1, threads=6).start()
    assert service.ask("PING").status == 200
    begin = time.monotonic()
    with ThreadPoolExecutor(6) as callers:
        blocked = [callers.submit(service.ask, "BLPOP", "nothing", "0.6") for _ in range(5)]
        assert callers.submit(service.ask, "PING").result().json == {"result": "PONG"}
        assert time.monotonic() - begin < 0.5
        assert all(answer.result().json == {"result": None} for answer in blocked)
    assert time.monotonic() - begin < 2.0, "one after the other takes three seconds"


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


# ---- somebody's own configuration -----------------------------------------------------------------

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
    assert "WORKER_MAX_BODY is 'much'" in service.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_obeys_a_signal_that_comes_before_it_can_take_one(own, number):
    service, path = own()
    path.write_text(path.read_text().replace('print("theirs: post_fork", flush=True)', "import time; time.sleep(1)"))
    service.spawn()
    wait_for(lambda: "Booting worker" in service.log, 10)
    service.send(number)
    assert service.stop(number, timeout=10) == 0, "else it waits for thirty seconds"


def test_install_adds_our_hooks_to_theirs(own):
    service, _ = own()
    service.start(path="/pid")
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
    assert "REDIS_CONNECTION_BUDGET is 'many'" in answer.json["error"]


def test_workers_do_not_hold_the_masters_link(make):
    """Else the supervisor would live as long as an orphan, and a master's end would not be seen."""
    service = make().start()
    inode = socket_inodes(service.pid)
    for pid in service.workers():
        assert not inode & socket_inodes(pid) - listeners(service)
    assert children_of(service.pid) == sorted(service.workers())
    assert sys.platform == "linux"


def socket_inodes(pid: int) -> set[str]:
    return {target for fd in Path(f"/proc/{pid}/fd").iterdir() if (target := os.readlink(fd)).startswith("socket:")}


def listeners(service: Service) -> set[str]:
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    wanted = f":{service.port:04X}"
    return {f"socket:[{row.split()[9]}]" for row in rows if row.split()[1].endswith(wanted)}
