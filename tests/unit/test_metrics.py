"""``/metrics``: what is counted, what it is called, and that nothing is lost with a process."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as classic

from poolmgr import status
from poolmgr.supervisor.clients.totals import NAMES, OTHERS, POOLS, UNNAMED, Totals
from poolmgr.supervisor.logs import Limited
from poolmgr.supervisor.views import exposition
from poolmgr.supervisor.views.exposition import MetricsServer
from poolmgr.supervisor.views.metrics import Counted, Reading
from poolmgr.wire import WAIT_BOUNDS, Counters, Stats
from tests.helpers import free_port, wait_for
from tests.stopwatch import Stopwatch

SERVER = "tcp://cache:6379"


def counters(n: int, **more: Any) -> Counters:
    buckets = [0] * (len(WAIT_BOUNDS) + 1)
    buckets[2] = n
    return Counters(
        checkouts=10 * n,
        waits=n,
        wait_seconds=n / 100,
        wait_buckets=tuple(buckets),
        created=n,
        timeouts={"budget": n},
        closed={"idle": n},
        **more,
    )


def reading(totals: Totals | None = None) -> Reading:
    totals = totals or Totals()
    if not totals.copy():
        totals.report("a", Stats(SERVER, "shop", counters(3)))
    members = (
        status.MemberStatus(pid=1, limit=5, charge=6, open=4, in_use=3, pinned=1, waiting=2),
        status.MemberStatus(pid=2, limit=3, charge=3, open=2, in_use=0, state="silent"),
    )
    server = status.ServerStatus(
        id=SERVER, budget=12, charged=9, quarantine=1, own=1, free=1, unproven=2, members=members
    )
    parts = (("maxclients", 24, "the server's"), ("other clients", 2, ""), ("operator", None, "auto"), ("hosts", 1, ""))
    return Reading(
        status=status.Status(
            pid=1,
            version="1.2.3",
            clients=4,
            servers=(server,),
            differences=(status.Difference(server=SERVER), status.Difference(server="tcp://other:1")),
        ),
        limits=status.Limits(servers=(status.ServerLimits(id=SERVER, budget=12, parts=parts),)),
        ledgers={SERVER: Counted(recalled=7, rotated=8, outages=9, handover=0.002)},
        totals=totals.copy(),
        restarts=1,
        snapshots=20,
    )


# ---- totals ------------------------------------------------------------------------------------


def test_what_a_process_has_counted_stays_when_it_ends():
    totals = Totals()
    totals.report("a", Stats(SERVER, "shop", counters(2)))
    totals.report("a", Stats(SERVER, "shop", counters(5)))
    totals.report("b", Stats(SERVER, "shop", counters(1)))
    totals.ended("a")
    totals.report("c", Stats(SERVER, "shop", counters(4)))
    total = totals.copy()[SERVER, "shop"]
    assert (total.checkouts, total.waits, total.created) == (100, 10, 10)
    assert total.timeouts == {"budget": 10}
    assert total.closed == {"idle": 10}
    assert total.wait_buckets[2] == 10
    assert total.wait_seconds == pytest.approx(0.1)


def test_what_was_counted_for_the_supervisor_before_is_not_counted_again():
    totals = Totals()
    totals.report("a", Stats(SERVER, "shop", counters(1000)), inherited=True)
    assert totals.copy()[SERVER, "shop"].checkouts == 0
    totals.report("a", Stats(SERVER, "shop", counters(1002)), inherited=True)
    assert totals.copy()[SERVER, "shop"].checkouts == 20


def test_a_pool_that_was_made_anew_under_its_name_takes_nothing_away():
    totals = Totals()
    totals.report("a", Stats(SERVER, "shop", counters(5)))
    totals.report("a", Stats(SERVER, "shop", counters(2)))
    assert totals.copy()[SERVER, "shop"].checkouts == 70


def test_names_that_pools_made_up_and_too_many_names_fall_together():
    totals = Totals()
    for number in range(5):
        totals.report("a", Stats(SERVER, f"pool-{number:06x}", counters(1)))
    assert set(totals.copy()) == {(SERVER, UNNAMED)}
    for number in range(3 * NAMES):
        totals.report("b", Stats(SERVER, f"tenant {number}", counters(1)))
    found = totals.copy()
    assert len(found) == NAMES + 1
    assert sum(total.checkouts for total in found.values()) == 10 * (5 + 3 * NAMES)
    assert found[SERVER, OTHERS].checkouts == 10 * (2 * NAMES + 1)


def test_a_server_that_nobody_uses_is_forgotten():
    totals = Totals()
    totals.report("a", Stats(SERVER, "shop", counters(1)))
    totals.report("a", Stats("tcp://other:1", "shop", counters(1)))
    totals.forget(SERVER)
    assert set(totals.copy()) == {("tcp://other:1", "shop")}


def test_a_process_that_makes_pools_for_ever_costs_bounded_memory():
    totals = Totals()
    for number in range(3 * POOLS):
        totals.report("a", Stats(SERVER, f"pool-{number:06x}", counters(1)))
    assert len(totals._last["a"]) == POOLS
    totals.ended("a")
    assert not totals._last


# ---- what is served ----------------------------------------------------------------------------


@pytest.fixture
def served() -> Any:
    """Serves a reading from a loop in a thread of its own: ``served(read)`` returns the port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    endpoints: list[MetricsServer] = []

    def serve(read: Callable[[], Reading] = reading, port: int = 0) -> MetricsServer:
        async def make() -> MetricsServer:
            endpoint = MetricsServer(f"127.0.0.1:{port or free_port()}", read)
            endpoint.start()
            return endpoint

        endpoint = asyncio.run_coroutine_threadsafe(make(), loop).result(5)
        endpoints.append(endpoint)
        return endpoint

    serve.loop = loop  # type: ignore[attr-defined]
    yield serve
    for endpoint in endpoints:
        endpoint.stop()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


def get(endpoint: MetricsServer, path: str = "/metrics", accept: str = "") -> tuple[int, str, str]:
    port = wait_for(lambda: endpoint.port)
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, "", error.read().decode()


def samples(text: str) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for family in classic(text):
        for sample in family.samples:
            names = sorted(sample.labels.keys() - {"server"}, key=lambda name: (name == "le", name))
            values = [sample.labels[name] for name in names]
            found[(sample.name, *values)] = sample.value
    return found


def test_stopping_ends_the_thread_and_gives_the_address_back(served):
    before = set(threading.enumerate())
    endpoint = served()
    port = wait_for(lambda: endpoint.port)
    (thread,) = set(threading.enumerate()) - before
    endpoint.stop()
    thread.join(5)
    assert not thread.is_alive()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
        sock.listen()


def test_the_numbers_are_those_of_the_ledger_and_of_all_pools(served):
    code, kind, text = get(served())
    assert code == 200
    assert kind.startswith("text/plain")
    found = samples(text)
    expected = {
        ("poolmgr_budget_connections",): 12,
        ("poolmgr_budget_bound_connections", "maxclients"): 24,
        ("poolmgr_budget_bound_connections", "other_clients"): 2,
        ("poolmgr_charged_connections", "members"): 9,
        ("poolmgr_charged_connections", "quarantine"): 1,
        ("poolmgr_charged_connections", "own"): 1,
        ("poolmgr_free_connections",): 1,
        ("poolmgr_limit_connections",): 8,
        ("poolmgr_open_connections",): 6,
        ("poolmgr_in_use_connections",): 3,
        ("poolmgr_pinned_connections",): 1,
        ("poolmgr_idle_connections",): 3,
        ("poolmgr_waiting_callers",): 2,
        ("poolmgr_members", "live"): 1,
        ("poolmgr_members", "silent"): 1,
        ("poolmgr_members", "restored"): 0,
        ("poolmgr_server_up",): 1,
        ("poolmgr_audit_differences",): 1,
        ("poolmgr_handover_seconds",): 0.002,
        ("poolmgr_permits_recalled_total",): 7,
        ("poolmgr_rotations_total",): 8,
        ("poolmgr_outages_total",): 9,
        ("poolmgr_permits_unproven_total",): 2,
        ("poolmgr_checkouts_total", "shop"): 30,
        ("poolmgr_checkout_wait_seconds_count", "shop"): 3,
        ("poolmgr_checkout_wait_seconds_sum", "shop"): 0.03,
        ("poolmgr_checkout_wait_seconds_bucket", "shop", "0.0025"): 0,
        ("poolmgr_checkout_wait_seconds_bucket", "shop", "0.005"): 3,
        ("poolmgr_checkout_wait_seconds_bucket", "shop", "+Inf"): 3,
        ("poolmgr_checkout_timeouts_total", "shop", "budget"): 3,
        ("poolmgr_checkout_timeouts_total", "shop", "server"): 0,
        ("poolmgr_connections_created_total", "shop"): 3,
        ("poolmgr_connections_closed_total", "shop", "idle"): 3,
        ("poolmgr_supervisor_restarts_total",): 1,
        ("poolmgr_snapshots_written_total",): 20,
        ("poolmgr_clients",): 4,
        ("poolmgr_build_info", "1.2.3"): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found[("process_start_time_seconds",)] > 0


def test_no_process_is_a_label(served):
    _, _, text = get(served())
    labels = {name for family in classic(text) for sample in family.samples for name in sample.labels}
    assert labels <= {"server", "pool", "reason", "state", "holder", "bound", "le", "version"}


def test_openmetrics_is_served_to_who_asks_for_it(served):
    code, kind, text = get(served(), accept="application/openmetrics-text; version=1.0.0")
    assert code == 200
    assert kind.startswith("application/openmetrics-text")
    assert {family.name for family in openmetrics(text)} >= {"poolmgr_checkouts", "poolmgr_checkout_wait_seconds"}
    assert text.endswith("# EOF\n")


def test_promtool_has_nothing_to_say(served):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (apt install prometheus)")
    _, _, text = get(served())
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_server_whose_budget_is_not_known_yet_has_none(served):
    def unresolved() -> Reading:
        now = reading()
        server = msgspec.structs.replace(now.status.servers[0], budget=None)
        return msgspec.structs.replace(now, status=msgspec.structs.replace(now.status, servers=(server,)))

    assert ("poolmgr_budget_connections",) not in samples(get(served(unresolved))[2])


def test_other_paths_are_not_found(served):
    assert get(served(), "/secret")[0] == 404


def test_a_loop_that_hangs_gives_503_and_a_scrape_never_holds_up_the_loop(served, monkeypatch):
    monkeypatch.setattr(exposition, "READ_WITHIN", 0.2)
    endpoint = served()
    assert get(endpoint)[0] == 200
    go_on = threading.Event()
    served.loop.call_soon_threadsafe(go_on.wait, 10)
    try:
        code, _, text = get(endpoint)
        assert code == 503
        assert "does not answer" in text
    finally:
        go_on.set()
    assert get(endpoint)[0] == 200


def test_clients_that_say_nothing_take_nothing_from_others(served):
    endpoint = served()
    port = wait_for(lambda: endpoint.port)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(exposition.AT_ONCE - 1)]
    try:
        assert get(endpoint)[0] == 200
    finally:
        for sock in silent:
            sock.close()


def test_an_address_that_is_taken_is_had_as_soon_as_it_is_free(served, monkeypatch, caplog):
    monkeypatch.setattr(exposition, "RETRY", 0.02)
    monkeypatch.setattr(exposition, "limited", Limited(burst=1, period=300.0))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = served(port=taken.getsockname()[1])
        wait_for(lambda: "metrics.unavailable" in caplog.messages)
        watch = Stopwatch()
    assert get(endpoint)[0] == 200
    assert watch.fair() < 5
    assert caplog.messages.count("metrics.unavailable") == 1
