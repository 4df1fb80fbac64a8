"""An exception at any instruction, and a garbage collection at any instruction, lose nothing.

The first is what a signal handler, ``PyThreadState_SetAsyncExc`` or the killing of a greenlet do. A trace
function stands for them: it strikes at the n-th instruction executed in the pool's own code, for every n.
"""

from __future__ import annotations

import dis
import gc
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import poolmgr.pool
from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import RedisServer, wait_for
from tests.pools import KINDS, answers_are_its_own, client_of, direct_pool, nothing_is_missing, pool_of
from tests.stopwatch import Stopwatch
from tests.threads import Calls, meanwhile

OURS = str(Path(poolmgr.pool.__file__).parent)


class Struck(BaseException):
    pass


def finalizing(frame: FrameType | None) -> bool:
    """Whether an exception here would be swallowed by the interpreter."""
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "gone", "on_lost", "<genexpr>"):  # the last one while it is closed
            return True
        frame = frame.f_back
    return False


class At:
    """Runs ``strike`` at the n-th instruction of the pool's code in this thread.

    With ``where`` in that of another file, and only where the interpreter looks for signals: not between the taking
    of a lock and the block that it guards, as the standard library relies on.
    """

    def __init__(self, number: int, strike: Callable[[], None], where: str = OURS) -> None:
        self.left = number
        self.strike = strike
        self.where = where
        self.struck = False
        self.last: dict[int, str] = {}

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """For each call. What it finds holds for all instructions of a frame, and there are millions of these."""
        if self.struck or not frame.f_code.co_filename.startswith(self.where) or finalizing(frame):
            return None
        frame.f_trace = self.instruction  # from Python 3.13 on the next line does nothing without this one
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self.instruction

    def instruction(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and not self.struck and self.strikes_at(frame):
            self.left -= 1
            if self.left <= 0:
                self.struck = True
                self.strike()
        return self.instruction

    def strikes_at(self, frame: FrameType) -> bool:
        """In the pool's code anywhere but between two steps of a ``for``: :mod:`poolmgr.taking` relies on that."""
        before, now = self.last.get(id(frame), ""), dis.opname[frame.f_code.co_code[frame.f_lasti]]
        if before == "FOR_ITER" and now in ("STORE_FAST", "NOP"):
            return False
        self.last[id(frame)] = now
        return self.where == OURS or before.startswith(("CALL", "RESUME"))

    def __enter__(self) -> At:
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for this only here
        sys.settrace(self.trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)


def strike() -> None:
    raise Struck


def every_instruction(run: Callable[[At], None], step: int = 1, where: str = OURS) -> int:
    """Call ``run`` with a strike at each instruction in turn, until it ends before its strike."""
    number = 1
    while True:
        at = At(number, strike, where)
        run(at)
        if not at.struck:
            return number
        number += step


def borrow(pool: ConnectionPool, at: At) -> None:
    """A checkout and a release under a strike; what was borrowed is let go of."""
    try:
        with at:
            connection = pool.get_connection()
            pool.release(connection)
    except Struck:
        pass


def test_a_warm_checkout_and_release(server: RedisServer):
    pool = direct_pool(server, max_connections=1)
    client_of(pool).ping()

    def run(at: At) -> None:
        client_of(pool).ping()
        borrow(pool, at)
        nothing_is_missing(pool)

    assert every_instruction(run) > 50
    answers_are_its_own(pool)


def test_a_cold_checkout(server: RedisServer):
    def run(at: At) -> None:
        pool = direct_pool(server, max_connections=1)
        borrow(pool, at)
        nothing_is_missing(pool)
        pool.disconnect()
        nothing_is_missing(pool)

    assert every_instruction(run, step=7) > 500


def test_a_command_on_a_warm_connection(server: RedisServer):
    pool = direct_pool(server, max_connections=1)
    client = client_of(pool)
    client.set("k", "mine")

    def run(at: At) -> None:
        try:
            with at:
                client.get("k")
        except Struck:
            pass
        nothing_is_missing(pool)
        assert client.get("k") == b"mine"

    assert every_instruction(run) > 100


def test_a_release_to_one_who_waits(server: RedisServer):
    pool = direct_pool(server, max_connections=1)
    client_of(pool).ping()

    def run(at: At) -> None:
        client_of(pool).ping()
        connection = pool.get_connection()
        got: list[bool] = []
        waiting = Calls(lambda: got.append(bool(client_of(pool).ping())))
        wait_for(lambda: len(pool._queue) == 1)
        try:
            with at:
                pool.release(connection)
        except Struck:
            pass
        del connection
        waiting.join(10)
        assert got == [True]
        nothing_is_missing(pool)

    assert every_instruction(run, step=3) > 100


def test_a_wait(server: RedisServer):
    pool = direct_pool(server, max_connections=1)
    client_of(pool).ping()

    def run(at: At) -> None:
        held = pool.get_connection()
        giver = threading.Timer(0.01, pool.release, (held,))
        giver.start()
        del held
        borrow(pool, at)
        giver.join()
        del giver
        nothing_is_missing(pool)

    assert every_instruction(run, step=5) > 100
    answers_are_its_own(pool)


def test_the_start_of_a_thread_that_connects_for_the_queue(server: RedisServer):
    """Inside ``threading``: what was to connect may never run then, and is kept by the interpreter."""
    pool = direct_pool(server, timeout=5)

    def run(at: At) -> None:
        held = pool.get_connection()
        pool.shed(9)  # so that the next one has to be made, behind the back of whoever wants it
        borrow(pool, at)
        pool.release(held)
        del held
        nothing_is_missing(pool)

    assert every_instruction(run, where=threading.__file__) > 10
    answers_are_its_own(pool)


@pytest.mark.parametrize("waiting", [False, True])
def test_a_release_by_the_garbage_collector_at_any_instruction(server: RedisServer, waiting: bool):
    """Inside every function of ours, whoever has the turn: it returns, and nothing is lost or doubled."""
    pool = direct_pool(server, max_connections=3)
    for number in range(1, 400, 3):
        garbage = [pool.get_connection(), pool.get_connection()]

        def collect(garbage: list[Any] = garbage) -> None:
            pool.release(garbage.pop())

        at = At(number, collect)
        with at:
            connection = pool.get_connection()
            pool.release(connection)
        del connection
        while garbage:
            pool.release(garbage.pop())
        nothing_is_missing(pool)
        if not at.struck:
            break
    if waiting:
        pool.max_connections = 1
        for number in range(1, 460, 5):  # what comes before the first wait is over
            held = pool.get_connection()
            at = At(number, lambda held=held: pool.release(held))  # type: ignore[misc]
            with at:
                connection = pool.get_connection()
                pool.release(connection)
            del held, connection
            nothing_is_missing(pool)
            if not at.struck:
                break
    answers_are_its_own(pool)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_gets_interrupted_by_signals_at_random_instants(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    # Signals strike finalizers too. Pytest keeps what it hears of that, and so the frames that were being executed:
    # among them a caller's that has just been handed a connection.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    pool = pool_of(kind, request, max_connections=3, socket_timeout=5)
    client = client_of(pool)
    client.set("k", "mine")
    stop = threading.Event()

    def others() -> None:
        while not stop.is_set():
            assert client.get("k") == b"mine"

    rng = random.Random(7)

    armed = False

    def handler(number: int, frame: object) -> None:
        nonlocal armed
        if armed:  # another thread may have taken the signal, and then this one hears of it late
            armed = False
            raise Struck

    start = threading.Thread.start

    def unstruck(thread: threading.Thread) -> None:
        nonlocal armed
        if threading.current_thread() is not threading.main_thread():
            start(thread)
            return
        was, armed = armed, False
        start(thread)
        armed = was

    if sys.version_info >= (3, 14):  # the interpreter's own lock around its list of threads: docs/limits.md
        monkeypatch.setattr(threading.Thread, "start", unstruck)
    before = signal.signal(signal.SIGALRM, handler)
    struck = 0
    with meanwhile(others, ended=stop, times=4):
        try:
            for _ in range(1000):
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.00002, 0.002))
                    assert client.get("k") == b"mine"
                    armed = False
                except Struck:
                    struck += 1
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert struck > 100
    _let_go_of_what_is_being_handled()
    nothing_is_missing(pool)
    answers_are_its_own(pool)
    assert pool.stats().in_use == 0


def _let_go_of_what_is_being_handled() -> None:
    """A signal that strikes between two instructions of an ``except`` clause can leave the interpreter with its
    exception for ever, as the context of all later ones. What its frames hold lives as long; no pool can help that."""
    error = sys.exc_info()[1]
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    gc.collect()


def test_a_holder_that_vanishes_gives_its_place_to_one_who_waits(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("poolmgr.pool.waiting.SLICE", 60.0)  # nobody looks by itself
    pool: ConnectionPool = direct_pool(server, max_connections=1, timeout=100)
    holder = [pool.get_connection()]
    got: list[bool] = []
    waiting = Calls(lambda: got.append(bool(client_of(pool).ping())))
    wait_for(lambda: len(pool._queue) == 1)
    watch = Stopwatch()
    gc.disable()
    try:
        holder.clear()  # no cycle keeps it: the last reference is enough
        waiting.join(70)
    finally:
        gc.enable()
    assert got == [True]
    assert watch.fair() < 5, "the finder woke the waiter; it did not wait for its turn to look"
    assert pool.stats().closed == {"lost": 1}
    nothing_is_missing(pool)
