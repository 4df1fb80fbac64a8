"""The promise, against a real server and a real gunicorn: together never more than the budget.

The server's ``maxclients`` leaves room for the budget and the observers and nothing else, so its
``rejected_connections`` counts every connection too many, however short its life.

``make oracle`` runs the long version (``POOLMGR_ORACLE_SECONDS=30``).
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter

import pytest
import redis

from poolmgr import tags
from tests.helpers import alive, free_port, kill, tool, wait_for
from tests.load import Load
from tests.service import Service
from tests.stopwatch import Stopwatch

BUDGET = 12
OBSERVERS = 1
SECONDS = float(os.environ.get("POOLMGR_ORACLE_SECONDS", "8"))


@pytest.fixture
def server(redis_server):
    return redis_server(port=free_port(), maxclients=BUDGET + OBSERVERS)


def status(service: Service) -> dict:
    """``poolmgr status --json``, the way an operator asks."""
    found: dict = json.loads(tool("status", "--json", environ=service.environ))
    return found


class Storm:
    """What befalls the service, with the moments at which workers were killed."""

    def __init__(self, service: Service, seed: int) -> None:
        self.service = service
        self.random = random.Random(seed)
        self.kills: list[float] = []
        self.master = service.pid

    def kill_a_worker(self) -> None:
        workers = self.service.workers(self.master)
        if workers:
            pid = self.random.choice(workers)
            # A request is excused if it was open between these two; the process is gone by the second.
            self.kills.append(time.monotonic())
            kill(pid)
            wait_for(lambda: not alive(pid), 5)
            self.kills.append(time.monotonic())

    def kill_the_supervisor(self) -> None:
        pid = self.service.supervisor()
        assert pid, "there is no supervisor to kill"
        kill(pid)

    def signal(self, number: int) -> None:
        os.kill(self.master, number)

    def upgrade(self) -> None:
        """USR2, and the old master is stopped afterwards."""
        old, self.master = self.master, self.service.upgrade()
        os.kill(old, signal.SIGTERM)


def test_no_storm_makes_the_server_see_one_connection_too_many(server, serve):
    """It measures no time: callers and pools are patient, and on a busy machine it lasts until all has happened."""
    service = serve(server, workers=4, threads=16, environ={"REDIS_POOL_TIMEOUT": "30"})
    storm = Storm(service, seed=20)
    # One of each at its time; between them, a worker is killed every second.
    plan = {
        0.15: lambda: storm.signal(signal.SIGHUP),
        0.30: lambda: storm.signal(signal.SIGTTIN),
        0.40: storm.kill_the_supervisor,
        0.50: lambda: storm.signal(signal.SIGTTOU),
        0.60: storm.upgrade,
        0.85: lambda: storm.signal(signal.SIGHUP),
    }
    wanted = 2 * int(SECONDS) - 4
    with Load(service, "/hold?ms=80", callers=24, timeout=90) as load:
        load.wait_for_answers(50)
        watch = Stopwatch()
        begun = time.monotonic()
        next_kill = 0.5
        while (now := time.monotonic() - begun) < SECONDS or len(storm.kills) < wanted:
            for at in [at for at in plan if at * SECONDS <= now]:
                plan.pop(at)()
            if now >= next_kill:
                storm.kill_a_worker()
                next_kill += 1.0
            time.sleep(0.02)
        assert not plan
        load.wait_for_answers(50)
    assert server.rejected() == 0
    assert len(load.answered) > 5 * SECONDS
    assert set(load.by_worker()) & set(service.workers(storm.master)), "the second master's workers have served"
    failures = load.failures(storm.kills)
    assert failures == [], f"{len(failures)} of {len(load.outcomes)} requests failed\n{service.log[-4000:]}"
    assert load.slowest() * watch.fair() / watch.seconds() < 8, "a pool's own patience is five seconds"
    assert len(storm.kills) >= wanted
    assert len(server.clients()) <= BUDGET
    # The old master has gone, and so has every permit of those who died.
    wait_for(lambda: not alive(service.pid), 30, what="the old master ends")
    wait_for(lambda: status(service)["servers"][0]["quarantine"] == 0, 10, what="all quarantine is proven")
    assert "hook.failed" not in service.log


# ---- shares ------------------------------------------------------------------------------------


def make_busy(service: Service, pid: int, *, at: float, seconds: float, threads: int = 14) -> None:
    """Have one worker work from a moment of ``time.time()`` on. Requests are sent until one meets it."""
    path = f"/busy?pid={pid}&at={at}&seconds={seconds}&threads={threads}"
    wait_for(lambda: service.get(path).json["started"], 10, what=f"worker {pid} is asked")


def connections(observer: redis.Redis) -> Counter[int]:
    """How many connections the server holds for each process, by the tags in their names."""
    found = (tags.find(client["name"]) for client in observer.client_list())
    return Counter(tag.pid for tag in found if tag is not None)


@pytest.mark.timing
def test_a_hot_worker_gets_what_its_idle_siblings_do_not_use_and_gives_it_back_when_they_do(server, serve):
    """What is measured is the second best of some rounds, so that a machine that is busy with other things for a while
    has its say in the others. (Three on a quiet one; from the second on, pools remember having been refused.)"""
    service = serve(server, workers=4, threads=16)
    workers = service.workers()
    assert len(workers) == 4
    with Load(service, "/get", callers=8) as load:  # everybody has a pool
        wait_for(lambda: set(load.by_worker()) == set(workers), 10)
    took: list[float] = []
    lead = 0.5
    with server.observer() as observer:
        for _ in range(ROUNDS):
            found = seconds_until_shared(service, observer, workers, lead)
            if found is None:
                lead *= 2
            else:
                took.append(found)
            if len(took) >= 3 and sorted(took)[1] <= 0.2:
                break
        else:
            raise AssertionError(f"not within 0.2 s: {took}")
    assert server.rejected() == 0


ROUNDS = 8


def seconds_until_shared(service: Service, observer: redis.Redis, workers: list[int], lead: float) -> float | None:
    """How long the last of four workers has had more than its share when the others begin; infinity: all the while.

    Args:
        lead: the seconds in which the others are asked to begin at the same moment.

    Returns:
        None: that took longer than ``lead``.
    """
    hot, *rest = workers
    over = time.time() + 4 * lead
    make_busy(service, hot, at=time.time(), seconds=4 * lead)
    wait_for(lambda: connections(observer)[hot] >= 10, 4 * lead, what="10 of the 12 for the hot worker")
    begin = time.time() + lead
    for pid in rest:
        make_busy(service, pid, at=begin, seconds=1)
    in_time = time.time() < begin
    took = float("inf")
    time.sleep(max(0.0, begin - time.time()))
    while time.time() < begin + 1:
        held = connections(observer)
        if all(2 <= held[pid] <= 3 for pid in workers):
            took = time.time() - begin
            break
        time.sleep(0.001)
    time.sleep(max(0.0, max(over, begin + 1) + 0.2 - time.time()))
    return took if in_time else None


@pytest.mark.timing
def test_a_budget_of_two_keeps_six_busy_workers_going(redis_server, serve):
    server = redis_server(port=free_port(), maxclients=2 + OBSERVERS)
    service = serve(server, budget=2, workers=6, threads=4)
    with Load(service, "/get", callers=12) as load:
        wait_for(lambda: len(load.by_worker()) == 6, 10, what="all six answer")
        begin = time.monotonic()
        time.sleep(min(SECONDS, 2.5))
        end = time.monotonic()
    assert load.failures() == []
    counted = Counter(outcome.pid for outcome in load.between(begin, end))
    assert set(counted) == set(service.workers()), counted
    assert load.slowest() < 2.0
    assert server.rejected() == 0
