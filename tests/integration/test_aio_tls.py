"""Tasks and TLS: the permit belongs to the socket below, and a handshake that is cut short gives it back."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
from typing import Any

import pytest
import redis
import redis.asyncio

from poolmgr.asyncio import ConnectionPool
from tests.permits import FakeMember
from tests.walker import HOWS, LOOPS, How, run, walk

pytestmark = pytest.mark.parametrize("loop", LOOPS)

SECURED = redis.asyncio.connection.SSLConnection


class World:
    """A pool on a server that speaks TLS."""

    def __init__(self, port: int, certificate: str, **options: Any) -> None:
        self.member = FakeMember(prompt=True)
        self.pool = ConnectionPool(
            SECURED, host="127.0.0.1", port=port, ssl_ca_certs=certificate, member=self.member, **options
        )
        self.client = redis.asyncio.Redis(connection_pool=self.pool)

    async def check(self) -> list[str]:
        for _ in range(500):
            await asyncio.sleep(0.01)
            if not self.pool.stats().opening:
                break
        gc.collect()
        stats = self.pool.stats()
        wrong = [
            f"{name} is {getattr(stats, name)}" for name in ("in_use", "opening", "waiting") if getattr(stats, name)
        ]
        try:
            found = await asyncio.gather(*(self.client.echo(word) for word in ("a", "b")))
            if found != [b"a", b"b"]:
                wrong.append(f"crossed: {found}")
        except Exception as error:
            wrong.append(repr(error))
        await self.pool.aclose()
        await asyncio.sleep(0.02)
        gc.collect()
        wrong += [f"permits never given back: {permits.out}" for permits in self.member.all.values() if permits.out]
        return wrong


def test_talking(secured: tuple[int, str], loop: str):
    async def main() -> list[str]:
        world = World(*secured)
        await world.client.set("k", "v" * 1_000_000)
        assert await world.client.get("k") == b"v" * 1_000_000
        assert await asyncio.gather(*(world.client.strlen("k") for _ in range(20))) == [1_000_000] * 20
        return await world.check()

    assert run(loop, main(), debug=True) == []


@pytest.mark.parametrize("how", HOWS)
def test_cancelled_at_every_suspension(secured: tuple[int, str], loop: str, how: How):
    async def make() -> World:
        return World(*secured)

    async def get(world: World) -> Any:
        return await world.client.get("none")

    count, wrong = run(loop, walk(make, get, World.check, how))
    assert count >= 4 and wrong == []


def test_a_certificate_that_is_not_trusted(secured: tuple[int, str], loop: str):
    port, _ = secured

    async def main() -> None:
        member = FakeMember(prompt=True)
        pool = ConnectionPool(SECURED, host="127.0.0.1", port=port, member=member, timeout=1)
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            await redis.asyncio.Redis(connection_pool=pool).get("k")
        await pool.aclose()
        assert [permits.out for permits in member.all.values()] == [{}]

    run(loop, main())


def test_a_server_that_never_answers_the_handshake(loop: str):
    """The permit comes back when the server has seen the end, and not with the loop's socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[socket.socket] = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept()[0]))
        thread.start()

        async def main() -> None:
            member = FakeMember()
            pool = ConnectionPool(
                SECURED, host="127.0.0.1", port=listener.getsockname()[1], member=member, socket_connect_timeout=0.2,
                retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
            )  # fmt: skip
            with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
                await redis.asyncio.Redis(connection_pool=pool).get("k")
            permits = next(iter(member.all.values()))
            assert len(permits.closing) == 1 and len(permits.out) == 1, (
                "a connection was there: it is closed with a proof"
            )
            accepted[0].close()
            permits.sweep()
            assert permits.out == {}

        run(loop, main())
        thread.join()


def test_certificates_are_read_off_the_loop(secured: tuple[int, str], loop: str, monkeypatch: pytest.MonkeyPatch):
    threads: list[threading.Thread] = []
    load = ssl.create_default_context

    def note(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return load(*args, **kwargs)

    monkeypatch.setattr(ssl, "create_default_context", note)

    async def main() -> list[str]:
        world = World(*secured)
        await world.client.get("none")
        return await world.check()

    assert run(loop, main()) == []
    assert threads and threading.main_thread() not in threads
