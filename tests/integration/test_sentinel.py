"""Through real Sentinels, with threads and with tasks: questions are counted, asked one at a time, and a refused permit
is not an answer."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.asyncio

import poolmgr
import poolmgr.asyncio
from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.pool.sentinels import Rounds
from tests.aio_pools import eventually
from tests.helpers import RedisServer, free_port, wait_for
from tests.permits import FakeMember, FakePermits
from tests.pools import running_sentinel, running_server
from tests.sentinels import AT_ONCE, key, known_replicas, replicate

TAG = "pm-of-this-test"


class Flavour:
    """Threads or tasks: what differs in how a test asks."""

    def __init__(self, name: str) -> None:
        self.tasks = name == "tasks"
        self.manager: Any = redis.asyncio.Sentinel if self.tasks else redis.Sentinel
        self.ours: Any = poolmgr.asyncio.SentinelConnectionPool if self.tasks else poolmgr.SentinelConnectionPool
        self.theirs: Any = redis.asyncio.SentinelConnectionPool if self.tasks else redis.sentinel.SentinelConnectionPool

    async def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if self.tasks:
            found = function(*arguments, **options)
            return await found if inspect.isawaitable(found) else found
        return await asyncio.to_thread(function, *arguments, **options)

    async def together(self, *calls: tuple[Any, ...]) -> list[Any]:
        return await asyncio.gather(*(self.call(*call) for call in calls))

    @contextlib.asynccontextmanager
    async def client(self, *ports: int, replicas: bool = False, kind: Any = None, **options: Any) -> AsyncIterator[Any]:
        manager = self.manager([("127.0.0.1", port) for port in ports], socket_timeout=5)
        make = manager.replica_for if replicas else manager.master_for
        if kind is None:
            options = {"timeout": 0.5, **options}
        client = make("main", connection_pool_class=kind or self.ours, **options)
        try:
            yield client
        finally:
            await self.call(client.aclose if self.tasks else client.close)
            await self.call(manager.aclose if self.tasks else manager.close)


@pytest.fixture(params=["threads", "tasks"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return Flavour(request.param)


def refusing(*ports: int) -> FakeMember:
    """A member that has no permit for these servers, and any number for others."""
    member = FakeMember(tag=TAG, prompt=True)
    member.all = {key(port): FakePermits(0, TAG, prompt=True) for port in ports}
    return member


def clients(port: int) -> list[dict[str, str]]:
    """Connections of a Sentinel, without the one that looks."""
    with redis.Redis(port=port, client_name="observer", single_connection_client=True) as observer:
        return [one for one in observer.client_list() if one["name"] != "observer"]


# ---- questions ---------------------------------------------------------------------------------------


def test_questions_are_counted(flavour: Flavour, server: RedisServer, sentinel: int):
    member = FakeMember(tag=TAG, prompt=True)

    async def main() -> None:
        async with flavour.client(sentinel, member=member) as client:
            assert await flavour.call(client.echo, "a") == b"a"
            assert len(member.all[key(sentinel)].out) == len(member.all[key(server.port)].out) == 1
            (found,) = clients(sentinel)
            assert TAG in found["name"]
        assert [len(permits.out) for permits in member.all.values()] == [0, 0]

    asyncio.run(main())


async def _reconnect_at_once(flavour: Flavour, sentinel: int, come: int = 1, **options: Any) -> tuple[int, int]:
    """Twenty callers need a new connection; the most connections that the Sentinel had, and the questions. No question
    is sent before so many have come to ask, which takes a while on a busy machine."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))
    async with flavour.client(sentinel, **options) as client:
        assert await flavour.call(client.echo, "a") == b"a"
        manager, questions = client.connection_pool.sentinel_manager, 0
        manager = getattr(manager, "_manager", manager)
        ask = manager.discover_master

        def counted(service_name: str) -> Any:
            nonlocal questions
            questions += 1
            time.sleep(0.1)  # a Sentinel that takes its time: all come meanwhile
            wait_for(lambda: questions >= come, 20, what=f"{come} ask")
            return ask(service_name)

        async def counted_too(service_name: str) -> Any:
            nonlocal questions
            questions += 1
            await asyncio.sleep(0.1)
            await eventually(lambda: questions >= come)
            return await ask(service_name)

        manager.discover_master = counted_too if flavour.tasks else counted
        most, over = 0, False

        async def look() -> None:
            nonlocal most
            while not over:
                most = max(most, len(await asyncio.to_thread(clients, sentinel)))

        looking = asyncio.ensure_future(look())
        await flavour.call(client.connection_pool.disconnect)
        calls = [(client.blpop, f"none-{number}", 0.3) for number in range(20)]
        assert await flavour.together(*calls) == [None] * 20
        over = True
        await looking
        return max(most, len(clients(sentinel))), questions


def test_twenty_reconnects_take_one_connection_to_the_sentinel(flavour: Flavour, sentinel: int):
    most, questions = asyncio.run(
        _reconnect_at_once(flavour, sentinel, member=FakeMember(prompt=True), max_connecting=20, timeout=10)
    )
    assert most == 1
    assert 1 <= questions <= 10, "callers that wait at the same time share an answer"


def test_the_check_finds_what_redis_py_does(flavour: Flavour, sentinel: int):
    most, questions = asyncio.run(_reconnect_at_once(flavour, sentinel, come=11, kind=flavour.theirs))
    assert most > 1
    assert questions > 10, "each asks, but one that comes late on a busy machine takes a connection that is back"


def test_an_answer_is_for_those_who_came_before_its_question():
    rounds = Rounds()
    first, second = rounds.come(), rounds.come()
    assert not rounds.has_answer(first)
    with rounds.ask(None, LookupError) as question:
        late = rounds.come()
        question.value = "an address"
    assert rounds.has_answer(first) and rounds.has_answer(second) and rounds.answer() == "an address"
    assert not rounds.has_answer(late), "its connection may have broken since the question"
    with pytest.raises(OSError, match="no Sentinel"):
        with rounds.ask(None, LookupError):
            raise OSError("no Sentinel answers")
    assert rounds.has_answer(late)
    with pytest.raises(OSError, match="no Sentinel"):
        rounds.answer()
    came = rounds.come()
    with pytest.raises(asyncio.CancelledError):
        with rounds.ask(None, LookupError):
            raise asyncio.CancelledError
    assert not rounds.has_answer(came), "a cancelled question has none"


def test_a_cancelled_question_is_asked_by_the_next(sentinel: int):
    class Slow(redis.asyncio.Sentinel):
        asked = 0

        async def discover_master(self, service_name: str) -> Any:
            self.asked += 1
            if self.asked == 1:
                await asyncio.sleep(60)
            return await super().discover_master(service_name)

    async def main() -> None:
        manager = Slow([("127.0.0.1", sentinel)])
        client = manager.master_for(
            "main", connection_pool_class=poolmgr.asyncio.SentinelConnectionPool, member=FakeMember(prompt=True),
            max_connecting=10,
        )  # fmt: skip
        first = asyncio.ensure_future(client.echo("first"))
        while not manager.asked:
            await asyncio.sleep(0)
        others = [asyncio.ensure_future(client.echo("other")) for _ in range(5)]
        await asyncio.sleep(0.01)
        first.cancel()
        assert await asyncio.wait_for(asyncio.gather(*others), 10) == [b"other"] * 5
        assert first.cancelled()
        assert client.connection_pool.stats().in_use == client.connection_pool.stats().opening == 0
        await client.aclose()
        await manager.aclose()

    asyncio.run(main())


def test_a_forked_child_asks_too(sentinel: int):
    """While a thread of its parent does."""
    pool = redis.Sentinel([("127.0.0.1", sentinel)]).master_for(
        "main", connection_pool_class=poolmgr.SentinelConnectionPool, member=FakeMember(prompt=True)
    ).connection_pool  # fmt: skip
    with pool._asking._one:
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            os._exit(0 if redis.Redis(connection_pool=pool).echo("child") == b"child" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    pool.disconnect()


def test_a_user_s_own_pool_for_questions_stays(flavour: Flavour, sentinel: int):
    async def main() -> None:
        manager = flavour.manager([("127.0.0.1", sentinel)])
        own: Any = poolmgr.asyncio.ConnectionPool if flavour.tasks else poolmgr.ConnectionPool
        manager.sentinels[0].connection_pool = pool = own(port=sentinel, member=FakeMember(prompt=True))
        client = manager.master_for("main", connection_pool_class=flavour.ours, member=FakeMember(prompt=True))
        assert await flavour.call(client.echo, "a") == b"a"
        assert manager.sentinels[0].connection_pool is pool and pool.stats().idle == 1
        await flavour.call(client.aclose if flavour.tasks else client.close)
        await flavour.call(manager.aclose if flavour.tasks else manager.close)

    asyncio.run(main())


# ---- refused permits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [False, True], ids=["master", "replicas"])
def test_a_refused_permit_for_the_question_is_what_the_caller_gets(flavour: Flavour, sentinel: int, replicas: bool):
    async def main() -> None:
        async with flavour.client(sentinel, replicas=replicas, member=refusing(sentinel)) as client:
            with pytest.raises(ConnectionPoolTimeoutError, match="sentinel.*permits are taken") as caught:
                await flavour.call(client.echo, "a")
            assert caught.value.reason == "budget"

    asyncio.run(main())


def test_a_permit_refused_for_a_reconnect_is_what_the_caller_gets(flavour: Flavour, sentinel: int):
    """The connection to the Sentinel has ended, and others have taken its permit."""

    async def main() -> None:
        member = FakeMember(tag=TAG, prompt=True)
        async with flavour.client(sentinel, member=member) as client:
            assert await flavour.call(client.echo, "a") == b"a"
            member.all[key(sentinel)].limit = 0
            with redis.Redis(port=sentinel, client_name="observer") as observer:
                for one in clients(sentinel):
                    observer.client_kill_filter(_id=one["id"])
            manager = client.connection_pool.sentinel_manager
            (idle,) = manager.sentinels[0].connection_pool._available_connections
            while not idle._look():  # else it breaks in the middle of the question, which redis-py repeats
                await asyncio.sleep(0.001)
            await flavour.call(client.connection_pool.disconnect)
            with pytest.raises(ConnectionPoolTimeoutError) as caught:
                await flavour.call(client.echo, "a")
            assert caught.value.reason == "budget"

    asyncio.run(main())


def test_refusals_are_counted(flavour: Flavour, server: RedisServer, sentinel: int):
    async def main() -> None:
        refused: list[BaseException] = []
        hooks = poolmgr.Hooks(timed_out=refused.append)
        async with flavour.client(sentinel, member=refusing(server.port), timeout=0.2, hooks=hooks) as client:
            with pytest.raises(ConnectionPoolTimeoutError):
                await flavour.call(client.echo, "a")
            assert client.connection_pool.stats().timeouts["budget"] == 1 == len(refused)

    asyncio.run(main())


def test_another_sentinel_is_asked_if_there_is_no_permit_for_the_first(
    flavour: Flavour, server: RedisServer, sentinel: int
):
    async def main(other: int) -> None:
        async with flavour.client(sentinel, other, member=refusing(sentinel)) as client:
            assert await flavour.call(client.echo, "a") == b"a"

    with running_sentinel(server) as other:
        asyncio.run(main(other))


def test_no_sentinel_that_answers_is_no_refusal(flavour: Flavour):
    async def main() -> None:
        async with flavour.client(free_port(), member=FakeMember(prompt=True)) as client:
            with pytest.raises(redis.ConnectionError, match="No master found") as caught:
                await flavour.call(client.echo, "a")
            assert not isinstance(caught.value, ConnectionPoolTimeoutError)

    asyncio.run(main())


@pytest.fixture(scope="module")
def replicated() -> Iterator[tuple[RedisServer, list[RedisServer], int]]:
    """A master, two replicas, and a Sentinel that knows them."""
    with contextlib.ExitStack() as stack:
        master, *replicas = (stack.enter_context(running_server(**AT_ONCE)) for _ in range(3))
        for replica in replicas:
            replicate(replica, master)
        port = stack.enter_context(running_sentinel(master))
        wait_for(lambda: known_replicas(port) == 2, 30, what="the Sentinel knows the replicas")
        yield master, replicas, port


def test_a_refused_permit_for_a_replica_is_what_the_caller_gets(flavour: Flavour, replicated: Any):
    master, replicas, port = replicated

    async def main() -> float:
        everyone = refusing(master.port, *(replica.port for replica in replicas))
        began = time.monotonic()
        async with flavour.client(port, replicas=True, member=everyone, timeout=2) as client:
            with pytest.raises(ConnectionPoolTimeoutError) as caught:
                await flavour.call(client.echo, "a")
            assert caught.value.reason == "budget"
        return time.monotonic() - began

    # Of three servers the first is waited for.
    assert min(asyncio.run(main()) for _ in range(2)) < 5


def test_another_replica_is_used_if_there_is_no_permit_for_the_first(flavour: Flavour, replicated: Any):
    _, (full, free), port = replicated

    async def main() -> None:
        member = refusing(full.port)
        async with flavour.client(port, replicas=True, member=member, timeout=0.2) as client:
            for _ in range(4):  # in turn
                assert await flavour.call(client.echo, "a") == b"a"
                await flavour.call(client.connection_pool.disconnect)
            assert set(member.all) == {key(port), key(full.port), key(free.port)}

    asyncio.run(main())


# ---- the wrong flavour -----------------------------------------------------------------------------------


def test_a_pool_of_the_other_flavour_says_which_is_right():
    for_threads: Any = poolmgr.SentinelConnectionPool
    for_tasks: Any = poolmgr.asyncio.SentinelConnectionPool
    with pytest.raises(TypeError, match=r"connection_pool_class=poolmgr\.asyncio\.SentinelConnectionPool"):
        redis.asyncio.Sentinel([]).master_for("main", connection_pool_class=for_threads)
    with pytest.raises(TypeError, match=r"connection_pool_class=poolmgr\.SentinelConnectionPool"):
        redis.Sentinel([]).master_for("main", connection_pool_class=for_tasks)
