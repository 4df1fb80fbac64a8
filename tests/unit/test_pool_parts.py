"""What the parts of a pool in several event loops decide between them: properties of each rule."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from poolmgr.pool import parts
from poolmgr.pool.parts import NEVER, Part, Return
from poolmgr.pool.queue import LEFT, Granted, Served, Ticket

NOW = 100.0


@st.composite
def some_part(draw: st.DrawFn) -> Part:
    idle, opening, lent = (draw(st.integers(0, 4)) for _ in range(3))
    return Part(
        size=idle + opening + lent,
        ceiling=draw(st.integers(0, 12)),
        idle=idle,
        opening=opening,
        since=draw(st.none() | st.floats(90, 100)),
        refused=draw(st.booleans()),
        closed=draw(st.booleans()),
        asking=draw(st.booleans()),
        got_at=draw(st.just(-NEVER) | st.floats(90, 100)),
        reserved_until=draw(st.just(0.0) | st.floats(99, 101)),
        connect_time=draw(st.floats(0.001, 0.1)),
        retry_at=draw(st.just(0.0) | st.floats(99, 101)),
    )


some_parts = st.lists(some_part(), min_size=1, max_size=4)
ONE = Part(size=1, ceiling=1)
WAITING = Part(size=0, ceiling=0, since=99.0, refused=True)


def growth(all_parts: list[Part], ceiling: int) -> list[int]:
    """By how many each may grow, as each decides by itself."""
    others = [[other for other in all_parts if other is not part] for part in all_parts]
    return [
        max(0, parts.room(part, rest, ceiling, NOW) - part.size) for part, rest in zip(all_parts, others, strict=True)
    ]


@given(some_parts, st.integers(1, 12))
def test_no_part_grows_above_the_ceiling_of_all_together(all_parts, ceiling):
    free = max(0, ceiling - sum(part.size for part in all_parts))
    assert all(more <= free for more in growth(all_parts, ceiling))


@given(some_parts, st.integers(1, 6))
def test_while_places_are_free_some_part_may_take_one(all_parts, free):
    """Or loops that were given places keep each other from them."""
    ceiling = free + sum(part.size for part in all_parts)
    able = [part for part, more in zip(all_parts, growth(all_parts, ceiling), strict=True) if more]
    kept = [part for part in all_parts if part.reserved_until > NOW and parts.needy(part)]
    assert able or kept
    if kept:
        assert min(kept, key=lambda part: part.reserved_until) in able, "the first of those that were given one"


def test_a_place_that_was_given_is_kept_and_another_free_one_is_not():
    given_one = WAITING._replace(reserved_until=NOW + 1)
    assert parts.room(ONE, [given_one], 2, NOW) == 1
    assert parts.room(ONE, [given_one], 3, NOW) == 2
    assert parts.room(given_one, [ONE], 2, NOW) == 1
    assert parts.room(ONE, [given_one._replace(reserved_until=NOW - 1)], 2, NOW) == 2, "for a time only"
    assert parts.room(ONE, [given_one._replace(since=None)], 2, NOW) == 2, "if its tasks wait"


def test_of_two_that_were_given_one_the_first_comes_first():
    first, second = (WAITING._replace(reserved_until=NOW + later) for later in (0.1, 0.2))
    assert parts.room(first, [second], 1, NOW) == 1
    assert parts.room(second, [first], 1, NOW) == 0


@given(some_parts)
def test_the_part_whose_task_has_waited_longest_comes_first_and_only_those_that_wait(all_parts):
    turns = parts.in_turn((part, part) for part in all_parts)
    assert [part.since for part in turns] == sorted(part.since for part in all_parts if part.since is not None)


@given(some_parts, st.integers(-3, 20))
def test_as_many_as_are_asked_for_are_given_up_by_those_that_have_most(all_parts, count):
    given_up = parts.gives(all_parts, count)
    assert sum(given_up) == max(0, min(count, sum(part.idle for part in all_parts)))
    assert all(0 <= some <= part.idle for some, part in zip(given_up, all_parts, strict=True))
    left = [part.size - some for part, some in zip(all_parts, given_up, strict=True)]
    able = [have for have, part, some in zip(left, all_parts, given_up, strict=True) if some < part.idle]
    taken = [have for have, some in zip(left, given_up, strict=True) if some]
    assert not able or not taken or max(able) <= min(taken) + 1


@given(some_part())
def test_only_a_part_that_lacks_something_asks_and_only_once(part):
    wait = parts.patience(part, NOW)
    assert (wait < NEVER) == (parts.lacks(part, NOW) and not part.asking)


@given(some_part())
def test_whatever_an_errand_has_brought_the_next_one_is_not_sent_at_the_same_time(part):
    assert parts.patience(part._replace(got_at=NOW), NOW) > 0


@given(some_part())
def test_a_part_that_has_something_waits_longer_than_one_that_has_nothing(part):
    bare = part._replace(size=part.idle + part.opening)
    assert parts.patience(bare._replace(ceiling=0), NOW) <= parts.patience(part._replace(ceiling=0), NOW)
    assert parts.patience(WAITING, NOW) == 0, "at once, if it has nothing"


@given(some_part())
def test_a_part_wants_nothing_that_it_could_not_use_now(part):
    if parts.lacks(part, NOW):
        assert part.since is not None and not part.closed and not part.idle and not part.opening
        assert part.retry_at <= NOW
        assert part.size >= part.ceiling or part.refused
        assert not parts.is_served(part)
    if part.retry_at > NOW:
        assert not parts.lacks(part, NOW)


# ---- each condition by itself: drawn parts seldom meet all the others ----------------------------------


def test_a_part_that_may_still_grow_lacks_nothing():
    growing = WAITING._replace(ceiling=1, refused=False)
    assert not parts.lacks(growing, NOW)
    assert parts.lacks(growing._replace(ceiling=0), NOW), "it has no place"
    assert parts.lacks(growing._replace(refused=True), NOW), "it has no permit"
    for served in ({"since": None}, {"idle": 1, "size": 1}, {"opening": 1, "size": 1}, {"closed": True}):
        assert not parts.lacks(WAITING._replace(**served), NOW), served
        assert parts.is_served(WAITING._replace(**served)), served
    assert not parts.is_served(WAITING)
    assert not parts.lacks(WAITING._replace(retry_at=NOW + 0.1), NOW)
    assert parts.lacks(WAITING._replace(retry_at=NOW), NOW)


def test_what_a_part_has_it_keeps_and_there_is_never_less_room_than_none():
    given_one = WAITING._replace(reserved_until=NOW + 1)
    assert parts.room(ONE, [given_one], 1, NOW) == 1, "the place that is kept is another one"
    assert parts.room(ONE, [Part(size=3, ceiling=3)], 2, NOW) == 0


def test_a_part_asks_once_at_a_time():
    assert parts.patience(WAITING._replace(asking=True), NOW) == NEVER
    assert parts.patience(ONE, NOW) == NEVER, "none of its tasks waits"


def test_how_long_a_part_waits_before_it_asks():
    """One that has nothing: since it got something last. Another one: since its task waits too, and longer."""
    worth, rest = parts.WORTH * WAITING.connect_time, parts.REST * WAITING.connect_time
    assert parts.patience(WAITING._replace(got_at=NOW), NOW) == pytest.approx(worth)
    assert parts.patience(WAITING._replace(since=NOW), NOW) == 0
    busy = WAITING._replace(size=1)
    assert parts.patience(busy, NOW) == 0
    assert parts.patience(busy._replace(since=NOW), NOW) == pytest.approx(worth)
    assert parts.patience(busy._replace(got_at=NOW), NOW) == pytest.approx(rest)
    assert parts.patience(busy._replace(since=NOW, got_at=NOW), NOW) == pytest.approx(rest)


GRANTED = Granted(Ticket(1, None, 0.0, background=False))


@pytest.mark.parametrize(
    ("brought", "wanted", "unwanted", "gone"),
    [
        (None, Return.OPEN, Return.OPEN, Return.NOTHING),
        (Served(object()), Return.CLOSE, Return.KEEP, Return.KEEP),
        (GRANTED, Return.HAND_OVER, Return.DROP, Return.DROP),
        (LEFT, Return.NOTHING, Return.NOTHING, Return.NOTHING),
    ],
    ids=["a connection could be opened", "a connection", "a right to open one", "withdrawn"],
)
def test_what_an_errand_brings_is_its_senders_if_that_one_lacks_it_still(brought, wanted, unwanted, gone):
    assert parts.came_back(brought, WAITING, NOW) is wanted
    assert parts.came_back(brought, WAITING._replace(since=None), NOW) is unwanted
    assert parts.came_back(brought, WAITING._replace(retry_at=NOW + 1), NOW) is unwanted
    assert parts.came_back(brought, None, NOW) is gone
