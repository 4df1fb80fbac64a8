"""The service as one container: its first process, without a name, without a file but in ``/tmp``."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.containers.conftest import Pods, Server
from tests.containers.container import Container, Pod
from tests.containers.image import Image
from tests.containers.reach import request
from tests.helpers import wait_for
from tests.service import Answer

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

TOKEN = "token-of-the-tests"
BUDGET = 8

Serve = Callable[..., Server]


def start(pod: Pod, image: Image, **environ: str) -> Container:
    """The image's own command, with a server and a secret; ready to be asked."""
    given: dict[str, Any] = {
        "REDIS_URL": "redis://127.0.0.1:6379/0",
        "REDIS_CONNECTION_BUDGET": str(BUDGET),
        "WORKER_TOKEN_FILE": pod.secret("token", TOKEN + "\n"),
        "WEB_CONCURRENCY": "2",
        **environ,
    }
    container = pod.run(image, command=None, **given)
    wait_for(lambda: not container.running or answers(pod, "/healthz"), 60, what="the service answers")
    assert container.running, container.log
    return container


def answers(pod: Pod, path: str) -> bool:
    try:
        return request(pod.pid, "GET", path, timeout=5).status == 200
    except OSError:
        return False


def post(pod: Pod, *command: Any) -> Answer:
    return request(pod.pid, "POST", "/", list(command), token=TOKEN)


@contextlib.contextmanager
def blocked(pod: Pod, callers: int) -> Iterator[None]:
    """So many callers, each with a connection for a second at a time, if it gets one; all are gone afterwards."""
    enough = threading.Event()

    def go() -> None:
        while not enough.is_set():
            post(pod, "BLPOP", "nothing", 1)

    threads = [threading.Thread(target=go) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join(60)


def said_on_stdout(container: Container) -> set[str]:
    """Its events, without what varies."""
    lines = container.logs["stdout"].read_text().splitlines()
    return {re.sub(r":? \(?\d+\)?$", "", json.loads(line)["event"]).removesuffix(":") for line in lines}


def test_it_serves_as_a_number_on_a_read_only_root_and_leaves_files_in_its_volume_only(
    image: Image, pods: Pods, serve: Serve
) -> None:
    pod = pods()
    server = serve(pod, BUDGET)
    container = start(pod, image)
    assert post(pod, "SET", "a", "1").json == {"result": "OK"}
    said = container.exec(
        "sh", "-c", "id -u; id -g; id -nu; touch /etc/x /opt/redis-poolmgr/x; ls -A /root; echo ok >/tmp/y"
    )
    assert said.stdout.split()[:2] == ["10001", "10001"]
    assert "cannot find name for user ID 10001" in said.stderr
    assert said.stderr.count("Read-only file system") == 2
    assert container.processes()[1] == "tini"
    assert container.exec(*image.health).returncode == 0
    status = json.loads(container.exec("poolmgr", "status", "--json").stdout)
    assert [server["budget"] for server in status["servers"]] == [BUDGET]
    assert request(pod.pid, "GET", "/metrics", port=9108).status == 200
    assert [line for line in container.lines() if not line.startswith('{"timestamp"')] == [], "all that it says is JSON"
    assert {"request", "supervisor.started", "Booting worker with pid"} <= said_on_stdout(container)
    assert container.logs["stderr"].read_bytes() == b"", "one stream"
    assert TOKEN not in container.log
    assert container.stop() == 0
    assert server.info("rejected_connections") == 0
    assert wait_for(lambda: server.info("connected_clients") == 1)


def test_a_request_in_flight_is_answered_after_sigterm(image: Image, pods: Pods, serve: Serve) -> None:
    pod = pods()
    server = serve(pod, BUDGET)
    container = start(pod, image)
    found: list[Answer] = []
    caller = threading.Thread(target=lambda: found.append(post(pod, "BLPOP", "nothing", 2)))
    caller.start()
    wait_for(lambda: server.info("blocked_clients") == 1, what="the command waits")
    container.kill(signal.SIGTERM)
    caller.join(20)
    assert [answer.status for answer in found] == [200]
    assert container.wait() == 0
    assert os.listdir(pod.volume) == [], "it has cleaned up"


@pytest.mark.parametrize("moment", [0.05, 0.2, 0.4, 0.8])
def test_sigterm_at_any_moment_of_the_start_ends_it(image: Image, pods: Pods, moment: float) -> None:
    """The kernel drops a signal to the first process that has no handler for it (pid_namespaces(7))."""
    pod = pods()
    container = pod.run(image, WORKER_TOKEN="x", WEB_CONCURRENCY="1")
    wait_for(lambda: container.processes().get(1) == "tini", 10, what="the program has begun")
    time.sleep(moment)
    began = time.monotonic()
    container.stop(20)
    assert time.monotonic() - began < 10, container.log


def test_orphans_of_the_first_process_are_reaped(image: Image, pods: Pods, serve: Serve) -> None:
    """Its supervisor is a child of the first process, which did not start it."""
    pod = pods()
    serve(pod, BUDGET)
    container = start(pod, image)
    for number in range(1, 4):
        assert post(pod, "PING").status == 200  # a process that uses a pool has another supervisor started
        wait_for(lambda: len(container.events("supervisor.started")) == number, 20, what="another one")  # noqa: B023
        if number < 3:
            os.kill(_supervisor(container), signal.SIGKILL)
    workers = _pids(container, b"bin/gunicorn")[1:]
    os.kill(workers[0], signal.SIGKILL)
    wait_for(lambda: "zombie" not in container.processes().values(), 10, what="no zombie is left")
    wait_for(lambda: len(_pids(container, b"bin/gunicorn")) == 3, 20, what="another worker is there")


def _supervisor(container: Container) -> int:
    """Processes start it, several at once when it has ended; all but one of those end again."""
    wait_for(lambda: len(_pids(container, b"poolmgr.supervisor")) == 1, 20, what="there is one supervisor")
    (pid,) = _pids(container, b"poolmgr.supervisor")
    return pid


def _pids(container: Container, word: bytes) -> list[int]:
    """Processes of a container, as this machine numbers them."""
    ours = os.stat(f"/proc/{container.pid}/ns/pid").st_ino
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}/ns/pid").st_ino == ours:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if word in file.read():
                        found.append(int(name))
        except OSError:
            pass
    return sorted(found)


def test_a_container_that_is_killed_leaves_the_next_one_all_permits(image: Image, pods: Pods, serve: Serve) -> None:
    """Its files are still in the volume, and speak of process numbers that others have now. The kernel gives a new
    namespace the lowest number that is free, so the next one may have the same: then the snapshot is read, and none of
    its processes lives, since each started before."""
    pod = pods()
    server = serve(pod, BUDGET)
    namespaces = []

    def another() -> Container:
        container = start(pod, image)
        assert {post(pod, "PING").status for _ in range(10)} == {200}
        namespaces.append(os.stat(f"/proc/{container.pid}/ns/pid").st_ino)
        return container

    for _ in range(3):
        container = another()
        container.kill()
        assert container.wait()
    container = another()
    reasons = [event["reason"] for event in container.events("snapshot.unusable")]
    assert reasons == (["namespace"] if namespaces[-1] != namespaces[-2] else [])
    with blocked(pod, 24):
        wait_for(lambda: server.info("blocked_clients") == BUDGET - 1, 30, what="all but the supervisor's are used")
    assert server.info("rejected_connections") == 0
    assert container.stop() == 0


def test_a_full_volume_stops_growth_under_the_next_supervisor_and_nothing_else(
    image: Image, pods: Pods, serve: Serve
) -> None:
    pod = pods(size="4m")
    server = serve(pod, BUDGET)
    container = start(pod, image)
    assert post(pod, "PING").status == 200
    supervisor = _supervisor(container)
    full = pod.volume / "full"
    with full.open("wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 65536)
            file.flush()
    assert {post(pod, "INCR", "a").status for _ in range(10)} == {200}
    assert answers(pod, "/healthz") and answers(pod, "/readyz")
    with blocked(pod, 24):
        wait_for(lambda: server.info("blocked_clients") == BUDGET - 1, 30, what="the snapshot has its room already")
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: container.events("snapshot.unwritable"), 30, what="the next supervisor has none, and says so")
    assert {post(pod, "INCR", "a").status for _ in range(10)} == {200}
    assert answers(pod, "/healthz") and answers(pod, "/readyz")
    full.unlink()
    wait_for(lambda: container.events("snapshot.writable"), 30, what="it has room")
    with blocked(pod, 24):
        wait_for(lambda: server.info("blocked_clients") == BUDGET - 1, 30, what="all permits are used again")
    container.kill(signal.SIGHUP)
    wait_for(lambda: answers(pod, "/readyz"), 20)
    assert container.stop() == 0
    assert server.info("rejected_connections") == 0


def test_a_start_with_a_full_volume_says_so_and_ends(image: Image, pods: Pods, serve: Serve) -> None:
    pod = pods(size="4m")
    serve(pod, BUDGET)
    with (pod.volume / "full").open("wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 65536)
            file.flush()
    container = pod.run(image, REDIS_URL="redis://127.0.0.1:6379/0", WORKER_TOKEN="x", WEB_CONCURRENCY="1")
    assert container.wait(60) == 1
    (line,) = [line for line in container.lines() if not line.startswith("{")]
    assert line.startswith("Error: ") and "No space left" in line


def test_without_a_server_it_ends_with_one_line_and_the_next_start_serves(
    image: Image, pods: Pods, serve: Serve
) -> None:
    pod = pods()
    container = pod.run(image, REDIS_URL="redis://127.0.0.1:6379/0", WORKER_TOKEN="x", WEB_CONCURRENCY="1")
    assert container.wait(60) == 1
    (line,) = [line for line in container.lines() if not line.startswith("{")]
    assert line.startswith("Error: REDIS_URL") and "Connection refused" in line
    serve(pod, BUDGET)
    start(pod, image)
    assert post(pod, "PING").status == 200


def test_the_probes_answer_while_every_thread_and_permit_is_in_use(image: Image, pods: Pods, serve: Serve) -> None:
    pod = pods()
    server = serve(pod, 3)
    container = start(pod, image, REDIS_CONNECTION_BUDGET="3", WORKER_THREADS="4", REDIS_POOL_TIMEOUT="8")
    callers = [threading.Thread(target=lambda: post(pod, "BLPOP", "nothing", 4)) for _ in range(12)]
    for caller in callers:
        caller.start()
    wait_for(lambda: server.info("blocked_clients") >= 2, what="all that may be in use are")
    slowest = 0.0
    for path in ("/healthz", "/readyz", "/readyz", "/healthz"):
        began = time.monotonic()
        assert answers(pod, path), path
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 1, "a probe's default timeout"
    server.stop()
    wait_for(lambda: not answers(pod, "/readyz"), 20, what="it is not ready without a server")
    assert answers(pod, "/healthz")
    for caller in callers:
        caller.join(30)
    assert container.running
