"""The clock is frozen, moved or replaced, as test suites do: a pool goes by the time that passes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.helpers import RedisServer, python

FREEZERS = {
    "freezegun": "from freezegun import freeze_time\nfreeze = lambda: freeze_time('2031-01-01')",
    "freezegun back": "from freezegun import freeze_time\nfreeze = lambda: freeze_time('1971-01-01')",
    "freezegun all": (
        "import freezegun\nfreezegun.configure(default_ignore_list=['nobody'])\n"
        "freeze = lambda: freezegun.freeze_time('2031-01-01', ignore=['nobody'])"
    ),
    "time_machine": "import time_machine\nfreeze = lambda: time_machine.travel('2031-01-01', tick=False)",
    "unittest.mock": "from unittest import mock\nfreeze = lambda: mock.patch('time.monotonic', return_value=1.0)",
}

BEGINNING = """
import faulthandler, os
faulthandler.dump_traceback_later(20, exit=True)
{freezer}
import time
real = time.clock_gettime

def work(pool, times):
    import redis
    client = redis.Redis(connection_pool=pool)
    for number in range(5):
        client.set("key", number)
        assert client.get("key") == str(number).encode()
    connection = pool.get_connection()
    began = real(time.CLOCK_BOOTTIME)
    try:
        pool.get_connection()
    except redis.TimeoutError as error:
        pass
    else:
        raise AssertionError("two connections")
    assert 0.15 < real(time.CLOCK_BOOTTIME) - began < 15
    pool.release(connection)
    found = pool.stats()
    assert (found.created, found.closed, found.idle, found.timeouts) == (1, {{}}, 1, {{"pool": times}}), found
    assert found.wait_seconds < 20 and found.longest_held == 0, found

def make():
    import poolmgr
    return poolmgr.ConnectionPool.from_url(os.environ["URL"], max_connections=1, timeout=0.2)
"""

ORDERS = {
    "imported before": """
import poolmgr
pool = make()
work(pool, 1)
with freeze():
    work(pool, 2)
work(pool, 3)
""",
    "imported while it was frozen": """
with freeze():
    pool = make()
    work(pool, 1)
work(pool, 2)
with freeze():
    work(pool, 3)
""",
    "frozen to the end": """
freeze().start()
work(make(), 1)
""",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("freezer", FREEZERS)
def test_a_pool_goes_by_the_time_that_passes(freezer: str, order: str, server: RedisServer, isolated: Path) -> None:
    module = freezer.split(maxsplit=1)[0].split(".", maxsplit=1)[0]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed (pip install '.[test]')")
    code = BEGINNING.format(freezer=FREEZERS[freezer]) + ORDERS[order] + "\nprint('done')"
    ended = python(code, environ={"URL": server.url, "REDIS_CONNECTION_BUDGET": "8"}, timeout=60, check=False)
    assert ended.stdout.strip() == "done", ended.stderr


def test_a_connection_is_as_old_as_it_is(server: RedisServer, isolated: Path) -> None:
    """A frozen clock neither ends connections nor keeps them: ``max_lifetime`` and ``idle_timeout`` go on."""
    if importlib.util.find_spec("freezegun") is None:
        pytest.skip("freezegun is not installed (pip install '.[test]')")
    code = """
import faulthandler, os, time
faulthandler.dump_traceback_later(20, exit=True)
from freezegun import freeze_time
import poolmgr, redis
pool = poolmgr.ConnectionPool.from_url(os.environ["URL"], idle_timeout=0.2)
with freeze_time("2031-01-01"):
    redis.Redis(connection_pool=pool).ping()
    while not pool.stats().closed:
        time.sleep(0.01)
    print(pool.stats().closed)
"""
    ended = python(code, environ={"URL": server.url, "REDIS_CONNECTION_BUDGET": "8"}, timeout=60, check=False)
    assert ended.stdout.strip() == "{'idle': 1}", ended.stderr
