"""Frames on the supervisor's Unix socket: messages as bytes, and bytes as messages.

A frame is a four-byte big-endian length and one msgpack value. A frame that is too long, does not decode or is of a
kind that the receiver does not accept raises :class:`WireError`. The receiver then drops that peer and nothing else.
:mod:`poolmgr.wire` has the messages, and is the name by which all others use this file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

MAX_FRAME = 1 << 20
"""Longest frame in bytes, header excluded. A status of some thousand members fits."""

_HEADER = struct.Struct(">I")


class WireError(ValueError):
    """A frame that is malformed, too long, or not for this receiver."""


class Message(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Base of everything that travels."""


_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """One frame, ready to be sent.

    Raises:
        WireError: the message is longer than :data:`MAX_FRAME`.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise WireError(f"message of {len(body)} bytes is longer than {MAX_FRAME}")
    return _HEADER.pack(len(body)) + body


class Decoder:
    """Bytes in, messages out. One for each peer; it keeps a message until it is complete.

    Args:
        kinds: :data:`poolmgr.wire.FromMember` at the supervisor, :data:`poolmgr.wire.FromSupervisor` at a member.
    """

    __slots__ = ("_buffer", "_decoder")

    def __init__(self, kinds: object) -> None:
        self._buffer = bytearray()
        self._decoder = msgspec.msgpack.Decoder(kinds)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield every message that is now complete.

        Raises:
            WireError: the peer does not speak this protocol; drop it.
        """
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        try:
            while size - at >= 4:
                (length,) = _HEADER.unpack_from(buffer, at)
                if length > MAX_FRAME:
                    raise WireError(f"frame of {length} bytes is longer than {MAX_FRAME}")
                if size - at - 4 < length:
                    return
                body = bytes(buffer[at + 4 : at + 4 + length])
                at += 4 + length
                try:
                    yield self._decoder.decode(body)
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: not UTF-8
                    raise WireError(f"not a message: {error}") from None
        finally:
            del buffer[:at]
