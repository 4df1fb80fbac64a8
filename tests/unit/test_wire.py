"""The decoder: whatever comes in, messages or a WireError come out, and nothing is kept that need not be."""

from __future__ import annotations

import itertools
import tracemalloc

import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

from poolmgr import wire
from tests.fuzz.messages import HEADER, frames, messages

valid = messages()
stream = st.lists(frames(valid), max_size=6).map(b"".join)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in itertools.pairwise(at)]


def text(said: list[wire.Message]) -> str:
    """To be compared with: it takes no number for unequal to itself."""
    return repr([msgspec.to_builtins(message) for message in said])


def is_within_bounds(message: wire.Message) -> bool:
    try:
        return len(list(wire.Decoder(wire.FromMember | wire.Pong).feed(wire.encode(message)))) == 1
    except wire.WireError:
        return False


@given(st.lists(valid.filter(is_within_bounds), max_size=6), st.lists(st.integers(0, 1 << 16), max_size=8))
def test_whatever_way_it_is_cut_what_was_said_is_heard(said, cuts) -> None:
    decoder = wire.Decoder(wire.FromMember | wire.Pong)
    heard = [message for piece in pieces(b"".join(map(wire.encode, said)), cuts) for message in decoder.feed(piece)]
    assert text(heard) == text(said)


@given(stream, st.lists(st.integers(0, 1 << 16), max_size=4), st.sampled_from([wire.FromMember, wire.FromSupervisor]))
@example(b"\x00\x00\x00\x01\xc1", [], wire.FromMember)
@example(b"\x00\x00\x00\x08\x81\xa4type\xa1\x80", [], wire.FromMember)  # no UTF-8
def test_anything_else_is_a_wire_error(data, cuts, kinds) -> None:
    decoder = wire.Decoder(kinds)
    for piece in pieces(data, cuts):
        try:
            assert all(isinstance(message, wire.Message) for message in decoder.feed(piece))
        except wire.WireError:
            return
        assert len(decoder._buffer) <= wire.MAX_FRAME + 4


@settings(max_examples=50)
@given(stream.map(lambda data: data[:2000]))
def test_what_is_heard_does_not_depend_on_what_comes_after(data) -> None:
    """Byte for byte, the same is heard, up to the same error."""

    def heard(parts: list[bytes]) -> tuple[str, bool]:
        decoder, found = wire.Decoder(wire.FromMember), []
        try:
            for part in parts:
                for message in decoder.feed(part):
                    found.append(message)  # noqa: PERF402 (what came before the error counts)
        except wire.WireError:
            return text(found), True
        return text(found), False

    assert heard([data]) == heard([data[at : at + 1] for at in range(len(data))])


@pytest.mark.parametrize("length", [wire.MAX_FRAME + 1, 2**32 - 1])
def test_a_frame_that_is_too_long_is_refused_by_its_header(length: int) -> None:
    with pytest.raises(wire.WireError, match="longer than"):
        list(wire.Decoder(wire.FromMember).feed(HEADER.pack(length)))


def test_the_longest_frame_is_taken() -> None:
    padding = wire.MAX_FRAME - len(wire.encode(wire.Query("x" * 70000))) + 4
    (message,) = wire.Decoder(wire.FromMember).feed(wire.encode(wire.Query("x" * (70000 + padding))))
    assert isinstance(message, wire.Query)
    with pytest.raises(wire.WireError, match="longer than"):
        wire.encode(wire.Query("x" * (70001 + padding)))


def test_a_deep_frame_costs_no_more_than_its_length() -> None:
    """Nested arrays, each of them announced to be long."""
    body = b"\xdd\xff\xff\xff\xff" * 100_000
    tracemalloc.start()
    try:
        with pytest.raises(wire.WireError):
            list(wire.Decoder(wire.FromMember).feed(HEADER.pack(len(body)) + body))
        assert tracemalloc.get_traced_memory()[1] < 20 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("acked", -1), ("open", 10_000_001), ("in_use", 2**40), ("waiting", -5), ("ceiling", 2**31),
        ("timeout", float("nan")), ("timeout", -1.0), ("replied", float("nan")),
        ("server", ""), ("server", "x" * 1025), ("server", "a\nb"), ("server", "a\x1b[2J"), ("server", "a\u2028b"),
    ],
)  # fmt: skip
def test_a_number_that_is_no_count_and_a_name_that_is_none_are_refused(field: str, value: object) -> None:
    said = {"type": "Report", "server": "s", "acked": 1, field: value}
    with pytest.raises(wire.WireError):
        list(wire.Decoder(wire.FromMember).feed(framed(said)))
    said.update({field: {"server": "s é", "timeout": 1e9, "replied": 0.0}.get(field, 1)})
    assert len(list(wire.Decoder(wire.FromMember).feed(framed(said)))) == 1


def framed(said: dict[str, object]) -> bytes:
    body = msgspec.msgpack.encode(said)
    return len(body).to_bytes(4, "big") + body
