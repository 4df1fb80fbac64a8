"""The fleet's script in virtual time: who gets which part, and when a part is freed."""

from __future__ import annotations

import random
from typing import Any

import pytest

from poolmgr.fleet import script
from poolmgr.fleet.script import Refused, Renewed
from tests.fleet.asking import NAMES, question, renewal
from tests.simulation.fleet.table import Table


def test_what_a_host_needed_for_a_while_goes_back_to_the_reserve():
    """Else peaks would use it up one after the other, and the next host that needs more, or a new one, would wait until
    others have heard that something is missing."""
    now = 1_800_000_000_000
    table = Table(lambda: now)
    words, seqs, demands = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 40)
    number = ""

    def asks(name: str) -> Renewed:
        seqs[name] += 1
        said = renewal(name, seqs[name], table=number, word=words[name], demand=demands[name], budget=300)
        answer = script.answer(table.call(*said.arguments()))
        assert isinstance(answer, Renewed), answer
        words[name] = answer.grant
        return answer

    first = asks(NAMES[0])
    for name in NAMES[1:]:
        asks(name)
    number = first.table
    table.call(*script.census("run1", number, NAMES))
    for _ in range(3):
        for name in NAMES:
            now += 400
            asks(name)
    for turn in range(20):
        peak = NAMES[turn % len(NAMES)]
        demands[peak] = 65
        assert asks(peak).grant >= 65, f"the reserve is there at peak {turn + 1}"
        demands[peak] = 40
        for name in NAMES:
            now += 400
            answer = asks(name)
            if answer.wanted:
                words[name] = answer.target
                asks(name)
    assert {table.hash["!"].split()[8], str(sum(words.values()) <= 298)} == {"0", "True"}, "and nobody is short"


@pytest.mark.parametrize("floor", [1, 3])
def test_no_host_is_without_a_part_while_others_have_more(floor: int):
    """Who came first must not keep what even parts leave over, nor a floor where all floors do not fit."""
    now = 1_800_000_000_000
    table = Table(lambda: now)
    words, floors = dict.fromkeys(NAMES[:4], 0), dict.fromkeys(NAMES[:4], floor)
    seq, number = 0, ""

    def rounds(count: int) -> list[int]:
        nonlocal now, seq, number
        for _ in range(count):
            seq += 1
            for name in words:
                now += 400
                said = renewal(
                    name, seq, table=number if seq > 1 else "", word=words[name], demand=5, floor=floors[name], budget=8
                )
                answer = script.answer(table.call(*said.arguments()))
                assert isinstance(answer, Renewed), answer
                words[name] = min(answer.grant, answer.target) if answer.wanted else answer.grant
                number = answer.table if seq == 1 else number
            table.call(*script.census("run1", number, list(words)))
        return sorted(words.values())

    assert rounds(8) == [1, 1, 2, 2], "each has its even part, and two one more"
    floors.update(dict.fromkeys(NAMES[1:4], 1))
    floors[NAMES[0]] = 3
    assert rounds(8) == [1, 1, 1, 3], "floors that fit are met"
    assert words[NAMES[0]] == 3


def test_who_comes_first_after_the_server_stood_still_does_not_fence_all_others():
    now = 1_800_000_000_000
    table = Table(lambda: now)
    first = script.answer(table.call(*renewal(NAMES[0], 1).arguments()))
    assert isinstance(first, Renewed)
    table.call(*renewal(NAMES[1], 1).arguments())
    table.call(*script.census("run1", first.table, NAMES[:2]))
    for name in NAMES[:2]:
        table.call(*renewal(name, 2, table=first.table, demand=20).arguments())
    now += 30_000
    table.call(*renewal(NAMES[0], 3, table=first.table, word=1, demand=20).arguments())
    survey = script.surveyed(table.call(*script.survey("run1")))
    assert survey is not None
    assert not survey.marked, "the other one's request is on its way"
    now += 1_500
    table.call(*renewal(NAMES[0], 4, table=first.table, word=1, demand=20).arguments())
    survey = script.surveyed(table.call(*script.survey("run1")))
    assert survey is not None
    assert survey.marked == {NAMES[1]}, "it has not come"


def test_without_lists_a_part_is_freed_after_a_wait_if_the_hosts_ask_for_that():
    now = 1_800_000_000_000
    table = Table(lambda: now)

    def asks(name: str, seq: int, **changes: Any) -> Renewed:
        said = {"able": False, "unproven": 5_000, "demand": 20, **changes}
        answer = script.answer(table.call(*renewal(name, seq, **said).arguments()))
        assert isinstance(answer, Renewed), answer
        return answer

    first = asks(NAMES[0], 1)
    number = first.table
    asks(NAMES[1], 1)
    for seq in range(2, 17):
        now += 1_000
        assert asks(NAMES[0], seq, table=number, unproven=0).learning, "never, if they do not ask for that"
        asks(NAMES[1], seq, table=number, unproven=0)
    now += 1_001
    assert not asks(NAMES[0], 20, table=number).learning, "all leases of another table have ended, and more"
    other = asks(NAMES[1], 20, table=number)
    assert other.grant > 0
    held = asks(NAMES[0], 21, table=number).grant
    for seq in range(22, 38):
        now += 1_000
        held = asks(NAMES[0], seq, table=number, word=held).grant
        if seq < 33:
            assert held + other.grant <= 10, "it is charged"
    told = script.answer(table.call(*renewal(NAMES[1], 21, table=number, word=other.grant, able=False).arguments()))
    assert told == Refused("fenced", number, now), "marked"
    for seq in range(38, 42):
        now += 1_000
        answer = asks(NAMES[0], seq, table=number, word=held, able=seq == 41)
        held = answer.grant
    assert held == 10
    assert table.hash.keys() == {"!", NAMES[0]}


def test_a_host_that_may_list_is_waited_for():
    now = 1_800_000_000_000
    table = Table(lambda: now)
    first = script.answer(table.call(*renewal(NAMES[0], 1, able=False, unproven=1_000).arguments()))
    assert isinstance(first, Renewed)
    for seq in range(2, 20):
        now += 1_000
        table.call(*renewal(NAMES[1], seq, table=first.table if seq > 2 else "").arguments())
        answer = script.answer(
            table.call(*renewal(NAMES[0], seq, table=first.table, able=False, unproven=1_000).arguments())
        )
        assert isinstance(answer, Renewed)
        assert answer.learning, "it takes the census"


def test_the_head_is_written_whenever_it_changes():
    """Most renewals leave it as it is, and do not write it. A script that always does has the same table."""
    line = "  local same = got[2] and"
    rng = random.Random(11)
    now = 1_800_000_000_000
    table = Table(lambda: now)
    always = Table(lambda: now, lambda text: text.replace(line, "  local same = false and"))
    number, spared = "", 0
    words, seqs = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0)
    for _ in range(4000):
        now += rng.choice((0, 1, 30, 300))
        name = rng.choice(NAMES)
        seqs[name] += 1
        changes: dict[str, Any] = {
            "table": number if table.hash.get(name) else "",
            "word": rng.choice((words[name], words[name], rng.randrange(words[name] + 1))),
            "demand": rng.choice((2, 2, 2, rng.randrange(9))),
            "budget": 12 if rng.random() < 0.98 else 10,
            "slack": 2 if rng.random() < 0.98 else 3,
            "able": rng.random() < 0.5,
        }
        asked: tuple[str | int, ...] = renewal(name, seqs[name], **changes).arguments()
        if rng.random() < 0.02:
            asked = question(rng, seqs[name], number)
        elif rng.random() < 0.02:
            asked = script.census("run1", number, NAMES)
        head = table.hash.get("!")
        answer = table.call(*asked)
        assert answer == always.call(*asked), asked
        assert table.hash == always.hash, asked
        spared += head == table.hash["!"] and asked[0] == "renew"
        if answer[0] in ("ok", "table") and asked[0] == "renew":
            number = answer[1]
        if answer[0] == "ok" and asked[0] == "renew":
            words[str(asked[3])] = answer[3]
            seqs[str(asked[3])] = max(seqs[str(asked[3])], int(asked[4]))
        elif answer[0] == "fenced":
            words[str(asked[3])] = 0
    assert spared > 400, "it was left as it is"
