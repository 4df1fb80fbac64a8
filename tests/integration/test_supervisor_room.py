"""Others take what a server has room for, and give it back: the budget follows in seconds, and what is used stays."""

from __future__ import annotations

import contextlib
import textwrap
import time

import pytest

from poolmgr import wire
from tests.fake_member import Connection, endpoint_of
from tests.helpers import RedisServer, Servers, throughout, wait_for
from tests.program import Programs
from tests.supervisor_process import Pair, Start, SupervisorProcess, joined

BACK = 5.0
"""Seconds in which the budget is back when the room is."""


def crowd(server: RedisServer, count: int) -> list[Connection]:
    """So many foreign clients; fewer if the server takes no more."""
    found: list[Connection] = []
    with contextlib.suppress(OSError):
        while len(found) < count:
            other = Connection(endpoint_of(server.path), "other")
            if not other.answer.startswith(b"+OK"):
                other.sock.close()
                break
            found.append(other)
    return found


def leave(others: list[Connection]) -> None:
    for other in others:
        other.sock.close()


def back_after(running: SupervisorProcess, budget: int) -> float:
    began = time.monotonic()
    wait_for(lambda: running.server()["budget"] == budget, 20, step=0.05, what=f"a budget of {budget}")
    return time.monotonic() - began


@pytest.mark.parametrize("word", ["200", "auto"])
def test_the_budget_is_back_when_others_have_left(pair: Pair, word: str) -> None:
    """A member has one connection of 200 when others fill the server for some seconds."""
    running, server = pair(word, maxclients=300 if word == "200" else 222)
    member, name = joined(running, server)
    member.obey(name, in_use=1)
    mine = member.dial(endpoint_of(server.path))
    wait_for(lambda: running.server()["budget"] == 200)
    others = crowd(server, 1000)
    member.send(wire.Trouble(name, "refused", "max number of clients reached"))
    wait_for(lambda: running.server()["budget"] <= 2, 5, what="the refusal counts")
    for _ in throughout(3.5):
        assert running.server()["budget"] <= 4
    leave(others)
    assert back_after(running, 200) < BACK
    mine.close()


def test_a_small_budget_is_back_as_soon(pair: Pair) -> None:
    """A further case: nothing is kept open to look with, so the look itself is refused meanwhile."""
    running, server = pair(6, maxclients=20)
    member, name = joined(running, server)
    member.obey(name, in_use=1)
    mine = member.dial(endpoint_of(server.path))
    others = crowd(server, 1000)
    while not running.events("budget.refused"):
        member.send(wire.Trouble(name, "refused", "max number of clients reached"))
        time.sleep(0.2)
    leave(others)
    assert back_after(running, 6) < BACK
    mine.close()


def test_where_INFO_is_not_allowed_the_room_is_tried_out(supervisor: Start, redis_server: Servers) -> None:
    """A further case: nobody says what room there is."""
    server = redis_server(maxclients=300)
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-info", "-config")
    running = supervisor(200)
    member, name = joined(running, server)
    member.obey(name, in_use=1)
    mine = member.dial(endpoint_of(server.path))
    others = crowd(server, 1000)
    member.send(wire.Trouble(name, "refused", "max number of clients reached"))
    wait_for(lambda: running.server()["budget"] <= 8, 5, what="the refusal counts")
    leave(others)
    assert back_after(running, 200) < 2 * BACK
    mine.close()


# ---- what is used stays ------------------------------------------------------------------------------------


BEGIN = """
import os, redis, sys, threading, time, poolmgr
pool = poolmgr.ConnectionPool.from_url(os.environ["URL"])
"""

HOLDS = """
    held = [pool.get_connection() for _ in range(6)]
    print("ready", flush=True)
    sys.stdin.readline()
    for connection in held:
        pool.release(connection)
    again = [pool.get_connection() for _ in range(6)]
    print({id(connection) for connection in again} == {id(connection) for connection in held}, pool.stats().created)
"""

WORKS = """
    client, done = redis.Redis(connection_pool=pool), threading.Event()
    def work():
        while not done.is_set():
            client.execute_command("BLPOP", "nothing", 0.05)
            time.sleep(0.05)
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    while pool.stats().created < 6:
        time.sleep(0.01)
    made = pool.stats().created
    print("ready", flush=True)
    sys.stdin.readline()
    done.set()
    for thread in threads:
        thread.join()
    print(True, 6 + pool.stats().created - made)
"""


@pytest.mark.parametrize("code", [HOLDS, WORKS], ids=["held", "used for half of the time"])
def test_what_is_used_is_not_taken_for_others_growth(pair: Pair, program: Programs, code: str) -> None:
    """Six connections of ours, the supervisor's, and 54 of others at a server that takes 61."""
    running, server = pair("auto", maxclients=61, HASTY="upstreams.schedule.LOOK_EVERY=0.3", POOLMGR_LINGER="60")
    ours = program("-c", f"{BEGIN}{textwrap.dedent(code)}\nsys.stdin.readline()\n", URL=server.unix_url)
    assert ours.says() == "ready"
    others = crowd(server, 54)
    wait_for(lambda: "54 other clients" in running.server()["derivation"], 10, what="others are counted")
    for _ in throughout(1):
        assert running.server()["members"][0]["limit"] >= 6
    assert "the connections in use, which stay" in running.server()["derivation"]
    same, created = ours.ask().split()
    assert (same, int(created)) == ("True", 6), "not one was closed and made again"
    leave(others)
    assert back_after(running, 61 - 8) < BACK


@pytest.mark.timing
def test_growth_of_our_own_does_not_look_foreign(pair: Pair) -> None:
    """A member opens within its limit and reports that late: the budget stays."""
    running, server = pair("auto", maxclients=200, HASTY="upstreams.schedule.LOOK_EVERY=1")
    member, name = joined(running, server)
    member.grow(name, 100)
    member.report(name, open=0)
    budget = running.server()["budget"]
    for count in range(100):
        member.dial(endpoint_of(server.path))
        if count % 10 == 9:
            time.sleep(0.3)
            member.report(name, open=count - 9)
            assert running.server()["budget"] == budget
    member.close()
