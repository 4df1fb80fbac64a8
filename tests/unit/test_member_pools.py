"""A member's pools: they share a server's limit, help each other out, and hear of an outage together."""

from __future__ import annotations

import gc
import time

from poolmgr import wire
from poolmgr.exceptions import ServerDownError
from poolmgr.member import waiting as waits
from poolmgr.member.core import dispatcher, health
from tests.helpers import have_lines_written, wait_for
from tests.threads import Calls
from tests.unit.fake_supervisor import ALIAS, ENDPOINT, KEY, FakePool, filled

# ---- sharing a limit ---------------------------------------------------------------------------


def test_endpoints_of_one_server_share_its_limit(member, supervisor):
    first, second = FakePool(member, ENDPOINT), FakePool(member, ALIAS)
    filled(first, 1)
    filled(second, 1)
    assert first.permits.dispatcher is second.permits.dispatcher
    assert not first.open()
    assert not second.open()


def test_an_idle_connection_of_a_sibling_is_closed_for_a_pool_that_waits(member, supervisor):
    rich = filled(FakePool(member, ENDPOINT), 2)
    for _ in range(2):
        rich.release()
    rich.active_at -= 1
    poor = FakePool(member, ENDPOINT)
    poor.waiting = 1

    def grow():
        if poor.open():
            poor.waiting = 0

    poor.on_grow = grow
    poor.open()
    wait_for(lambda: len(rich.idle) == 1)
    time.sleep(0.05)
    assert len(rich.idle) == 1, "one for one"
    for peer in rich.peers:
        peer.settimeout(0.1)
    next(peer for peer in rich.peers if _ended(peer)).close()
    wait_for(lambda: poor.lent)


def _ended(peer):
    try:
        return peer.recv(1) == b""
    except TimeoutError:
        return False


def test_a_starved_pool_gets_one_from_a_sibling_that_is_never_idle(member, supervisor):
    rich = filled(FakePool(member, ENDPOINT), 2)
    rich.waiting = 3
    poor = FakePool(member, ENDPOINT)
    poor.waiting = 1
    poor.open()
    wait_for(lambda: rich.permits.surplus, what="the busy pool is asked to give one up at its next release")
    rich.release()
    assert not rich.idle
    rich.release()
    assert rich.idle


def test_a_collected_pool_is_forgotten_and_its_sockets_stay_counted(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 1)
    permits, kept = pool.permits, pool.lent
    del pool
    gc.collect()
    wait_for(lambda: not permits.dispatcher.attachments)
    assert permits.dispatcher.account.open == 1
    assert not member._loop.pools
    again = FakePool(member, ENDPOINT)
    wait_for(again.open)
    del kept


def test_a_pool_that_raises_costs_only_that_call(member, supervisor, caplog):
    bad, good = FakePool(member, ENDPOINT), FakePool(member, ENDPOINT)
    for method in ("usage", "shed", "tick", "counters", "grow"):
        setattr(bad, method, None)
    filled(good, 2)
    bad.open()
    good.release()
    supervisor.tell(1)
    wait_for(lambda: not good.idle)
    have_lines_written()
    assert "pool.failed" in caplog.messages


def test_a_pool_on_several_addresses_is_counted_once(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    second = member.attach(ALIAS, pool)
    wait_for(lambda: second.dispatcher is pool.permits.dispatcher)
    supervisor.say(wire.Ask(KEY))
    wait_for(lambda: supervisor.report.in_use == 2)
    time.sleep(0.1)
    assert supervisor.report.in_use == 2


def test_idle_connections_are_reported_as_spare_only_after_the_guard(member, supervisor, monkeypatch):
    monkeypatch.setattr(dispatcher, "PATIENCE", 0.4)  # the guard before any was told
    pool = filled(FakePool(member, ENDPOINT), 2)
    pool.release()
    pool.active_at = time.monotonic() + 1000  # busy all the time, and yet one is never needed
    wait_for(lambda: supervisor.report.open == 2)
    time.sleep(0.6)
    assert supervisor.report.spare == 0
    began = time.monotonic()
    supervisor.say(wire.Ask(KEY, 0.4))  # longer than any window that is kept anyway
    wait_for(lambda: supervisor.report.spare == 1)
    assert time.monotonic() - began >= 0.4


def test_an_idle_process_is_quiet(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    pool.release()
    pool.active_at -= 10
    time.sleep(1.5)  # nothing is to happen: there is no effect to wait for
    count = len(supervisor.received)
    turns = []
    settle = member.core.settle

    def counted(now):
        turns.append(now)
        return settle(now)

    member.core.settle = counted
    time.sleep(1.1)
    assert len(supervisor.received) == count
    assert len(turns) <= 4


def test_counters_are_sent_while_they_change(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 1)
    wait_for(lambda: any(s.counters.created == 1 for s in supervisor.of(wire.Stats)))
    count = len(supervisor.of(wire.Stats))
    filled(pool, 1)
    wait_for(lambda: len(supervisor.of(wire.Stats)) == count + 1)


# ---- an outage ---------------------------------------------------------------------------------


def test_an_outage_reaches_every_pool_and_whoever_waits(member, supervisor, monkeypatch):
    monkeypatch.setattr(waits, "LOOK_AGAIN", 30.0)
    pool = filled(FakePool(member, ENDPOINT), 2)
    waiting = Calls(lambda: pool.permits.wait(10))
    wait_for(lambda: pool.permits.dispatcher.waiters)
    supervisor.say(wire.Health(KEY, up=False, since=1.0, error="connection refused"))
    (failed,) = waiting.errors()
    assert isinstance(failed, ServerDownError)
    assert "connection refused" in str(failed)
    assert pool.permits.outage.since == 1.0
    assert pool.permits.explain().reason == "server"
    later = FakePool(member, ENDPOINT)
    wait_for(lambda: later.permits.outage)


def test_the_end_of_an_outage_is_paced(member, supervisor, monkeypatch):
    monkeypatch.setattr(health, "PACE", 0.5)
    monkeypatch.setattr(member.core.directory._rng, "uniform", lambda low, high: high)
    pool = filled(FakePool(member, ENDPOINT), 1)
    supervisor.say(wire.Health(KEY, up=False, since=1.0, error="x"))
    wait_for(lambda: pool.permits.outage)
    supervisor.say(wire.Health(KEY, up=True))
    began = time.monotonic()
    wait_for(lambda: not pool.permits.outage)
    assert time.monotonic() - began > 0.4
    wait_for(lambda: pool.grown)
