"""Which of several ways to a server is tried first."""

from __future__ import annotations

from typing import Any

import msgspec

from poolmgr.supervisor.upstreams.ways import KEPT, Ways
from poolmgr.wire import Endpoint

LIST = frozenset({"CLIENT LIST"})


def way(key: str, password: str = "") -> Endpoint:
    return Endpoint(key=key, host=key, port=1, password=password)


def passwords(ways: Ways) -> list[list[Any]]:
    return [[endpoint.password for endpoint in endpoints] for endpoints in ways.endpoints]


def test_the_newest_is_tried_first_until_something_is_known() -> None:
    ways = Ways()
    assert ways.learn(way("a", "old"), "m1")
    assert not ways.learn(way("a", "new"), "m2")
    assert passwords(ways) == [["new", "old"]]


def test_what_works_is_tried_first_however_old_it_is() -> None:
    ways = Ways()
    ways.learn(way("a", "works"), "m1")
    ways.worked(way("a", "works"), 1.0)
    ways.learn(way("a", "untried"), "m2")
    assert passwords(ways) == [["works", "untried"]]
    ways.failed(way("a", "works"), "WRONGPASS", 2.0)
    assert passwords(ways) == [["untried", "works"]]
    ways.failed(way("a", "untried"), "WRONGPASS", 3.0)
    assert passwords(ways) == [["works", "untried"]], "of those that have failed, the one that failed the longest ago"


def test_one_by_which_nothing_can_be_listed_is_tried_after_one_of_which_nothing_is_known() -> None:
    ways = Ways()
    ways.learn(way("a", "may not"), "m1")
    ways.worked(way("a", "may not"), 1.0, asked=LIST, forbidden=LIST)
    ways.learn(way("a", "untried"), "m2")
    ways.learn(way("a", "wrong"), "m2")
    ways.failed(way("a", "wrong"), "WRONGPASS", 1.0)
    assert passwords(ways) == [["untried", "may not", "wrong"]]
    ways.worked(way("a", "may not"), 2.0)
    assert passwords(ways) == [["untried", "may not", "wrong"]], "it was not asked for a list this time"
    ways.worked(way("a", "may not"), 3.0, asked=LIST)
    assert passwords(ways)[0][0] == "may not"


def test_the_key_with_the_best_way_comes_last() -> None:
    ways = Ways()
    for key in "abcd":
        ways.learn(way(key, key), "m")
    ways.worked(way("a", "a"), 1.0)
    ways.worked(way("b", "b"), 2.0, asked=LIST, forbidden=LIST)
    ways.failed(way("c", "c"), "no such file", 3.0)
    assert passwords(ways) == [["c"], ["b"], ["d"], ["a"]]


def test_where_nobody_answers_comes_after_all_others() -> None:
    """A connection that is left there keeps its permit: by the others the server has been seen by then."""
    ways = Ways()
    for key in "abc":
        ways.learn(way(key, key), "m")
    ways.worked(way("a", "a"), 1.0)
    ways.failed(way("b", "b"), "no answer in time", 2.0, silent=True)
    ways.failed(way("c", "c"), "refused", 3.0)
    assert passwords(ways) == [["c"], ["a"], ["b"]]
    ways.failed(way("b", "b"), "refused", 4.0)
    assert passwords(ways)[-1] == ["a"], "somebody did answer"
    ways.failed(way("b", "b"), "no answer in time", 5.0, silent=True)
    ways.worked(way("b", "b"), 6.0)
    assert passwords(ways)[0] == ["c"]
    other = Ways()
    other.learn(way("d"), "m")
    other.failed(way("d"), "no answer in time", 7.0, silent=True)
    ways.take(other)
    assert passwords(ways)[-1] == [""]


def test_a_way_is_forgotten_with_the_last_client_that_has_named_it() -> None:
    ways = Ways()
    ways.learn(way("a", "one"), "m1")
    ways.learn(way("a", "two"), "m1")
    ways.learn(way("a", "two"), "m2")
    ways.learn(way("b", "one"), "m1")
    ways.keep({"m2"})
    assert passwords(ways) == [["two"]]
    ways.keep(())
    assert passwords(ways) == [["two"]], "our own connections may have to be looked for"


def test_of_many_ways_with_one_key_those_that_do_worst_are_dropped() -> None:
    ways = Ways()
    ways.learn(way("a", "works"), "m")
    ways.worked(way("a", "works"), 1.0)
    for number in range(3 * KEPT):
        ways.learn(way("a", str(number)), "m")
        ways.failed(way("a", str(number)), "WRONGPASS", float(number))
    (kept,) = passwords(ways)
    assert len(kept) == KEPT
    assert kept[0] == "works"


def test_two_names_of_one_server_have_the_ways_of_both() -> None:
    one, two = Ways(), Ways()
    one.learn(way("a", "1"), "m1")
    one.failed(way("a", "1"), "WRONGPASS", 2.0)
    two.learn(way("a", "2"), "m2")
    two.worked(way("a", "2"), 1.0, asked=LIST, forbidden=LIST)
    two.learn(way("b", "3"), "m2")
    one.take(two)
    assert sorted(one) == ["a", "b"]
    assert passwords(one) == [["2", "1"], ["3"]]
    one.keep({"m1"})
    assert passwords(one) == [["1"]]


def test_a_way_that_only_a_client_can_go_is_not_tried() -> None:
    ways = Ways()
    ways.learn(msgspec.structs.replace(way("a"), unseen="Tunnel makes its connections itself"), "m")
    assert ways.endpoints == ()
    assert ways.unseen == "Tunnel makes its connections itself"
    ways.learn(way("a"), "m")
    assert len(ways.endpoints) == 1
    assert ways.unseen == ""


def test_a_process_is_without_hope_when_its_ways_have_failed_or_lead_where_nobody_listens() -> None:
    ways = Ways()
    ways.learn(way("a", "one"), "m1")
    ways.learn(way("a", "two"), "m2")
    ways.failed(way("a", "one"), "WRONGPASS", 1.0)
    assert ways.hopeless("m1") and ways.error_of("m1") == "WRONGPASS"
    assert not ways.hopeless("m2") and not ways.hopeless("m3"), "it was not tried; nothing is known"
    ways.failed(way("a", "one"), "Connection refused", 2.0, unconnected=True)
    assert ways.hopeless("m2"), "nobody would have let it in either"
    own = msgspec.structs.replace(way("a", "three"), own=True)
    ways.learn(own, "m3")
    assert not ways.hopeless("m3"), "it may lead elsewhere"
    ways.failed(way("a", "one"), "WRONGPASS", 3.0)
    assert not ways.hopeless("m2"), "there is a server again"
