"""Reading CLIENT LIST: what proves that a dead process's connections are gone (rule S3)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from poolmgr.supervisor.upstreams import proof
from poolmgr.supervisor.upstreams.proof import Row, UnreadableError, judge, parse

DEAD = "pm1.0123abcd.00ff11.41.1000.abcdef"
LIVE = "pm1.0123abcd.00ff11.42.1001.abcdef"


def row(number: int, name: str = "", **more: str | int) -> Row:
    fields: dict[str, str | int] = {"addr": "10.0.0.1:5000", "age": 0, "command": "NULL", **more}
    return Row(number, name=name, **fields)  # type: ignore[arg-type]


def test_a_real_list_is_understood() -> None:
    valkey = (
        f"id=3 addr=/tmp/r.sock:0 laddr=/tmp/r.sock:0 fd=8 name=app-{DEAD}-17 age=12 idle=0 flags=U capa= db=0 "
        "cmd=client|list user=default lib-name= lib-ver=\n"
        "id=4 addr=127.0.0.1:4444 laddr=127.0.0.1:6379 fd=9 name= age=0 idle=0 flags=N db=0 cmd=get user=x "
        f"lib-name=redis-py({DEAD}-9) lib-ver=8\n"
        "id=5 addr=127.0.0.1:4445 fd=9 name= age=1 idle=0 flags=N db=0 cmd=NULL\n"
    )
    rows = parse(valkey.encode())
    assert [r.id for r in rows] == [3, 4, 5]
    assert rows[0].tag is not None
    assert (rows[0].tag.process, rows[0].tag.serial) == (DEAD, 17)
    assert rows[1].tag is not None
    assert rows[1].tag.serial == 9
    assert (rows[2].tag, rows[2].host, rows[2].command) == (None, "127.0.0.1", "NULL")


def test_what_a_path_holds_is_no_field_of_the_connection() -> None:
    """The end of a connection that bears its tag in its library's name only was taken for proven (found by the
    fuzzer)."""
    path = "/tmp/ lib-name=x cmd=get flags=P/r.sock:0"
    (found,) = parse(
        f"id=3 addr={path} laddr={path} fd=8 name= age=12 idle=0 flags=U db=0 cmd=client|list user=default "
        f"lib-name=redis-py({DEAD}-17) lib-ver=8\n".encode()
    )
    assert found.tag is not None
    assert (found.tag.process, found.command, found.flags) == (DEAD, "client|list", "U")
    assert not judge([found], {DEAD}, fresh=0, host=None, handshake=60.0).gone


@pytest.mark.parametrize("path", ["/tmp/a b/r.sock", "/tmp/two  blanks/r s.sock", "/tmp/a fd=8 name=x age=3 y/r.sock"])
@pytest.mark.parametrize(
    "places",
    [
        "addr=[{path}:0]:0 laddr=[{path}:0]:0 fd=8",
        "addr={path}:0 laddr={path}:0 fd=8",
        "addr={path}:0 fd=8",
        "addr={path}:0",
    ],
)
def test_the_path_of_a_unix_socket_may_hold_blanks(path: str, places: str) -> None:
    rest = " age=12 idle=0 flags=U db=0 cmd=client|list user=default lib-name= lib-ver=\n"
    text = "".join(
        f"id={n} {places.format(path=path)} name={name}{rest}" for n, name in [(3, f"app-{DEAD}-17"), (4, "")]
    )
    named, unnamed = parse(text.encode())
    assert named.tag is not None
    assert (named.id, named.tag.process, named.age) == (3, DEAD, 12)
    assert named.addr in (f"{path}:0", f"[{path}:0]:0")
    assert (unnamed.id, unnamed.name, unnamed.host, unnamed.command) == (4, "", named.host, "client|list")


@pytest.mark.parametrize(
    "row",
    [
        "nonsense",
        "id=4 addr=/tmp/a",  # a line break in the path of the server's socket
        "b/r.sock:0 fd=8 name= age=1 idle=0 cmd=get",
        "id=4 addr=10.0.0.1:4 age=1 cmd=get",
        "id=x addr=10.0.0.1:4 name= age=1 cmd=get",
        f"addr=10.0.0.1:4 name={DEAD}-1 age=1 cmd=get",
    ],
)
def test_a_row_that_is_not_understood_makes_the_list_unusable(row: str) -> None:
    good = "id=3 addr=10.0.0.1:3 fd=9 name= age=0 idle=0 flags=N db=0 cmd=get\n"
    with pytest.raises(UnreadableError, match="not understood"):
        parse(f"{good}{row}\n{good}".encode())


def verdict(*rows: Row, targets: tuple[str, ...] = (DEAD,), fresh: int = 100, host: str | None = "10.0.0.1") -> object:
    found = judge(rows, targets, fresh=fresh, host=host, handshake=7.0)
    return set(found.gone), found.leftovers, found.suspects


def test_nothing_left_is_gone() -> None:
    assert verdict(row(100, "us"), row(3, f"{LIVE}-1")) == ({DEAD}, (), ())


def test_a_named_leftover_is_to_be_killed_and_no_other() -> None:
    assert verdict(row(3, f"app-{DEAD}-1"), row(4, f"{LIVE}-1"), row(5, "", library=f"{DEAD}-2")) == (set(), (3, 5), ())


def test_an_unnamed_young_connection_of_our_address_keeps_everything() -> None:
    assert verdict(row(3)) == (set(), (), (3,))


def test_what_was_accepted_after_the_fresh_connection_is_nobody_deads() -> None:
    assert verdict(row(101)) == ({DEAD}, (), ())
    assert verdict(row(100)) == ({DEAD}, (), ())
    assert verdict(row(101), fresh=0) == (set(), (), (101,))


def test_an_unnamed_connection_that_cannot_be_ours_is_no_suspect() -> None:
    assert verdict(row(3, addr="10.0.0.9:1")) == ({DEAD}, (), ())
    assert verdict(row(3, age=8)) == ({DEAD}, (), ())
    assert verdict(row(3, command="get")) == ({DEAD}, (), ())
    assert verdict(row(3, library="redis-py")) == ({DEAD}, (), ())
    assert verdict(row(3, "somebody")) == ({DEAD}, (), ())


def test_without_our_own_address_everyone_counts_as_ours() -> None:
    assert verdict(row(3, addr="10.0.0.9:1"), host=None) == (set(), (), (3,))


def test_every_step_of_a_handshake_is_suspicious() -> None:
    for command in ("NULL", "hello", "auth", "client|setname", "client|setinfo", "select", ""):
        assert verdict(row(3, command=command)) == (set(), (), (3,)), command


def test_a_single_connection_is_told_from_its_process() -> None:
    lost = f"{LIVE}-7"
    assert verdict(row(3, f"{LIVE}-8"), targets=(lost,)) == ({lost}, (), ())
    assert verdict(row(3, lost), row(4, f"{LIVE}-70"), targets=(lost,)) == (set(), (3,), ())


def test_one_target_may_be_gone_before_another() -> None:
    assert verdict(row(3, f"{DEAD}-1"), targets=(DEAD, LIVE)) == ({LIVE}, (3,), ())


def test_what_was_accepted_after_the_first_fresh_connection_is_nobody_deads_at_any_later_look() -> None:
    young = row(90)
    how = {"fresh": 100, "host": "10.0.0.1", "handshake": 7.0}
    assert judge([young], {DEAD}, anchors={DEAD: 80}, **how).gone == {DEAD}  # type: ignore[arg-type]
    assert judge([young], {DEAD}, anchors={DEAD: 95}, **how).suspects == (90,)  # type: ignore[arg-type]
    both = judge([young], {DEAD, f"{DEAD}x"}, anchors={DEAD: 80}, **how)  # type: ignore[arg-type]
    assert both.gone == {DEAD}, "the other one has ended since"
    assert both.suspects == (90,)


# ---- asked for by number ---------------------------------------------------------------------------------

FRESH = 50
OTHER = "pm1.0123abcd.00ff11.43.1002.abcdef"
NAMES = {"dead": f"{DEAD}-1", "live": f"{LIVE}-1", "foreign": "app", "unnamed": ""}

fates = st.lists(
    st.tuples(st.sampled_from(sorted(NAMES)), st.sampled_from(["stays", "ends", *sorted(NAMES)])), max_size=8
)
"""What each connection is on the first list, and what becomes of it; only those without a name get one."""


def lists_of(fated: list[tuple[str, str]], newer: int) -> tuple[list[Row], list[Row]]:
    """The first list, and a whole one later: others have connected since."""
    first = [row(number + 1, NAMES[name]) for number, (name, _) in enumerate(fated)]
    later = []
    for shown, (name, fate) in zip(first, fated, strict=True):
        if fate != "ends":
            renamed = name == "unnamed" and fate in NAMES
            later.append(row(shown.id, NAMES[fate] if renamed else shown.name))
    return [*first, row(FRESH, "us")], [*later, row(FRESH, "us"), *(row(FRESH + 1 + n) for n in range(newer))]


def proves_the_same(fated: list[tuple[str, str]], newer: int) -> bool:
    first, later = lists_of(fated, newer)
    how: dict[str, Any] = {"fresh": FRESH, "host": "10.0.0.1", "handshake": 7.0}
    before = judge(first, {DEAD, OTHER}, **how)
    asked = (*before.leftovers, *before.suspects)
    by_number = proof.merged(first, asked, [shown for shown in later if shown.id in asked])
    return judge(by_number, {DEAD, OTHER}, **how) == judge(later, {DEAD, OTHER}, **how)


@given(fates, st.integers(0, 3))
def test_what_is_asked_for_by_number_proves_what_a_whole_list_would(fated: list[tuple[str, str]], newer: int) -> None:
    assert proves_the_same(fated, newer)


@pytest.mark.parametrize(
    ("fated", "wrong"),
    [
        ([("unnamed", "dead")], lambda rows, asked, later: [row for row in rows if row.id not in asked]),
        ([("dead", "ends"), ("unnamed", "live")], lambda rows, asked, later: list(rows)),
    ],
    ids=["what is shown again is forgotten", "what is gone is remembered"],
)
def test_a_rule_of_it_switched_off_is_noticed(
    fated: list[tuple[str, str]], wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert proves_the_same(fated, 1)
    monkeypatch.setattr(proof, "merged", wrong)
    assert not proves_the_same(fated, 1)
