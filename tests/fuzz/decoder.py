"""Frames against the decoder: what is heard is what was sent, however it was cut; a fault is a WireError, and no field
of what is heard is beyond its bounds.

What was sent, and what the bounds are, is said here a second time, in other words than the product's: a decoder that
is wrong in the same way for every cut would agree with itself.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import msgspec

from poolmgr import wire

LONGEST = 1_048_576
MOST = 10_000_000

COUNTS = frozenset(
    (
        *("acked", "by", "ceiling", "descriptors", "in_use", "link", "open", "peak", "pinned", "seq", "serials"),
        *("spare", "stated", "versions", "waiting"),
    )
)
NUMBERS = frozenset(("mark", "number"))
TIMES = frozenset(("began", "replied", "timeout"))
NAMES = frozenset(("address", "endpoint", "host", "key", "leases", "path", "pool", "server"))
FREE: dict[type, tuple[str, ...]] = {wire.Trouble: ("server",), wire.SetBudget: ("server",), wire.Stats: ("in_use",)}
"""Fields that other messages have bounds for, and these none: what reads them judges them."""


def play(data: bytes) -> None:
    """The first byte says from which side the frames come, the second where they are cut."""
    if len(data) < 2:
        return
    kinds: Any = wire.FromMember if data[0] % 2 else wire.FromSupervisor
    cut, frames = data[1] * len(data) // 256, data[2:]
    sent = _sent(kinds, frames)
    assert _heard(kinds, [frames]) == sent, "whole"
    assert _heard(kinds, [frames[:cut], frames[cut:]]) == sent, f"cut at {cut}"
    if len(frames) < 300:
        assert _heard(kinds, [frames[at : at + 1] for at in range(len(frames))]) == sent, "byte by byte"


def _heard(kinds: Any, parts: list[bytes]) -> tuple[str, bool]:
    decoder, found = wire.Decoder(kinds), []
    try:
        for part in parts:
            for message in decoder.feed(part):
                found.append(message)
                if kinds is wire.FromMember:
                    _bounded(message)
    except wire.WireError:
        return repr(found), True
    return repr(found), False


def _sent(kinds: Any, frames: bytes) -> tuple[str, bool]:
    """The same by the protocol's own words: four bytes of length, the highest first, and as many of a message."""
    decoder = msgspec.msgpack.Decoder(kinds)
    found: list[Any] = []
    while len(frames) >= 4:
        length = int.from_bytes(frames[:4], "big")
        if length > LONGEST:
            return repr(found), True
        body, rest = frames[4 : 4 + length], frames[4 + length :]
        if len(body) < length:
            break
        try:
            found.append(decoder.decode(body))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return repr(found), True
        frames = rest
    return repr(found), False


def _bounded(message: msgspec.Struct) -> None:
    """Nothing that a member says is beyond what the ledger, a terminal and a socket can take."""
    for name in message.__struct_fields__:
        value = getattr(message, name)
        one_by_one = value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else (value,)
        for one in one_by_one:
            if isinstance(one, msgspec.Struct):
                _bounded(one)
            elif name in FREE.get(type(message), ()):
                pass
            elif name in COUNTS:
                assert 0 <= one <= MOST, f"{name} is {one}"
            elif name in NUMBERS:
                assert one >= 0, f"{name} is {one}"
            elif name in TIMES:
                assert one >= 0, f"{name} is {one}"  # NaN is not
            elif name == "port":
                assert 0 <= one < 1 << 16, f"{name} is {one}"
            elif name in NAMES:
                assert one.isprintable() or not {*map(_kind, one)} & {"Cc", "Cs", "Zl", "Zp"}, f"{name} is {one!r}"
                assert len(one) <= 1024, f"{name} has {len(one)} characters"


def _kind(character: str) -> str:
    return unicodedata.category(character)
