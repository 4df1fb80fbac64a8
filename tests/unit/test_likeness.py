"""Comparing two addresses by the numbers of connections, where two servers give the same ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from poolmgr.supervisor.upstreams.comparison import alike
from poolmgr.supervisor.upstreams.likeness import Seen, Sign


class Server:
    """Gives numbers to clients, from 1 on; they are all that it tells."""

    def __init__(self, first: int = 1) -> None:
        self.clients: set[int] = set()
        self.next = first

    def open(self) -> int:
        self.clients.add(self.next)
        self.next += 1
        return self.next - 1


class Other:
    """A known server's probe and session in one."""

    def __init__(self, server: Server, *, closes: bool = True) -> None:
        self.server = server
        self.closes = closes
        self.number = server.open()

    @contextlib.asynccontextmanager
    async def showing(self, patience: float) -> AsyncIterator[Other]:
        yield self

    @property
    def sign(self) -> Sign:
        return Sign(f"c{self.number}", self.number)

    async def show_another(self) -> None:
        await asyncio.sleep(0)
        if self.closes:
            self.server.clients.discard(self.number)
        self.number = self.server.open()
        await asyncio.sleep(0)

    def in_doubt(self, name: str) -> bool:
        return not self.closes


class Asking:
    """By the address that is not known yet."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def sees(self, sign: Sign) -> Seen:
        await asyncio.sleep(0)
        return Seen.NUMBERED if sign.id in self.server.clients else Seen.MISSING


def compare(asking: Server, *others: Other) -> list[bool | None]:
    async def scene() -> list[bool | None]:
        session: Any = Asking(asking)
        turn = asyncio.Lock()
        probes: list[Any] = list(others)
        return await asyncio.gather(*(alike(session, other, 1.0, turn) for other in probes))

    return asyncio.run(scene())


def test_the_same_server_is_the_same() -> None:
    server = Server()
    assert compare(server, Other(server)) == [True]


def test_one_with_a_client_of_that_number_is_another_one() -> None:
    asked, known = Server(), Server()
    for _ in range(5):
        asked.open()
    assert compare(asked, Other(known)) == [False]


def test_one_with_smaller_numbers_is_another_one() -> None:
    assert compare(Server(), Other(Server(first=100))) == [False]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_with_the_same_numbers_that_are_asked_at_the_same_time_only_one_is_it(order: tuple[int, int]) -> None:
    asked, twin = Server(), Server()
    others = [Other(asked), Other(twin)]
    assert others[0].number == others[1].number
    verdicts = compare(asked, *(others[i] for i in order))
    assert [verdicts[order.index(i)] for i in range(2)] == [True, False]


def test_while_the_end_of_a_connection_is_not_certain_nothing_is_known() -> None:
    server = Server()
    assert compare(server, Other(server, closes=False)) == [None]
