"""Long answers are made piece by piece: they are what they would be in one, and have a bound."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st
from redis.exceptions import ResponseError

from worker import answer
from worker.errors import Problem
from worker.protocol import MAX_DEPTH, as_base64, as_text, item, to_json

ERRORS = st.text(max_size=12).map(ResponseError)
LEAVES = (
    st.binary(max_size=40) | st.text(max_size=20).map(str.encode) | st.integers() | st.none() | st.just(b"OK") | ERRORS
)
REPLIES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
ENCODERS = pytest.mark.parametrize("encode", [as_text, as_base64])


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer counts as a long one, and no piece is longer than a character."""
    monkeypatch.setattr(answer, "SHORT", -1)
    monkeypatch.setattr(answer, "SLICE", 3)


@ENCODERS
@given(reply=REPLIES)
def test_an_answer_in_pieces_is_the_one_that_it_would_be_at_once(encode: Any, reply: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer, "SHORT", -1)
        patch.setattr(answer, "SLICE", 3)
        whole = item(reply, encode)
        assert answer.of_one(reply, encode, 0) == (to_json(whole), "error" in whole)
        assert answer.of_many([reply, reply], encode, 0) == to_json([whole, whole])


@ENCODERS
def test_a_reply_that_is_too_deep_is_an_error_in_its_own_place(encode: Any, in_pieces: None) -> None:
    reply: Any = b"x"
    for _ in range(MAX_DEPTH + 1):
        reply = [reply]
    body, is_error = answer.of_one(reply, encode, 0)
    assert is_error
    assert "nested more than" in json.loads(body)["error"]
    found = json.loads(answer.of_many([b"before", reply, b"after"], encode, 0))
    assert [list(each) for each in found] == [["result"], ["error"], ["result"]]


@pytest.mark.parametrize("character", ["\x00", "😀", '"', "\udfff".encode("utf-8", "surrogatepass").decode("latin-1")])
def test_what_grows_as_json_has_a_bound(character: str) -> None:
    long = character.encode() * (answer.SHORT // len(character.encode()) + 1)
    size = len(answer.of_one(long, as_text, 0)[0])
    assert answer.of_one(long, as_text, size)[0]
    with pytest.raises(Problem, match="as JSON") as refused:
        answer.of_one(long, as_text, size - 1)
    assert refused.value.status == 400
    with pytest.raises(Problem, match="as JSON"):
        answer.of_many([b"short", long], as_text, size)


def test_what_is_short_is_not_bounded_twice() -> None:
    assert answer.of_one(b"\x00" * 100, as_text, 1)[0] == to_json({"result": "\x00" * 100})
