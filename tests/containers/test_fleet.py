"""Pods of one fleet: a rolling update under load, and a container that is killed. The server has room for exactly the
fleet's budget and the observers, so one connection too many is seen."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers import deployment
from tests.containers.conftest import Pods
from tests.containers.deployment import Client, Load, Replica, Service
from tests.containers.image import Image
from tests.fleet import hosts
from tests.fleet.namespaces import PORT, SERVER, InNamespace, bridge, join
from tests.helpers import ROOT, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("ip") is None, reason="the program ip (package iproute2) is not installed"),
]

BUDGET = 16
OBSERVERS = 2
CLIENTS = 12
PAUSE = 0.2
"""Seconds between two requests of one: in the second for which the Service does not know that a pod ends, some twenty
requests go to that one."""
REPLICAS = 3
TOKEN, PASSWORD = "token-of-the-tests", "password-of-the-tests"


def rights() -> list[str]:
    """The page's own line."""
    found = re.search(r"^ACL SETUSER app (.*)$", (ROOT / "docs" / "containers.md").read_text(), re.MULTILINE)
    assert found
    return found[1].replace("PASSWORD", PASSWORD).split()


@pytest.fixture
def server() -> Iterator[InNamespace]:
    hub, base = bridge(), Path(tempfile.mkdtemp(prefix="pmf", dir="/tmp"))
    made = InNamespace(hub, base, BUDGET + OBSERVERS)
    made.start()
    made.hub = hub  # type: ignore[attr-defined]
    try:
        yield made
    finally:
        made.stop()
        hub.end()
        shutil.rmtree(base, ignore_errors=True)


Start = Callable[[], Replica]


@pytest.fixture
def replicas(image: Image, pods: Pods, server: InNamespace) -> Iterator[tuple[Service, Start]]:
    """The Service, and what starts another pod behind it."""
    with server.observer() as client:
        client.execute_command("ACL", "SETUSER", "app", "reset", *rights())
    service, numbers, made = Service(), itertools.count(10), []

    def start() -> Replica:
        number = next(numbers)
        pod = pods(name=f"redis-worker-7d4b9c6f5-{number}")
        join(server.hub, pod.pid, f"p{number}", number)  # type: ignore[attr-defined]
        environ = {
            **deployment.environment(),
            "REDIS_URL": f"redis://app:{PASSWORD}@{SERVER}:{PORT}/0",
            "REDIS_FLEET_BUDGET": str(BUDGET),
            "WORKER_TOKEN_FILE": pod.secret("token", TOKEN + "\n"),
        }
        made.append(Replica(pod, service, deployment.start(image, environ)))
        return made[-1]

    yield service, start
    for replica in made:
        replica.forget()


def members(replica: Replica) -> set[str]:
    """The fleet's hosts, as a person in that pod sees them."""
    said = replica.container.exec("poolmgr", "fleet", "--json")
    assert said.returncode == 0, said.stderr
    return {host["host"] for host in json.loads(said.stdout)["hosts"]}


def counted(server: InNamespace) -> int:
    with server.observer() as client:
        return int(client.get("app:requests") or 0)


def test_a_rolling_update_of_a_fleet_under_load_loses_no_request_and_a_kill_only_its_own(
    server: InNamespace, replicas: tuple[Service, Start]
) -> None:
    service, start = replicas
    running = [start() for _ in range(REPLICAS)]
    for replica in running:
        replica.wait()
    assert members(running[0]) == {replica.pod.name for replica in running}, "a pod's name is its host's"

    commands = [["INCR", "app:requests"]] * CLIENTS
    with Load([Client(service, TOKEN, command, PAUSE) for command in commands]) as load:
        for old in list(running):
            running.append(start().wait())
            before = load.good
            wait_for(lambda: load.lost() or load.good > before + 50, 60, what="it works under load")  # noqa: B023
            running.remove(old)
            assert old.end() == 0
            assert load.lost() == []
        assert members(running[-1]) == {replica.pod.name for replica in running}, "what has ended has left"

        (victim, *others) = running
        before = load.good
        victim.kill()
        wait_for(victim.ready.is_set, 90, what="it is started again, and is ready")
        wait_for(lambda: load.good > before + 200, 60, what="all goes on")
    assert {lost[1].pod.name for lost in load.bad} <= {victim.pod.name}, load.lost()
    assert load.good <= counted(server) <= load.good + len(load.bad), "each was run once"
    assert all(other.container.running and not other.killed for other in others)
    with server.observer() as observer:
        assert hosts.rejected(observer) == 0
        found = hosts.connected(observer, deployment.environment()["REDIS_FLEET"])
        assert 0 < sum(found.values()) <= BUDGET
