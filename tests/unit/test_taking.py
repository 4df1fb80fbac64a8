"""A lock that a signal handler's exception does not leave taken."""

from __future__ import annotations

import threading

import pytest

from poolmgr.taking import NO_LOCK, taken, tried
from tests.helpers import python

BLOCK = """try:
                pass
            finally:
                lock.release()"""

WAYS = {
    "taken": f"for _ in taken(lock):\n            {BLOCK}",
    "tried": f"for _ in tried(lock):\n            {BLOCK}",
    "acquire": f"if lock.acquire():\n            {BLOCK}",
}

STRUCK = """
import signal, threading, time
from poolmgr.taking import taken, tried
class Struck(Exception):
    pass
def strike(number, frame):
    raise Struck
def work(lock):
    while True:
        WAY
signal.signal(signal.SIGALRM, strike)
struck = left = 0
deadline = time.monotonic() + 60
while struck < 1000 and time.monotonic() < deadline:
    lock = threading.Lock()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
        work(lock)
    except Struck:
        struck += 1
    left += lock.locked()
print(struck, left)
"""


@pytest.mark.parametrize("way", WAYS)
def test_no_exception_of_a_signal_handler_leaves_it_taken(way: str) -> None:
    """But one does where it is taken in the usual way: so this test can fail."""
    struck, left = map(int, python(STRUCK.replace("WAY", WAYS[way]), timeout=100).stdout.split())
    assert struck == 1000
    assert left > 0 if way == "acquire" else left == 0


def test_a_lock_that_is_not_free_is_waited_for_or_not() -> None:
    lock = threading.Lock()
    for _ in taken(lock):
        assert list(tried(lock)) == [False]
        lock.release()
    assert list(tried(lock)) == [True]
    assert list(tried(lock)) == [False]


def test_at_the_end_there_is_none() -> None:
    assert [list(taken(NO_LOCK)), list(taken(NO_LOCK))] == [[True], [True]]
    NO_LOCK.release()
