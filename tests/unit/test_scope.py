"""The scope: made once for each boot, kept for as long as anything may bear it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poolmgr import tags
from poolmgr.budget.accounts import Identity
from poolmgr.budget.ledger import Ledger
from poolmgr.kernel import processes
from poolmgr.supervisor.disk.scope import Scope
from poolmgr.supervisor.upstreams.belonging import Belonging

PLACE, BOOT = "0123abcd", "00ff11"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


def test_it_is_the_same_until_an_orderly_end(path: str) -> None:
    first = Scope(path)
    made = first.make()
    assert len(made) == 16
    assert Scope(path).make() == made
    first.remove()
    assert not list(Path(path).parent.iterdir())
    assert Scope(path).make() != made


@pytest.mark.parametrize("what", ["boot_id", "pid_namespace"])
def test_a_clone_that_has_the_file_makes_its_own(path: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Scope(path).make()
    monkeypatch.setattr(processes, what, lambda: "another" if what == "boot_id" else 7)
    assert Scope(path).make() != made


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"boot": 7}'])
def test_what_is_not_whole_is_made_anew(path: str, content: bytes) -> None:
    Path(path + ".scope").write_bytes(content)
    made = Scope(path).make()
    assert len(made) == 16
    assert Scope(path).make() == made


def test_it_stays_until_what_nobody_has_proven_was_searched_for(path: str) -> None:
    first = Scope(path)
    made = first.make()
    first.unproven({"tcp://cache:6379", "tcp://10.0.0.1:6379"})
    first.unproven({"unix:///r"})
    first.remove()
    second = Scope(path)
    assert second.make() == made
    second.searched({"tcp://other:1"})
    second.searched({"unix:///r"})
    second.remove()
    third = Scope(path)
    assert third.make() == made
    third.searched({"tcp://cache:6379", "tcp://10.0.0.1:6379"})
    third.remove()
    assert Scope(path).make() != made


def test_one_that_cannot_be_written_is_one_all_the_same(tmp_path: Path) -> None:
    scope = Scope(str(tmp_path / "none" / "s"))
    assert scope.make() == scope.make()
    scope.remove()


def test_names_are_read_back_with_and_without_a_scope() -> None:
    tag = f"pm1.{PLACE}.{BOOT}.41.1000.abcdef"
    for scope in ("", "0123456789abcdef"):
        found = tags.find("app:" + tags.name(tag, 17, scope))
        assert found is not None
        assert (found.process, found.serial, found.scope) == (tag, 17, scope)


# ---- whose a tag is -----------------------------------------------------------------------------------

OURS, OTHER = "0123456789abcdef", "fedcba9876543210"


def tag(place: str = PLACE, boot: str = BOOT, scope: str = "", pid: int = 1 << 23) -> tags.Tag:
    return tags.Tag(place, boot, pid, 1000, "abcdef", 1, scope)


@pytest.mark.parametrize(
    ("shown", "known", "possible", "neighbour"),
    [
        (tag(scope=OURS), False, True, False),
        (tag(place="ffffffff", scope=OURS), False, True, False),  # the host has another name since
        (tag(scope=OTHER), False, True, False),  # the directory was removed
        (tag(), False, True, False),  # version 0.1.0
        (tag(place="ffffffff", scope=OTHER), False, False, True),
        (tag(place="ffffffff"), False, False, True),
        (tag(boot="ffffff", scope=OTHER), False, False, False),  # a clone, or an earlier boot
        (tag(boot="ffffff"), False, False, False),
        (tag(pid=5, place="ffffffff", scope=OTHER), True, False, False),
    ],
)
def test_whose_a_name_is(shown: tags.Tag, known: bool, possible: bool, neighbour: bool) -> None:
    ledger = Ledger()
    ledger.adopt(OURS)
    member = tag(pid=5, place="ffffffff").process
    ledger.register(Identity(member, 5), 1, {}, 0.0)
    belonging = Belonging(ledger, PLACE, BOOT, "/nowhere")
    assert (belonging.known(shown), belonging.possible(shown), belonging.neighbour(shown)) == (
        known,
        possible,
        neighbour,
    )


def test_whom_our_path_leads_elsewhere_is_none_of_an_earlier_supervisors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "finds", lambda pid, _: {7: None, 8: True, 9: False}[pid])
    monkeypatch.setattr(processes, "start_time", lambda pid: 1000)
    belonging = Belonging(Ledger(), PLACE, BOOT, "/nowhere")
    assert belonging.possible(tag(pid=7))
    assert belonging.possible(tag(pid=8))
    assert belonging.neighbour(tag(pid=9))
    monkeypatch.setattr(processes, "start_time", lambda pid: 1001)  # that process is gone, and its number is another's
    assert belonging.possible(tag(pid=9))


def test_where_a_path_leads_others(tmp_path: Path) -> None:
    file = tmp_path / "s"
    assert processes.finds(os.getpid(), str(file)) is None, "it leads nowhere"
    file.touch()
    assert processes.finds(os.getpid(), str(file)) is True
    assert processes.finds(1 << 23, str(file)) is None, "there is no such process"
