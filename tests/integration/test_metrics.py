"""``/metrics`` of a whole service: what workers count arrives, and none of it is lost or counted twice."""

from __future__ import annotations

import re
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import RedisServer, alive, free_port, kill, wait_for
from tests.service import Service
from tests.threads import Calls

BUDGET = 12


class Metered(Service):
    """A service whose metrics are served."""

    def __init__(self, directory: Path, **options) -> None:
        self.metrics_port = free_port()
        environ = {
            "POOLMGR_METRICS": f"127.0.0.1:{self.metrics_port}",
            "WORKER_TOKEN": "t",
            "REDIS_CONNECTION_BUDGET": str(BUDGET),
            **options.pop("environ", {}),
        }
        super().__init__(directory, environ=environ, **options)

    def sample(self, name: str) -> float:
        """The sum of a metric over its labels; -1 while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return -1
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE))

    def do(self, *words: str) -> None:
        """A command, which must succeed."""
        answer = self.ask(*(words or ("INCR", "n")))
        assert answer.status == 200, answer.body


@pytest.fixture
def metered(isolated: Path, redis_server: Callable[..., RedisServer]) -> Iterator[Metered]:
    server = redis_server(maxclients=BUDGET + 3)
    started = Metered(isolated.parent, redis_url=server.unix_url)
    started.start()
    yield started
    started.clean_up()
    assert server.rejected() == 0


def settled(service: Metered, least: int) -> float:
    """The checkouts, when at least so many have been reported and no more come."""
    wait_for(lambda: service.sample("poolmgr_checkouts_total") >= least, 10, what=f"{least} checkouts")
    last = -1.0
    while last != (now := service.sample("poolmgr_checkouts_total")):
        last = now
        threading.Event().wait(1.2)  # longer than members take to report
    return now


def test_a_killed_workers_counters_are_not_lost(metered: Metered):
    for _ in range(40):
        metered.do()
    before = settled(metered, 40)
    victims = metered.workers()
    for pid in victims:
        kill(pid)
    wait_for(lambda: len(set(metered.workers()) - set(victims)) == 2, 10)
    wait_for(lambda: metered.sample("poolmgr_members") == 0, 10, what="nobody is a member any more")
    assert metered.sample("poolmgr_checkouts_total") == before
    for _ in range(10):
        metered.do()
    assert settled(metered, int(before) + 10) >= before + 10


def test_a_worker_that_ends_in_peace_tells_everything_first(metered: Metered):
    metered.do()
    before = settled(metered, 1)
    for _ in range(30):
        metered.do()
    metered.send(signal.SIGHUP)
    wait_for(lambda: metered.sample("poolmgr_checkouts_total") >= before + 30, 15, what="all of 30 requests")


def test_a_new_supervisor_counts_nothing_again(metered: Metered):
    for _ in range(200):
        metered.do()
    settled(metered, 200)
    assert metered.sample("poolmgr_supervisor_restarts_total") == 0
    old = metered.supervisor()
    kill(old)
    wait_for(lambda: not alive(old))
    metered.send(signal.SIGTTIN)  # whoever is there needs no supervisor yet; a new worker does
    wait_for(lambda: len(metered.workers()) == 3, 10)

    def another() -> bool:
        # More at once than the two that are there can serve.
        Calls(lambda: metered.do("BLPOP", "nothing", "0.2"), times=12).join()
        return metered.supervisor() not in (0, old)

    wait_for(another, 20, what="a new supervisor", step=0.05)
    for _ in range(6):
        metered.do()
    wait_for(lambda: metered.sample("poolmgr_members") >= 2, 15, what="both workers are members again")
    assert 0 <= settled(metered, 0) < 200
    assert metered.sample("poolmgr_supervisor_restarts_total") == 1


def test_gauges_follow_what_happens(metered: Metered):
    metered.do()
    wait_for(lambda: metered.sample("poolmgr_budget_connections") == BUDGET, 10, what="the budget is derived")
    threads = Calls(lambda: metered.do("BLPOP", "nothing", "4"), times=3)
    wait_for(lambda: metered.sample("poolmgr_in_use_connections") == 3, 5)
    assert metered.sample("poolmgr_open_connections") >= 3
    threads.join()
    wait_for(lambda: metered.sample("poolmgr_in_use_connections") == 0, 5)
    wait_for(lambda: metered.sample("poolmgr_checkout_wait_seconds_count") >= 3, 5)


def test_a_requests_line_carries_its_wait_and_no_other_requests(isolated: Path, redis_server):
    server = redis_server(maxclients=20)
    # One connection for four threads: whoever comes second waits for the first.
    service = Metered(
        isolated.parent, redis_url=server.unix_url, workers=1, environ={"REDIS_POOL_MAX_CONNECTIONS": "1"}
    )
    service.start()
    try:
        service.do()
        blocker = Calls(lambda: service.do("BLPOP", "nothing", "3"))
        wait_for(lambda: service.sample("poolmgr_in_use_connections") == 1, 5)
        service.do("SET", "waits", "1")
        blocker.join()
        for _ in range(20):
            service.do("SET", "warm", "1")
        lines = wait_for(lambda: found if len(found := service.events("request")) >= 23 else [], 5)
    finally:
        service.clean_up()
    waits = [line["waited_ms"] for line in lines if line["method"] == "POST"]
    assert sum(1 for wait in waits if wait > 1000) == 1, waits
    assert all(line["waited_ms"] <= line["ms"] for line in lines)
    assert sum(1 for wait in waits if wait) <= 2, "that one, and perhaps the very first"
