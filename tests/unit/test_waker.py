"""A thread that is poked wakes, whatever else it is doing at that moment."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from poolmgr.member import waker as module
from poolmgr.member.waker import Waker


@pytest.fixture
def waker() -> Iterator[Waker]:
    made = Waker()
    yield made
    made.close()


def wakes(waker: Waker) -> bool:
    return bool(select.select([waker], [], [], 0)[0])


def test_it_sleeps_until_it_is_poked(waker: Waker) -> None:
    assert not wakes(waker)
    waker.poke()
    waker.poke()
    assert wakes(waker)
    waker.clear()
    assert not wakes(waker)


def test_clearing_without_a_poke_does_not_block(waker: Waker) -> None:
    waker.clear()
    assert not wakes(waker)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_poke_in_the_middle_of_clearing_does_not_keep_later_ones_from_waking(
    waker: Waker, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread runs while this one is in ``read``, which gives the interpreter's lock away."""

    def read(descriptor: int, size: int) -> bytes:
        if when == "before":
            waker.poke()
        data = os.read(descriptor, size)
        if when == "after":
            waker.poke()
        return data

    waker.poke()
    monkeypatch.setattr(module, "os", type("os", (), {**vars(os), "read": staticmethod(read)}))
    waker.clear()
    monkeypatch.undo()
    # The poke in the middle was seen by the look that follows clear(), or wakes again. A later one must wake.
    if wakes(waker):
        waker.clear()
    waker.poke()
    assert wakes(waker)


def test_poking_a_closed_one_writes_to_nobody(waker: Waker) -> None:
    waker.close()
    waker.poke()
    waker.close()
