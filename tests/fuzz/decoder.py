"""Frames against the decoder: what is heard does not depend on how it was cut, and only a WireError is raised."""

from __future__ import annotations

from typing import Any

from poolmgr import wire


def play(data: bytes) -> None:
    """The first byte says from which side the frames come, the second where they are cut."""
    if len(data) < 2:
        return
    kinds: Any = wire.FromMember if data[0] % 2 else wire.FromSupervisor
    cut, frames = data[1] * len(data) // 256, data[2:]
    whole = _heard(kinds, [frames])
    assert whole == _heard(kinds, [frames[:cut], frames[cut:]]), f"cut at {cut}"
    if len(frames) < 300:
        assert whole == _heard(kinds, [frames[at : at + 1] for at in range(len(frames))]), "byte by byte"


def _heard(kinds: Any, parts: list[bytes]) -> tuple[str, bool]:
    decoder, found = wire.Decoder(kinds), []
    try:
        for part in parts:
            for message in decoder.feed(part):
                found.append(message)  # noqa: PERF402 (what came before the error counts)
    except wire.WireError:
        return repr(found), True
    return repr(found), False
