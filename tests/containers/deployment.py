"""A Deployment and its Service, of the manifests' own numbers: who starts pods, asks their probes, sends them requests
and ends them.

What a cluster does that matters here, and no more. A pod gets requests from when it is ready until the Service has
heard that it is not, or is to end; the Service hears that late. A pod that is to end runs ``preStop`` and gets SIGTERM;
its end must come within its grace. A container that ends by itself is started again in its pod.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import yaml

from tests.containers.container import Container, Pod
from tests.containers.image import Image
from tests.containers.reach import request
from tests.helpers import ROOT, wait_for
from tests.service import Answer

MANIFEST = ROOT / "deploy" / "container" / "kubernetes" / "base" / "deployment.yaml"

LAG = 1.0
"""Seconds after which the Service has heard what became of a pod."""

EVERY = 0.5
"""Seconds between two probes; the manifest's are for a cluster that has more to do."""


def specification() -> dict[str, Any]:
    """Of its pods."""
    found: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())["spec"]["template"]["spec"]
    return found


class Service:
    """Who gets the next connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready: list[Replica] = []
        """Guarded by the lock."""
        self._turn = itertools.count()

    def add(self, replica: Replica) -> None:
        with self._lock:
            if replica not in self._ready:
                self._ready.append(replica)

    def remove(self, replica: Replica) -> None:
        with self._lock:
            if replica in self._ready:
                self._ready.remove(replica)

    def pick(self) -> Replica:
        with self._lock:
            assert self._ready, "no pod is ready"
            return self._ready[next(self._turn) % len(self._ready)]


class Replica:
    """A pod of the Deployment, and what is done to it.

    Args:
        run: starts its container; again after an end that nobody asked for.
    """

    def __init__(self, pod: Pod, service: Service, run: Callable[[Pod], Container]) -> None:
        self.pod, self.service, self._run = pod, service, run
        spec = specification()
        (container,) = spec["containers"]
        self._probe = container["readinessProbe"]
        self._before_the_end = container["lifecycle"]["preStop"]["exec"]["command"]
        self._grace = spec["terminationGracePeriodSeconds"]
        self.container = run(pod)
        self.ready = threading.Event()
        self.killed: list[float] = []
        """When it was, by a test."""
        self._ending = threading.Event()
        self._over = threading.Event()
        self._prober = threading.Thread(target=self._look_after, daemon=True)
        self._prober.start()

    def _look_after(self) -> None:
        self._ask()
        self._over.wait()  # what a thread has started is killed with it (PR_SET_PDEATHSIG)

    def _ask(self) -> None:
        failed = 0
        while not self._ending.wait(EVERY):
            if not self.container.running and not self._ending.is_set():
                self._not_ready()
                self.container = self._run(self.pod)
            failed = 0 if self._answers() else failed + 1
            if self._ending.is_set():
                return
            if failed == 0:
                self.ready.set()
                self.service.add(self)
            elif failed >= self._probe["failureThreshold"]:
                self._not_ready()

    def _answers(self) -> bool:
        path = self._probe["httpGet"]["path"]
        try:
            return request(self.pod.pid, "GET", path, timeout=self._probe["timeoutSeconds"]).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _not_ready(self) -> None:
        self.ready.clear()
        self.service.remove(self)

    def wait(self) -> Replica:
        assert self.ready.wait(90), f"{self.pod.name} is not ready: {self.container.log[-2000:]}"
        return self

    def kill(self) -> None:
        """As an out-of-memory killer does, or a person."""
        self.killed.append(time.monotonic())
        self.ready.clear()
        self.container.kill()
        wait_for(lambda: not self.container.running, 20, what="the container has ended")

    def end(self) -> int:
        """In good order. Its exit status."""
        self._ending.set()
        heard = threading.Timer(LAG, self.service.remove, [self])
        heard.start()
        done = self.container.exec(*self._before_the_end)
        assert done.returncode == 0, done.stderr
        status = self.container.stop(self._grace - LAG)
        heard.join()
        self._over.set()
        self._prober.join()
        return status

    def forget(self) -> None:
        """Nothing is asked of it any more, whatever state it is in."""
        self._ending.set()
        self._over.set()
        self._prober.join(30)


class Client:
    """Sends requests, one after the other, each in a connection of its own.

    Attributes:
        good: how many got an answer of success.
        bad: the others: when they began, to which pod they went and what came back.
    """

    def __init__(self, service: Service, token: str, command: list[Any], pause: float) -> None:
        self.service, self.token, self.command, self.pause = service, token, command, pause
        self.good = 0
        self.bad: list[tuple[float, Replica, str]] = []
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def _go(self) -> None:
        while not self._enough.wait(self.pause):
            began, replica = time.monotonic(), self.service.pick()
            try:
                answer: Answer = request(replica.pod.pid, "POST", "/", self.command, token=self.token, timeout=60)
            except (OSError, http.client.HTTPException) as error:
                self.bad.append((began, replica, repr(error)))
                continue
            if answer.status == 200:
                self.good += 1
            else:
                self.bad.append((began, replica, f"{answer.status} {answer.body[:200]!r}"))

    def stop(self) -> None:
        self._enough.set()
        self._thread.join(70)
        assert not self._thread.is_alive()


class Load:
    """Clients, whose requests are counted together."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = clients

    @property
    def good(self) -> int:
        return sum(client.good for client in self.clients)

    @property
    def bad(self) -> list[tuple[float, Replica, str]]:
        return [lost for client in self.clients for lost in list(client.bad)]

    def lost(self) -> list[str]:
        """Those without an answer of success, for people."""
        return [f"{replica.pod.name}: {text}" for _, replica, text in self.bad]

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.stop()


def environment() -> dict[str, str]:
    """What the manifest sets in plain words."""
    (container,) = specification()["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def start(image: Image, environ: dict[str, Any]) -> Callable[[Pod], Container]:
    def run(pod: Pod) -> Container:
        return pod.run(image, command=None, **environ)

    return run
