"""The member's thread, against a supervisor of the test's own."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time

import pytest

from poolmgr import launch, settings, wire
from poolmgr.exceptions import ConnectionPoolTimeoutError, ServerDownError
from poolmgr.member import contact, desk, loop, permits
from poolmgr.member.agent import Member
from tests.helpers import wait_for
from tests.unit.fake_supervisor import FakePool, FakeSupervisor

KEY = "tcp://server:1"
ENDPOINT = wire.Endpoint(key=KEY, host="server", port=1)
ALIAS = wire.Endpoint(key="tcp://alias:1", host="alias", port=1)


@pytest.fixture
def supervisor(isolated, monkeypatch):
    monkeypatch.setenv("POOLMGR_AUTOSTART", "0")
    made = FakeSupervisor(isolated)
    yield made
    made.stop()


@pytest.fixture
def member(supervisor):
    made = Member(settings.load())
    yield made
    made.stop()


def account(pool):
    return pool.permits.desk.account


def filled(pool, count):
    """Open ``count`` connections."""
    wait_for(lambda: account(pool).seq)
    for _ in range(count):
        wait_for(pool.open, step=0.0005)
    return pool


# ---- permits -----------------------------------------------------------------------------------


def test_nothing_exists_before_the_first_attach(supervisor):
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    member = Member(settings.load())
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
    assert not supervisor.links
    del member


def test_it_opens_as_many_as_it_was_told_and_not_one_more(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    assert not pool.open()


def test_who_is_refused_is_reported_at_once_and_told_to_grow_when_the_limit_rises(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    pool.waiting = 1
    assert not pool.open()
    wait_for(lambda: supervisor.report.waiting == 1)
    assert supervisor.report.in_use == supervisor.report.open == 2
    assert not pool.grown
    supervisor.tell(3)
    wait_for(lambda: pool.grown)
    assert pool.open()


def test_who_is_refused_tells_the_supervisor_without_the_help_of_the_thread(member, supervisor, monkeypatch):
    pool = filled(FakePool(member, ENDPOINT), 2)
    wait_for(lambda: supervisor.report.open == 2)
    busy, go_on = threading.Event(), threading.Event()

    def tick(now):
        busy.set()
        go_on.wait(10)
        return 1.0

    monkeypatch.setattr(pool, "tick", tick)
    try:
        wait_for(busy.is_set)
        assert not pool.open()
        wait_for(lambda: supervisor.report.waiting == 1)
    finally:
        go_on.set()


def test_a_lower_limit_closes_idle_connections_before_it_is_acknowledged(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    pool.release()
    seq = supervisor.tell(1)
    peer = pool.peers[-1]
    assert peer.recv(1) == b""
    assert supervisor.report.acked < seq
    assert account(pool).open == 2, "closing counts"
    peer.close()
    wait_for(lambda: supervisor.report.acked == seq)
    assert supervisor.report.open == 1


def test_what_is_in_use_is_given_up_at_its_release(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    seq = supervisor.tell(1)
    wait_for(lambda: pool.permits.surplus == 1)
    pool.release()
    assert not pool.idle
    pool.release()
    assert len(pool.idle) == 1, "only as many as were recalled"
    pool.peers[-1].close()
    wait_for(lambda: supervisor.report.acked == seq)


def test_a_connection_whose_end_is_not_confirmed_stays_counted_until_it_is_proven(member, supervisor, monkeypatch):
    monkeypatch.setattr("poolmgr.member.closing.BOUND", 0.05)
    pool = filled(FakePool(member, ENDPOINT), 2)
    permit, sock = pool.lent.pop()
    permit.close(sock)  # the peer never closes
    lost = wait_for(lambda: supervisor.of(wire.Lost))
    assert lost[-1].serials == (permit.serial,)
    assert not pool.open()
    supervisor.say(wire.Gone(KEY, (permit.serial,)))
    wait_for(pool.open)


def test_a_connection_collected_with_its_permit_is_lost_and_one_never_used_is_not(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 1)
    pool.lent.pop()
    gc.collect()
    wait_for(lambda: supervisor.of(wire.Lost))
    assert account(pool).open == 1

    permit = permits.SocketPermit(member, member.core.serial())
    assert member.core.take(pool.permits, time.monotonic(), None, permit.serial)
    del permit  # as if an exception had struck before the caller had it
    wait_for(lambda: account(pool).open == 1)


def test_a_permit_whose_finalizer_did_not_finish_is_found(member, supervisor, monkeypatch):
    monkeypatch.setattr(loop, "AUDIT_EVERY", 0.02)
    monkeypatch.delattr(permits.SocketPermit, "__del__")  # as if a signal handler had raised in it
    pool = filled(FakePool(member, ENDPOINT), 2)
    time.sleep(0.1)
    assert len(account(pool).live) == 2, "those that are held are left alone"
    pool.lent.pop()
    gc.collect()
    wait_for(lambda: supervisor.of(wire.Lost))
    assert len(account(pool).live) == 1


def test_giving_back_twice_is_harmless(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    permit, sock = pool.lent.pop()
    permit.gone()
    permit.gone()
    sock.close()
    pool.peers.pop().close()
    wait_for(lambda: account(pool).open == 1)
    permit, sock = pool.lent.pop()
    again = sock.dup()
    permit.close(sock)
    permit.close(again)
    assert again.fileno() < 0
    pool.peers.pop().close()
    wait_for(lambda: account(pool).open == 0)


def test_a_failed_connect_gives_the_permit_back_to_whoever_asks_next(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 1)
    for _ in range(100):
        permit = pool.permits.take()
        assert permit is not None
        permit.gone()


def test_release_in_a_garbage_collection_below_our_lock_does_not_deadlock(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    supervisor.tell(1)
    wait_for(lambda: pool.permits.surplus)
    permit, sock = pool.lent[-1]

    def collected():  # what a finalizer may call, in the thread that holds the lock
        assert pool.permits.give_up() is False
        assert pool.permits.take() is None
        pool.permits.trouble("unreachable", "")
        pool.permits.explain()
        permit.close(sock)

    member.locked(collected)
    pool.peers[-1].close()
    wait_for(lambda: account(pool).open == 1)


def test_waiting_without_a_pool_comes_before_growth(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    got = []
    thread = threading.Thread(target=lambda: got.append(pool.permits.wait(5)))
    thread.start()
    wait_for(lambda: supervisor.report.waiting)
    supervisor.tell(3)
    thread.join(5)
    assert got[0].serial
    assert not pool.open()


def test_waiting_ends_with_a_reason(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    supervisor.say(wire.Picture(KEY, 7, (("gunicorn worker 12", 5),)))
    wait_for(lambda: pool.permits.desk.picture)
    began = time.monotonic()
    with pytest.raises(ConnectionPoolTimeoutError) as caught:
        pool.permits.wait(0.05)
    assert 0.05 <= time.monotonic() - began < 1
    assert caught.value.reason == "budget"
    assert "holds 2 of its limit 2" in str(caught.value)
    assert "budget of 7" in str(caught.value)
    assert "gunicorn worker 12 5" in str(caught.value)
    assert not pool.permits.desk.waiters


def test_an_interrupted_waiter_is_not_waited_for(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    member.queue(pool.permits, permits.Bell())  # torn away before it could leave the queue
    permit, sock = pool.lent.pop()
    sock.close()
    permit.gone()
    wait_for(pool.open)


# ---- pools -------------------------------------------------------------------------------------


def test_endpoints_of_one_server_share_its_limit(member, supervisor):
    first, second = FakePool(member, ENDPOINT), FakePool(member, ALIAS)
    filled(first, 1)
    filled(second, 1)
    assert first.permits.desk is second.permits.desk
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
    wait_for(lambda: not permits.desk.attachments)
    assert permits.desk.account.open == 1
    assert not member._loop.clients
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
    assert "pool.failed" in caplog.messages


def test_a_pool_on_several_addresses_is_counted_once(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    second = member.attach(ALIAS, pool)
    wait_for(lambda: second.desk is pool.permits.desk)
    supervisor.say(wire.Ask(KEY))
    wait_for(lambda: supervisor.report.in_use == 2)
    time.sleep(0.1)
    assert supervisor.report.in_use == 2


def test_idle_connections_are_reported_as_spare_only_after_the_guard(member, supervisor, monkeypatch):
    monkeypatch.setattr(desk, "PATIENCE", 0.4)  # the guard before any was told
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


# ---- the link ----------------------------------------------------------------------------------


def test_after_a_cut_it_registers_with_what_it_holds_and_opens_nothing_before_the_answer(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 1)
    supervisor.limit = None
    supervisor.cut()
    wait_for(lambda: len(supervisor.of(wire.Hello)) == 2)
    first, second = supervisor.of(wire.Hello)
    assert second.link == first.link + 1
    assert second.tag == first.tag
    assert [(h.server, h.stated, h.open) for h in second.holds] == [(KEY, 2, 1)]
    wait_for(lambda: not account(pool).seq)
    assert not pool.open()
    assert pool.permits.explain().reason == "supervisor"
    supervisor.tell(2)
    wait_for(pool.open)


def test_it_finds_the_next_supervisor(member, supervisor, caplog):
    caplog.set_level(logging.INFO, "poolmgr.member")
    pool = filled(FakePool(member, ENDPOINT), 1)
    supervisor.stop()
    wait_for(lambda: not account(pool).seq)
    second = FakeSupervisor(supervisor.path, limit=3)
    try:
        filled(pool, 2)
        assert [m for m in caplog.messages if m.startswith("supervisor.")] == ["supervisor.lost", "supervisor.found"]
    finally:
        second.stop()


def test_lost_connections_are_told_to_the_next_supervisor_again(member, supervisor, monkeypatch):
    monkeypatch.setattr("poolmgr.member.closing.BOUND", 0.02)
    pool = filled(FakePool(member, ENDPOINT), 2)
    permit, sock = pool.lent.pop()
    permit.close(sock)
    wait_for(lambda: len(supervisor.of(wire.Lost)) == 1)
    supervisor.cut()
    wait_for(lambda: len(supervisor.of(wire.Lost)) == 2)
    assert supervisor.of(wire.Hello)[-1].holds[0].stated == 2


def test_the_need_to_grow_has_a_supervisor_started_and_idleness_has_not(isolated, monkeypatch):
    starts = []

    def connect(found, *, start=True, timeout=10.0):
        if start:
            starts.append(time.monotonic())
        return dial(found, start=False, timeout=timeout)

    dial = launch.connect
    monkeypatch.setattr(launch, "connect", connect)
    supervisor = FakeSupervisor(isolated)
    member = Member(settings.load())
    try:
        pool = filled(FakePool(member, ENDPOINT), 1)
        supervisor.stop()
        wait_for(lambda: not account(pool).seq)
        time.sleep(0.2)
        assert not starts
        assert not pool.open()
        wait_for(lambda: starts)
    finally:
        member.stop()


def test_starting_a_supervisor_does_not_hold_up_closing(isolated, monkeypatch):
    release = threading.Event()

    def connect(found, *, start=True, timeout=10.0):
        if start:
            release.wait(10)
        return dial(found, start=False, timeout=timeout)

    dial = launch.connect
    monkeypatch.setattr(launch, "connect", connect)
    supervisor = FakeSupervisor(isolated)
    member = Member(settings.load())
    try:
        pool = filled(FakePool(member, ENDPOINT), 2)
        supervisor.stop()
        wait_for(lambda: not account(pool).seq)
        pool.open()
        wait_for(lambda: member._loop and member._loop.contact._finder._helper)
        permit, sock = pool.lent.pop()
        permit.close(sock)
        pool.peers[-1].settimeout(1)
        assert pool.peers[-1].recv(1) == b""
        pool.peers[-1].close()
        wait_for(lambda: account(pool).open == 1)
        assert not release.is_set()
    finally:
        release.set()
        member.stop()


def test_a_silent_supervisor_is_asked_and_then_replaced(member, supervisor, monkeypatch):
    monkeypatch.setattr(contact, "PING_AFTER", 0.05)
    monkeypatch.setattr(launch, "SILENT", 0.2)
    replaced = []

    def replace(found, sock=None):
        replaced.append(sock.getpeername())
        return True

    monkeypatch.setattr(launch, "replace_hung", replace)
    pool = filled(FakePool(member, ENDPOINT), 2)
    supervisor.silent = True
    pool.waiting = 1
    time.sleep(0.3)
    assert not replaced, "one that nobody waits for may be silent"
    pool.open()
    wait_for(lambda: supervisor.of(wire.Ping))
    wait_for(lambda: replaced)
    assert replaced == [supervisor.path]
    wait_for(lambda: len(supervisor.of(wire.Hello)) == 2)


def test_a_supervisor_that_answers_pings_is_left_in_peace(member, supervisor, monkeypatch):
    monkeypatch.setattr(contact, "PING_AFTER", 0.02)
    monkeypatch.setattr(launch, "SILENT", 0.1)
    monkeypatch.setattr("poolmgr.launch.replace_hung", lambda *args: pytest.fail("it was alive"))
    pool = filled(FakePool(member, ENDPOINT), 2)
    pool.waiting = 1
    pool.open()
    wait_for(lambda: len(supervisor.of(wire.Ping)) > 5)
    assert len(supervisor.of(wire.Hello)) == 1


def test_garbage_from_the_supervisor_ends_the_link_and_nothing_else(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 1)
    supervisor.links[-1].sendall(b"\xff\xff\xff\xff")
    wait_for(lambda: len(supervisor.of(wire.Hello)) == 2)
    filled(pool, 1)


def test_one_that_closes_every_link_at_once_is_tried_less_and_less_often(member, supervisor):
    supervisor.silent = True
    pool = FakePool(member, ENDPOINT)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        supervisor.cut()
        time.sleep(0.001)
    assert 2 < supervisor.accepted < 16
    assert not pool.open()


def test_a_refusal_is_not_asked_for_again_at_once(member, supervisor, caplog):
    supervisor.silent = True
    pool = FakePool(member, ENDPOINT)
    wait_for(lambda: supervisor.links)
    supervisor.say(wire.Refused("too many clients"))
    supervisor.cut()
    wait_for(lambda: "supervisor.lost" in caplog.messages)
    time.sleep(0.1)
    assert not supervisor.links
    assert not pool.open()
    why = pool.permits.explain()
    assert why.reason == "supervisor"
    assert why.text.startswith("too many clients; no supervisor has answered for ")


def test_a_supervisor_that_does_not_read_does_not_block_anybody(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    contact = member._loop.contact
    supervisor.listening.clear()
    big = wire.Trouble(KEY, "unreachable", "x" * 1000)
    for _ in range(2000):
        member.locked(contact.post, big)
    began = time.monotonic()
    pool.permits.trouble("unreachable", "x")
    assert not pool.open()
    assert time.monotonic() - began < 0.5
    wait_for(lambda: contact._writing, what="the kernel is asked to tell when it takes more")
    supervisor.listening.set()
    wait_for(lambda: len(supervisor.of(wire.Trouble)) >= 2001, what="everything arrives, in order and whole")
    wait_for(lambda: not contact.link.pending and not contact._writing)
    supervisor.tell(3)
    wait_for(pool.open)


def test_a_sender_torn_out_of_the_middle_costs_the_link_only(member, supervisor, monkeypatch):
    monkeypatch.setattr(contact, "STUCK", 0.05)
    pool = filled(FakePool(member, ENDPOINT), 1)
    member._loop.contact.link._sending.acquire()  # and never released
    pool.permits.trouble("unreachable", "x")
    wait_for(lambda: len(supervisor.of(wire.Hello)) == 2)
    filled(pool, 1)


# ---- outage ------------------------------------------------------------------------------------


def test_an_outage_reaches_every_pool_and_whoever_waits(member, supervisor, monkeypatch):
    monkeypatch.setattr(permits, "LOOK_AGAIN", 30.0)
    pool = filled(FakePool(member, ENDPOINT), 2)
    failed = []

    def wait():
        try:
            pool.permits.wait(10)
        except ServerDownError as error:
            failed.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: pool.permits.desk.waiters)
    supervisor.say(wire.Health(KEY, up=False, since=1.0, error="connection refused"))
    wait_for(lambda: failed)
    assert "connection refused" in failed[0]
    assert pool.permits.outage.since == 1.0
    assert pool.permits.explain().reason == "server"
    later = FakePool(member, ENDPOINT)
    wait_for(lambda: later.permits.outage)
    thread.join()


def test_the_end_of_an_outage_is_paced(member, supervisor, monkeypatch):
    monkeypatch.setattr(desk, "PACE", 0.5)
    monkeypatch.setattr(member.core._rng, "uniform", lambda low, high: high)
    pool = filled(FakePool(member, ENDPOINT), 1)
    supervisor.say(wire.Health(KEY, up=False, since=1.0, error="x"))
    wait_for(lambda: pool.permits.outage)
    supervisor.say(wire.Health(KEY, up=True))
    began = time.monotonic()
    wait_for(lambda: not pool.permits.outage)
    assert time.monotonic() - began > 0.4
    wait_for(lambda: pool.grown)


# ---- the process -------------------------------------------------------------------------------


def test_a_goodbye_closes_what_is_idle_first(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 1)
    pool.release()
    threading.Thread(target=lambda: pool.peers[0].recv(1) == b"" and pool.peers[0].close()).start()
    member.leave(2.0)
    wait_for(lambda: supervisor.of(wire.Bye))
    assert account(pool).open == 0


def test_a_goodbye_does_not_wait_for_what_is_in_use(member, supervisor):
    filled(FakePool(member, ENDPOINT), 1)
    began = time.monotonic()
    member.leave(0.1)
    assert time.monotonic() - began < 1
    assert not supervisor.of(wire.Bye)
