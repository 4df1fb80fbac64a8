"""The service in a real gunicorn: how it ends and leaves nothing, and goes on over reloads, upgrades and outages."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import redis

from poolmgr.gunicorn.master_link import PARTING
from tests.helpers import alive, free_port, kill, wait_for
from tests.load import Load
from tests.service import GUNICORN, LOAD_APP, Service, children_of, has_workers, nothing_is_left, renewed
from tests.stopwatch import Stopwatch

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
    watch = Stopwatch()
    service.send(signal.SIGINT)
    wait_for(lambda: "Shutting down: Master" in service.log, 10)
    assert service.stop() == 0
    (line,) = service.events("Shutting down: Master")
    assert datetime.now(UTC) - datetime.fromisoformat(line["timestamp"]) > timedelta(seconds=PARTING * 0.9)
    assert watch.fair() < PARTING + 5
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
    # The server has ended too: if that was before the supervisor had looked, the scope says what is unproven.
    left = {"token", "s.scope"} if service.events("quarantine.unproven") else {"token"}
    assert set(service.files()) <= left


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


def test_a_second_master_starts_though_the_supervisor_hangs(make):
    """Whoever finds out first replaces it: a worker, while the master waits for an answer, or the master."""
    service = make(workers=1).start()
    assert service.ask("SET", "k", "v").status == 200
    hung = service.supervisor()
    kill(hung, signal.SIGSTOP)
    service.upgrade(timeout=40)
    wait_for(lambda: not alive(hung), 20, what="it is replaced")
    assert service.ask("GET", "k").json == {"result": "v"}


def test_a_supervisor_that_has_gone_is_started_again_though_nobody_waits_for_a_permit(make):
    """It also watches the server's limits, proves ends and serves the metrics."""
    service = make(workers=1).start()
    assert service.ask("SET", "k", "v").status == 200
    first = service.supervisor()
    kill(first)
    wait_for(lambda: service.supervisor() not in (0, first), 10, what="a new one, without a request")
    assert service.ask("GET", "k").json == {"result": "v"}


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


def test_workers_do_not_hold_the_masters_link(make):
    """Else the supervisor would live as long as an orphan, and a master's end would not be seen."""
    service = make().start()
    inode = socket_inodes(service.pid)
    for pid in service.workers():
        assert not inode & socket_inodes(pid) - listeners(service)
    assert children_of(service.pid) == sorted(service.workers())
    assert sys.platform == "linux"


def test_a_worker_that_collects_garbage_copies_nothing_of_its_masters(make):
    """Its end is a collection too: with what the master has loaded it takes longer than all that a worker loads."""
    service = make(app=LOAD_APP, workers=1, cold=True).start(path="/pid")
    assert service.get("/collect").json["copied"] < 4 << 20


def test_the_framework_is_loaded_once_by_the_master(make):
    service = make(cold=True).start()
    first, *others = (loaded_at(pid, "/falcon/cyutil/") for pid in (service.pid, *service.workers()))
    assert first and others == [first] * 2


def loaded_at(pid: int, name: str) -> list[str]:
    """Where a process has a library: no other one has it there if it has loaded that itself."""
    rows = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [row.partition(" ")[0] for row in rows if name in row]


def socket_inodes(pid: int) -> set[str]:
    return {target for fd in Path(f"/proc/{pid}/fd").iterdir() if (target := os.readlink(fd)).startswith("socket:")}


def listeners(service: Service) -> set[str]:
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    wanted = f":{service.port:04X}"
    return {f"socket:[{row.split()[9]}]" for row in rows if row.split()[1].endswith(wanted)}
