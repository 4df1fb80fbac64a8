"""The supervisor in a container of its own beside the service's: what they must share, and what happens otherwise."""

from __future__ import annotations

import dataclasses
import json
import signal
from typing import Any

import pytest

from tests.containers.conftest import Pods
from tests.containers.container import Container, Pod
from tests.containers.image import Image
from tests.containers.reach import request
from tests.containers.test_service import BUDGET, TOKEN, Serve, answers, blocked, post
from tests.helpers import wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

SUPERVISOR = ["python3", "-m", "poolmgr.supervisor"]


def sidecar(pod: Pod, image: Image) -> Container:
    container = pod.run(
        image, command=SUPERVISOR, POOLMGR_LINGER="forever", POOLMGR_LOG_FORMAT="json",
        REDIS_CONNECTION_BUDGET=str(BUDGET),
    )  # fmt: skip
    wait_for(lambda: not container.running or container.events("supervisor.started"), 30)
    assert container.running, container.log
    return container


def service(pod: Pod, image: Image, **environ: Any) -> Container:
    return pod.run(
        image, REDIS_URL="redis://127.0.0.1:6379/0", WORKER_TOKEN=TOKEN, WEB_CONCURRENCY="2", POOLMGR_AUTOSTART="0",
        REDIS_CONNECTION_BUDGET=str(BUDGET),
        **environ,
    )  # fmt: skip


def test_a_sidecar_outlives_the_service_and_serves_the_next_one(image: Image, pods: Pods, serve: Serve) -> None:
    pod = pods(shares_processes=True)
    server = serve(pod, BUDGET)
    beside = sidecar(pod, image)
    wait_for(lambda: request_or_none(pod, 9108), 10, what="its metrics answer, which a probe asks for")
    for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        container = service(pod, image)
        wait_for(lambda: answers(pod, "/readyz"), 60, what="the service is ready")
        assert {post(pod, "PING").status for _ in range(10)} == {200}
        status = json.loads(container.exec("poolmgr", "status", "--json").stdout)
        assert [found["budget"] for found in status["servers"]] == [BUDGET]
        container.kill(end)
        container.wait()
        wait_for(lambda: not answers(pod, "/healthz"), 20, what="its workers end too")
        assert beside.running
        wait_for(lambda: "zombie" not in beside.processes().values(), 10, what="none of its processes is left")
    assert len(beside.events("supervisor.started")) == 1
    assert beside.logs["stderr"].read_bytes() == b"", "one stream"
    assert server.info("rejected_connections") == 0
    assert beside.stop() in (0, 143)


def workers_that_hold(container: Container) -> int:
    (server,) = json.loads(container.exec("poolmgr", "status", "--json").stdout)["servers"]
    return sum(member["title"] == "gunicorn worker" and member["charge"] > 0 for member in server["members"])


def request_or_none(pod: Pod, port: int) -> bool:
    try:
        return request(pod.pid, "GET", "/metrics", port=port).status == 200
    except OSError:
        return False


def test_a_sidecar_that_is_killed_leaves_the_ledger_to_the_next_one(image: Image, pods: Pods, serve: Serve) -> None:
    pod = pods(shares_processes=True)
    server = serve(pod, BUDGET)
    beside = sidecar(pod, image)
    container = service(pod, image)
    wait_for(lambda: answers(pod, "/readyz"), 60, what="the service is ready")
    with blocked(pod, 4):  # one worker takes all that come one after the other
        wait_for(lambda: workers_that_hold(container) == 2, 60, what="each worker has a connection")
    beside.kill()
    beside.wait()
    assert {post(pod, "PING").status for _ in range(10)} == {200}, "processes keep what they hold"
    again = sidecar(pod, image)
    wait_for(lambda: again.events("snapshot.restored") and again.events("member.joined"), 20, what="they join it")
    assert {post(pod, "PING").status for _ in range(10)} == {200}
    assert server.info("rejected_connections") == 0


def test_without_the_pods_process_numbers_nothing_is_confused_and_the_error_says_what_to_do(
    image: Image, pods: Pods, serve: Serve
) -> None:
    """The kernel says 0 for a process that cannot be seen (unix(7), SO_PEERCRED)."""
    pod = pods()
    serve(pod, BUDGET)
    beside = sidecar(pod, image)
    container = service(pod, image)
    assert container.wait(60) == 1, container.log
    (line,) = [line for line in container.lines() if not line.startswith("{")]
    assert line.startswith("Error: ")
    assert "another pid namespace" in line and "shareProcessNamespace: true" in line
    assert beside.running
    assert {event["member"] for event in beside.events("client.refused")} == {0}
    assert beside.events("member.joined") == []


def test_a_container_of_another_user_is_refused_in_one_line(image: Image, pods: Pods, serve: Serve) -> None:
    pod = pods(shares_processes=True)
    serve(pod, BUDGET)
    beside = sidecar(pod, image)
    other = dataclasses.replace(image, user="10002:10002")
    container = service(pod, other, POOLMGR_SOCKET="/tmp/redis-poolmgr-10001/supervisor")
    assert container.wait(60) == 1, container.log
    (line,) = [line for line in container.lines() if not line.startswith("{")]
    assert line.startswith("Error: ") and "as uid 10002" in line
    assert beside.running
