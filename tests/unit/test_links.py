"""What a client has said is heard, whatever becomes of its link meanwhile."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from poolmgr import wire
from poolmgr.supervisor.clients.link import Link


class Heard:
    """A receiver that writes down."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.closes = asyncio.Event()

    def received(self, link: Link, message: wire.Message) -> None:
        self.words.append(type(message).__name__)

    def closed(self, link: Link) -> None:
        self.words.append("closed")
        self.closes.set()


def test_a_goodbye_is_heard_though_a_write_to_who_has_closed_fails_before_it_is_read() -> None:
    """Two members leave together: the first one's goodbye is why something is said to the second."""

    async def scene() -> list[str]:
        ours, theirs = socket.socketpair()
        peer: Any = type("Peer", (), {"pid": 1, "uid": 0, "pidfd": -1})()
        heard = Heard()
        _, link = await asyncio.get_running_loop().connect_accepted_socket(lambda: Link(peer, heard, 0.0), ours)
        theirs.sendall(wire.encode(wire.Bye()))
        theirs.close()
        link.send(wire.Ping(1))  # before the loop has had a turn to read
        await asyncio.wait_for(heard.closes.wait(), 5)
        return heard.words

    assert asyncio.run(scene()) == ["Bye", "closed"]
