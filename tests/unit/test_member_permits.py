"""A member's permits, against a supervisor of the test's own: taken, waited for, recalled, returned, lost."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time

import pytest

from poolmgr import settings, wire
from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.member import loop, permits
from poolmgr.member.member import Member
from poolmgr.member.waker import Parker
from tests.helpers import wait_for
from tests.stopwatch import Stopwatch
from tests.threads import Calls
from tests.unit.fake_supervisor import ENDPOINT, KEY, FakePool, account, filled


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
    monkeypatch.setattr("poolmgr.member.closer.BOUND", 0.05)
    pool = filled(FakePool(member, ENDPOINT), 2)
    permit, sock = pool.lent.pop()
    permit.close(sock)  # the peer never closes
    lost = wait_for(lambda: supervisor.of(wire.Lost))
    assert lost[-1].serials == (permit.serial,)
    assert not pool.open()
    supervisor.say(wire.Gone(KEY, (permit.serial,)))
    wait_for(pool.open)


def test_a_permit_that_is_collected_while_it_holds_a_socket_has_it_closed_with_proof(member, supervisor):
    """The garbage collector ends the objects of a cycle in any order, the socket before its connection too."""
    pool = filled(FakePool(member, ENDPOINT), 1)
    held = account(pool).open
    permit = pool.permits.take()
    assert permit is not None
    here, there = socket.socketpair()
    with there:
        permit.hold(here)
        there.settimeout(10)
        del here, permit
        gc.collect()
        assert there.recv(1) == b"", "our side is shut down"
        assert account(pool).open == held + 1, "and counts until the server has let go of it"
    wait_for(lambda: account(pool).open == held)
    assert not supervisor.of(wire.Lost)


def test_a_connection_collected_with_its_permit_is_lost_and_one_never_used_is_not(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 1)
    pool.lent.pop()
    gc.collect()
    wait_for(lambda: supervisor.of(wire.Lost))
    assert account(pool).open == 1

    permit = permits.SocketPermit(member, member.core.serial(), pool.permits)
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
    permit.close(sock)
    permit.gone()
    pool.peers.pop().close()
    wait_for(lambda: account(pool).open == 0)


@pytest.mark.parametrize("struck", [False, True], ids=["by two threads", "after an exception of a signal handler"])
def test_a_socket_that_is_handed_over_twice_is_closed_once_by_the_agent(member, supervisor, struck):
    """Closed before its end has come, its number would be another file's while the agent still watches it."""
    pool = filled(FakePool(member, ENDPOINT), 1)
    (permit, sock), peer = pool.lent.pop(), pool.peers.pop()
    permit.close(sock)
    wait_for(lambda: account(pool).closing)
    permit._held = struck  # it may strike after the hand-over and before the note that there was one
    permit.close(sock)
    wait_for(lambda: not member.closes)
    peer.close()
    wait_for(lambda: not account(pool).open, what="the peer's end-of-file is heard")


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
    thread = Calls(lambda: got.append(pool.permits.wait(5)))
    wait_for(lambda: supervisor.report.waiting)
    supervisor.tell(3)
    thread.join(5)
    assert got[0].serial
    assert not pool.open()


def test_waiting_ends_with_a_reason(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    supervisor.say(wire.Picture(KEY, 7, (("gunicorn worker 12", 5),)))
    wait_for(lambda: pool.permits.dispatcher.picture)
    watch = Stopwatch()
    with pytest.raises(ConnectionPoolTimeoutError) as caught:
        pool.permits.wait(0.05)
    assert watch.seconds() >= 0.05 and watch.fair() < 1
    assert caught.value.reason == "budget"
    assert "holds 2 of its limit 2" in str(caught.value)
    assert str(caught.value).endswith("Raise the budget with: poolmgr budget server:1 N")
    assert "all 7 permits for " in str(caught.value)
    assert "gunicorn worker 12: 5" in str(caught.value)


def test_where_a_larger_budget_would_not_help_none_is_asked_for(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    supervisor.say(wire.Picture(KEY, 2, bound="the server takes no more clients now (maxclients 20)"))
    wait_for(lambda: pool.permits.dispatcher.picture)
    with pytest.raises(ConnectionPoolTimeoutError) as caught:
        pool.permits.wait(0.05)
    assert str(caught.value).endswith(
        "A larger budget does not help, because the server takes no more clients now (maxclients 20): "
        "raise maxclients there, or close connections of its other clients"
    )
    assert "Raise the budget" not in str(caught.value)
    assert not pool.permits.dispatcher.waiters


def test_an_interrupted_waiter_is_not_waited_for(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    pool.permits.queue(Parker())  # torn away before it could leave the queue
    permit, sock = pool.lent.pop()
    sock.close()
    permit.gone()
    wait_for(pool.open)
