"""A member's link to its supervisor: found, cut, silent, refused, and ended with a goodbye."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from poolmgr import launch, settings, wire
from poolmgr.kernel import lockfile
from poolmgr.member import session
from poolmgr.member.link import Link
from poolmgr.member.member import Member
from tests.helpers import have_lines_written, wait_for
from tests.stopwatch import Stopwatch
from tests.unit.fake_supervisor import ENDPOINT, KEY, FakePool, FakeSupervisor, account, filled


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


def test_a_supervisor_whose_words_break_every_link_is_not_asked_without_a_pause(member, supervisor):
    """A caller waits meanwhile, and each link brings a welcome before what is no message."""
    pool = FakePool(member, ENDPOINT)
    wait_for(lambda: supervisor.told)
    answer = supervisor._answer

    def nonsense(message):
        answer(message)
        if isinstance(message, wire.Hello):
            limit = wire.encode(wire.Limit(supervisor.server, 9, 0))
            supervisor._answering.link.sendall(limit.replace(b"Limit", b"Limbo"))

    supervisor._answer = nonsense
    pool.waiting = 1
    supervisor.cut()
    began, met = time.monotonic(), supervisor.accepted
    wait_for(lambda: supervisor.accepted >= met + 8, 30)
    assert time.monotonic() - began > 0.1
    supervisor._answer = answer
    wait_for(lambda: account(pool).seq, 10)


def test_it_finds_the_next_supervisor(member, supervisor, caplog):
    caplog.set_level(logging.INFO, "poolmgr.member")
    pool = filled(FakePool(member, ENDPOINT), 1)
    have_lines_written()
    caplog.clear()  # the first one was found, too
    supervisor.stop()
    wait_for(lambda: not account(pool).seq)
    second = FakeSupervisor(supervisor.path, limit=3)
    try:
        filled(pool, 2)
        have_lines_written()
        assert [m for m in caplog.messages if m.startswith("supervisor.")] == ["supervisor.lost", "supervisor.found"]
    finally:
        second.stop()


def test_lost_connections_are_told_to_the_next_supervisor_again(member, supervisor, monkeypatch):
    monkeypatch.setattr("poolmgr.member.closer.BOUND", 0.02)
    pool = filled(FakePool(member, ENDPOINT), 2)
    permit, sock = pool.lent.pop()
    permit.close(sock)
    wait_for(lambda: len(supervisor.of(wire.Lost)) == 1)
    supervisor.cut()
    wait_for(lambda: len(supervisor.of(wire.Lost)) == 2)
    assert supervisor.of(wire.Hello)[-1].holds[0].stated == 2


@pytest.fixture
def no_other(monkeypatch):
    """Called where a member has a supervisor started, in whose place nothing comes."""
    dialled = launch.connect

    def connect(found, *, start=True, timeout=10.0):
        if start:
            starting()
        return dialled(found, start=False, timeout=timeout)

    starting = Mock()
    monkeypatch.setattr(launch, "connect", connect)
    return starting


def test_the_need_to_grow_has_a_supervisor_started_and_idleness_has_not(no_other, isolated):
    supervisor, member = FakeSupervisor(isolated), Member(settings.load())
    try:
        pool = filled(FakePool(member, ENDPOINT), 1)
        supervisor.stop()
        wait_for(lambda: not account(pool).seq)
        time.sleep(0.2)
        assert not no_other.called
        assert not pool.open()
        wait_for(lambda: no_other.called)
    finally:
        member.stop()


def test_starting_a_supervisor_does_not_hold_up_closing(no_other, isolated):
    release = threading.Event()
    no_other.side_effect = lambda: release.wait(10)
    supervisor, member = FakeSupervisor(isolated), Member(settings.load())
    try:
        pool = filled(FakePool(member, ENDPOINT), 2)
        supervisor.stop()
        wait_for(lambda: not account(pool).seq)
        pool.open()
        wait_for(lambda: member._loop and member._loop.session._finder._helper)
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
    monkeypatch.setattr(session, "PING_AFTER", 0.05)
    monkeypatch.setattr(lockfile, "silence", lambda path: 60.0)
    replaced = []

    def replace(found, sock=None):
        replaced.append(sock.getpeername())
        return True

    monkeypatch.setattr(launch, "replace_hung", replace)
    pool = filled(FakePool(member, ENDPOINT), 2)
    supervisor.silent = True
    time.sleep(0.3)
    assert not replaced, "one that nobody waits for may be silent"
    pool.waiting = 1
    pool.open()
    wait_for(lambda: supervisor.of(wire.Ping))
    wait_for(lambda: replaced)
    assert replaced == [supervisor.path]
    wait_for(lambda: len(supervisor.of(wire.Hello)) == 2)


def test_a_supervisor_that_answers_pings_is_left_in_peace(member, supervisor, monkeypatch):
    monkeypatch.setattr(session, "PING_AFTER", 0.02)
    monkeypatch.setattr(lockfile, "silence", lambda path: 0.0)  # nor is one that gives signs of life
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
    assert why.text.startswith("no supervisor has granted a permit for ")
    assert why.text.endswith(": too many clients")


def test_a_supervisor_that_does_not_read_does_not_block_anybody(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 2)
    session = member._loop.session
    supervisor.listening.clear()
    big = wire.Trouble(KEY, "unreachable", "x" * 1000)
    for _ in range(2000):
        member.locked(session.post, big)
    watch = Stopwatch()
    pool.permits.trouble("unreachable", "x")
    assert not pool.open()
    assert watch.fair() < 5
    wait_for(lambda: session._writing, what="the kernel is asked to tell when it takes more")
    supervisor.listening.set()
    wait_for(lambda: len(supervisor.of(wire.Trouble)) >= 2001, what="everything arrives, in order and whole")
    wait_for(lambda: not session.link.pending and not session._writing)
    supervisor.tell(3)
    wait_for(pool.open)


def test_a_sender_torn_out_of_the_middle_costs_the_link_only(member, supervisor, monkeypatch):
    monkeypatch.setattr(session, "STUCK", 0.05)
    pool = filled(FakePool(member, ENDPOINT), 1)
    member._loop.session.link._sending.acquire()  # and never released
    pool.permits.trouble("unreachable", "x")
    wait_for(lambda: len(supervisor.of(wire.Hello)) == 2)
    filled(pool, 1)


def test_a_goodbye_closes_what_is_idle_first(member, supervisor):
    pool = filled(FakePool(member, ENDPOINT), 1)
    pool.release()
    threading.Thread(target=lambda: pool.peers[0].recv(1) == b"" and pool.peers[0].close()).start()
    member.leave(20.0)
    wait_for(lambda: supervisor.of(wire.Bye))
    assert account(pool).open == 0


def test_a_goodbye_does_not_wait_for_what_is_in_use(member, supervisor):
    filled(FakePool(member, ENDPOINT), 1)
    watch = Stopwatch()
    member.leave(0.1)
    assert watch.fair() < 1
    assert not supervisor.of(wire.Bye)


def test_nothing_is_opened_on_a_link_that_is_cut_though_its_end_has_not_been_read_yet(member, supervisor):
    """As in a process that was stopped: its callers may run before its agent does."""
    pool = filled(FakePool(member, ENDPOINT), 1)
    loop = member._loop
    unread = threading.Event()
    noticed = loop.session._stirs
    loop.session._stirs = lambda *args: unread.wait(5) and noticed(*args)
    try:
        supervisor.say(wire.Welcome(wire.VERSION, 1, ""))  # its end comes after something that has not been read either
        supervisor.stop()
        assert account(pool).seq and account(pool).available == 1, "the agent does not know"
        assert not pool.open()
        assert not account(pool).seq
    finally:
        unread.set()


def test_between_a_goodbye_and_its_sending_nothing_is_opened(member, supervisor, monkeypatch):
    """A daemon thread goes on while the process ends; what was stated by the goodbye is everybody's."""
    pool = filled(FakePool(member, ENDPOINT), 1)
    pool.release()
    pool.peers[0].close()
    session = member._loop.session
    post, flush = session.post, session.flush
    said: list[wire.Message] = []
    opened: list[bool] = []

    def posts(message):
        said.append(message)
        post(message)

    def flushes():
        if not opened and any(isinstance(message, wire.Bye) for message in said):
            opened.append(True)
            opened[:] = [pool.open()]
        flush()

    monkeypatch.setattr(session, "post", posts)
    monkeypatch.setattr(session, "flush", flushes)
    member.leave(5)
    wait_for(lambda: supervisor.of(wire.Bye), what="the goodbye")
    assert opened
    assert not any(opened)
    assert not pool.open()


def test_a_link_is_heard_though_its_number_was_that_of_a_socket_closed_behind_the_agents_back(
    member, supervisor, monkeypatch
):
    pool = filled(FakePool(member, ENDPOINT), 1)
    permit, sock = pool.lent.pop()
    high = socket.socket(fileno=fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 500))  # a number that nobody takes by chance
    number = high.fileno()
    sock.close()
    permit.close(high)
    wait_for(lambda: number in member._loop._selector.get_map(), what="the agent waits for its end")
    high.close()  # as a user's code may, which has the connection's socket
    dialled = launch.connect

    def connect(*args, **kwargs):
        with dialled(*args, **kwargs) as found:
            return socket.socket(fileno=os.dup2(found.fileno(), number))

    monkeypatch.setattr(launch, "connect", connect)
    supervisor.cut()
    wait_for(lambda: account(pool).seq and member.core.link == 2, what="the second link is heard")
    assert member._loop.session.link.sock.fileno() == number


def test_a_cut_that_was_seen_late_says_nothing_of_the_next_link(member, supervisor, monkeypatch):
    """A thread may be held up between its look and the lock for as long as it takes to find another supervisor."""
    pool = filled(FakePool(member, ENDPOINT), 1)
    old = member._loop.session.link
    supervisor.cut()
    wait_for(lambda: len(supervisor.of(wire.Hello)) == 2 and account(pool).seq, what="another link")
    member.locked(pool.permits._cut, old)
    assert account(pool).seq
    assert pool.open()


# ---- the lock file ------------------------------------------------------------------------------------


def guarded(path: Path) -> tuple[Link, socket.socket]:
    """A link to a supervisor whose lock that file is, and the supervisor's end."""
    here, there = socket.socketpair()
    link = Link(here, 1)
    found = path.stat()
    link.guard(str(path), (found.st_dev, found.st_ino))
    return link, there


@pytest.mark.parametrize("how", ["removed", "replaced", "without its directory"])
def test_a_link_ends_where_the_lock_file_is_another_ones(tmp_path: Path, how: str) -> None:
    lock = tmp_path / "run" / "s.lock"
    lock.parent.mkdir()
    lock.touch()
    held = lock.open()  # as the supervisor has it: its number is not used again meanwhile
    link, there = guarded(lock)
    assert not link.is_cut()
    lock.unlink()
    if how == "replaced":
        lock.touch()
    elif how == "without its directory":
        lock.parent.rmdir()
    assert link.is_cut()
    assert link.receive() is None, "the agent reads its end"
    assert there.recv(1) == b"", "and the supervisor, if it ever runs again"
    for each in (link, there, held):
        each.close()


def test_who_cannot_see_the_lock_file_does_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = socket.socketpair()
    link = Link(here, 1)
    link.guard(str(tmp_path / "s.lock"), (1, 2))
    assert not link.is_cut(), "a container may have the socket only"
    link.guard(str(tmp_path), (0, 0))
    assert not link.is_cut(), "version 0.1.0 does not say"
    link.close()
    there.close()
    lock = tmp_path / "s.lock"
    lock.touch()
    link, there = guarded(lock)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", Mock(side_effect=PermissionError))
        assert not link.is_cut(), "what cannot be looked at just now says nothing"
    link.close()
    there.close()
