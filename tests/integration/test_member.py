"""Members with the real supervisor and a real server: what is left when either is killed, and the oracle."""

from __future__ import annotations

import gc
import os
import signal
import textwrap
import threading

import pytest

from poolmgr import settings, wire
from poolmgr.kernel.lockfile import holder
from poolmgr.member.member import Member
from tests.helpers import alive, kill, wait_for
from tests.program import Program
from tests.threads import meanwhile
from tests.unit.fake_supervisor import FakePool

BUDGET = 9
OURS = BUDGET - 1
"""The supervisor keeps one connection for itself."""


@pytest.fixture
def server(redis_server, monkeypatch):
    monkeypatch.setenv("REDIS_CONNECTION_BUDGET", str(BUDGET))
    monkeypatch.setenv("POOLMGR_LINGER", "0")
    made = redis_server(maxclients=BUDGET + 1)  # the observer is one
    yield made
    assert made.rejected() == 0


@pytest.fixture
def members():
    made = []

    def make():
        made.append(Member(settings.load()))
        return made[-1]

    yield make
    for member in made:
        member.stop()


def pool_at(member, server):
    endpoint = wire.Endpoint(key=f"unix://{server.path}", path=server.path)
    pool = FakePool(member, endpoint, address=server.path)
    wait_for(lambda: pool.permits.dispatcher.account.seq, 10)
    return pool


def fill(pool, most=100):
    """Open what can be had; waits until nothing more comes."""
    pool.filling = threading.Lock()  # guards the pool's lists
    pool.waiting = most
    pool.on_grow = lambda: fill_now(pool, most)
    fill_now(pool, most)


def fill_now(pool, most):
    """By the test's thread and the member's."""
    with pool.filling:
        _fill(pool, most)


def _fill(pool, most):
    while len(pool.lent) < most and pool.open():
        pool.waiting = most - len(pool.lent)


class Other(Program):
    """Another process with a member and a pool of its own, which does as it is told."""

    def __init__(self, server, code):
        prelude = f"""
            import sys
            from poolmgr import settings
            from poolmgr.member.member import Member
            from tests.helpers import wait_for
            from tests.integration.test_member import fill, pool_at
            class server: path = {server.path!r}
            pool = pool_at(Member(settings.load()), server)
            {code}
            print("done", flush=True)
            for line in sys.stdin:
                exec(line)
                print("done", flush=True)
            """
        super().__init__("-c", textwrap.dedent(prelude))

    def done(self):
        assert self.says() == "done"

    def does(self, line):
        self.tell(line)
        self.done()


def supervisor_pid():
    return holder(settings.load().socket + ".lock")


def test_a_lone_member_gets_the_whole_budget(server, members):
    pool = pool_at(members(), server)
    fill(pool)
    wait_for(lambda: len(pool.lent) == OURS)


def test_two_members_share_and_what_one_gives_up_the_other_gets(server, members):
    pool = pool_at(members(), server)
    fill(pool)
    wait_for(lambda: len(pool.lent) == OURS)
    with Other(server, "fill(pool); wait_for(lambda: len(pool.lent) >= 4)") as other:
        wait_for(lambda: pool.permits.surplus, 20, what="a fair share is asked for")
        told = threading.Event()

        def yield_what_is_recalled() -> None:  # the share may be asked for in more than one step
            while not told.wait(0.002):
                while pool.permits.surplus:
                    pool.release()

        with meanwhile(yield_what_is_recalled, ended=told):
            other.done()
        while pool.lent:
            pool.release()
        pool.waiting = 0
        other.does(f"wait_for(lambda: len(pool.lent) == {OURS}, 10)")
        assert not pool.idle


def test_the_supervisor_is_killed_and_nothing_is_lost(server, members):
    pool = pool_at(members(), server)
    fill(pool, 3)
    wait_for(lambda: len(pool.lent) == 3)
    old = supervisor_pid()
    kill(old)
    wait_for(lambda: not alive(old))
    fill(pool)  # the need to grow starts another one
    wait_for(lambda: len(pool.lent) == OURS, 15)
    assert supervisor_pid() not in (0, old)


def test_a_silent_supervisor_is_replaced(server, members):
    pool = pool_at(members(), server)
    fill(pool, 3)
    wait_for(lambda: len(pool.lent) == 3)
    old = supervisor_pid()
    os.kill(old, signal.SIGSTOP)
    try:
        fill(pool)
        wait_for(lambda: len(pool.lent) == OURS, 20)
        assert supervisor_pid() not in (0, old)
        assert not alive(old)
    finally:
        kill(old)


def test_a_process_that_has_dropped_its_pools_still_tells_the_next_supervisor_that_it_holds_nothing(server, members):
    member = members()

    def use_and_drop() -> None:
        pool = pool_at(member, server)
        fill(pool)
        wait_for(lambda: len(pool.lent) == OURS)
        pool.waiting, pool.on_grow = 0, lambda: None
        while pool.lent:
            permit, sock = pool.lent.pop()
            permit.close(sock)
        wait_for(lambda: not member.core.open, what="all is closed")

    use_and_drop()
    gc.collect()
    assert member.core.granted > 1
    old = supervisor_pid()
    kill(old)
    wait_for(lambda: not alive(old))
    second = pool_at(members(), server)
    fill(second)
    wait_for(lambda: len(second.lent) == OURS, 15)


def test_a_killed_member_returns_its_permits(server, members):
    pool = pool_at(members(), server)
    with Other(server, f"fill(pool, {OURS - 2}); wait_for(lambda: len(pool.lent) == {OURS - 2})") as other:
        other.done()
        other.kill()
        fill(pool)
        wait_for(lambda: len(pool.lent) == OURS)


def test_a_connection_that_the_server_holds_on_to_is_proven_gone(server, members, monkeypatch):
    """A server that is busy confirms no close in time; the supervisor sees to it when it is back."""
    monkeypatch.setattr("poolmgr.member.closer.BOUND", 0.05)
    pool = pool_at(members(), server)
    fill(pool, 2)
    wait_for(lambda: len(pool.lent) == 2)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        permit, sock = pool.lent.pop()
        permit.close(sock)
        wait_for(lambda: pool.permits.dispatcher.account.lost)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    wait_for(lambda: not pool.permits.dispatcher.account.lost, 10)
    pool.waiting = 0
    wait_for(lambda: pool.permits.dispatcher.account.open == 1)


def test_a_goodbye_ends_the_supervisor_at_once(server, members):
    member = members()
    pool = pool_at(member, server)
    fill(pool, 1)
    wait_for(lambda: pool.lent)
    pool.waiting = 0
    pool.on_grow = lambda: None
    pool.release()
    pid = supervisor_pid()
    member.leave(3)
    assert member.core.open == 0
    wait_for(lambda: not alive(pid), 10)
