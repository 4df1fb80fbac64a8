"""What is made of redis-py's own tests: each way in which the lists and the outcomes can disagree fails the run."""

from __future__ import annotations

import pytest

from tests.upstream.known import KNOWN
from tests.upstream.run import EXPLAINED, FILES
from tests.upstream.verdict import Verdict, judge, node_of

THEIRS = {"f::good": "passed", "f::old": "failed", "f::odd": "passed", "f::none": "skipped"}
OURS = {"f::good": "passed", "f::old": "failed", "f::odd": "failed", "f::none": "skipped"}
KNOWN_HERE = {"f::old": "expects another server"}
EXPLAINED_HERE = {r"::odd$": "is odd"}


def verdict(
    theirs: dict[str, str] = {}, ours: dict[str, str] = {}, *, known: dict[str, str] | None = KNOWN_HERE,  # noqa: B006
    explained: dict[str, str] = EXPLAINED_HERE, whole: bool = True,
) -> Verdict:  # fmt: skip
    return judge({**THEIRS, **theirs}, {**OURS, **ours}, known=known, explained=explained, whole=whole)


def test_all_as_it_is_written_down():
    found = verdict()
    assert found.good
    assert (found.explained, found.known) == ({"f::odd": "is odd"}, ["f::old"])


@pytest.mark.parametrize(
    ("found", "where"),
    [
        (verdict(ours={"f::good": "failed"}), {"worse": ["f::good"]}),
        (verdict(theirs={"f::good": "failed"}, ours={"f::good": "failed"}), {"unlisted": ["f::good"]}),
        (verdict(theirs={"f::good": "failed"}), {"unlisted": ["f::good"]}),
        (verdict(theirs={"f::old": "passed"}, ours={"f::old": "passed"}), {"mended": ["f::old"]}),
        (verdict(theirs={"f::old": "passed"}), {"mended": ["f::old"], "worse": ["f::old"]}),
        (verdict(theirs={"f::old": "skipped"}, ours={"f::old": "skipped"}), {"mended": ["f::old"]}),
        (verdict(ours={"f::odd": "passed"}), {"stale": ["::odd$"]}),
        (verdict(explained={**EXPLAINED_HERE, "::gone": "was renamed"}), {"stale": ["::gone"]}),
        (verdict(explained={}), {"worse": ["f::odd"]}),
        (verdict(theirs={"f::one": "passed"}), {"missing": ["f::one"]}),
        (verdict(ours={"f::one": "passed"}), {"missing": ["f::one"]}),
    ],
)
def test_each_difference_fails_the_run_and_is_named(found: Verdict, where: dict[str, list[str]]):
    assert not found.good
    said = {name: getattr(found, name) for name in ("worse", "unlisted", "mended", "stale", "missing")}
    assert {name: names for name, names in said.items() if names} == where


def test_where_nobody_has_listed_what_fails_with_redis_pys_own_pools():
    assert verdict(known=None).good


def test_of_a_part_nothing_is_said_about_what_did_not_run():
    found = judge({"f::good": "passed"}, {"f::good": "passed"}, known=KNOWN_HERE, explained=EXPLAINED_HERE, whole=False)
    assert found.good


@pytest.mark.parametrize("names", KNOWN.values(), ids=KNOWN)
def test_what_is_listed_can_be_repeated_alone(names: dict[str, str]):
    for name in names:
        file, *_, test = node_of(name, FILES).split("::")
        assert file.removeprefix("tests/") in FILES
        assert name.endswith(f"::{test}")


def test_names_of_tests():
    files = ("test_lock.py", "maint/test_maint.py")
    assert node_of("tests.test_lock.TestLock::test_a[1.5-x]", files) == "tests/test_lock.py::TestLock::test_a[1.5-x]"
    assert node_of("tests.maint.test_maint::test_b", files) == "tests/maint/test_maint.py::test_b"
    with pytest.raises(ValueError, match="none of the files"):
        node_of("tests.test_locker::test_c", files)


def test_every_explanation_has_its_words():
    assert all(EXPLAINED.values())
