"""What every worker process loads: light, and nothing from outside but redis and msgspec."""

from __future__ import annotations

import json
import sys

import pytest

import poolmgr
from tests.helpers import python

ALL = "from poolmgr import ConnectionPool, ConnectionPoolTimeoutError, get_client, get_pool"

FOR_TASKS = "from poolmgr.asyncio import ConnectionPool, get_client, get_pool"

MEASURE = """if True:
    import json, resource, time
    def memory():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    start, empty = time.process_time(), memory()
    import redis.asyncio
    before, size = time.process_time(), memory()
    {code}
    print(json.dumps([before - start, time.process_time() - before, size - empty, memory() - size]))"""


def outside(code: str) -> set[str]:
    """Top-level modules that are loaded by ``code`` and come neither with Python nor from here."""
    printed = python(f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))").stdout
    tops = {name.partition(".")[0] for name in json.loads(printed)}
    return {
        top for top in tops if top not in sys.stdlib_module_names and top not in ("__main__", "__mp_main__", "poolmgr")
    } - {name for name in tops if name.startswith(("__editable__", "_distutils_hack", "_virtualenv", "sitecustomize"))}


def test_the_library_loads_redis_and_msgspec_and_nothing_else():
    alone = outside("import redis, redis.backoff, redis.sentinel, redis.cluster")
    assert outside(ALL) - alone - outside("import msgspec") == set()


AT_FIRST_USE = ("poolmgr.member.member", "poolmgr.member.loop", "poolmgr.launch", "poolmgr.kernel", "poolmgr.embedded")
ELSEWHERE = ("poolmgr.supervisor", "poolmgr.cli", "poolmgr.budget", "poolmgr.gunicorn", "poolmgr.status")


@pytest.mark.parametrize(("code", "most"), [(ALL, 76), (FOR_TASKS, 88)])
def test_a_pool_loads_no_more_of_ours_than_it_needs_before_its_first_use(code, most):
    """What the first use needs, the thread loads that starts the member. A pool's own modules are loaded with it:
    loaded later, they would hold up an event loop in the middle of a task."""
    printed = python(f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))").stdout
    ours = {name for name in json.loads(printed) if name.partition(".")[0] == "poolmgr"}
    assert not {*AT_FIRST_USE, *ELSEWHERE} & ours
    assert len(ours) <= most, sorted(ours)


def test_importing_it_starts_nothing():
    count = "import threading, os\n{}\nprint(threading.active_count(), len(os.listdir('/proc/self/fd')))"
    assert python(count.format(ALL)).stdout == python(count.format("import redis")).stdout


MOST = 0.2 if sys.version_info < (3, 14) else 0.225
"""How much of the memory that redis takes (20 to 24 MB) ours may take. The same modules take 13.3 to 17.6 % up to
Python 3.12, by how it was built, 18.2 to 19.3 % in 3.13 (Debian's, the pool for tasks), and 20.3 to 21.8 % in 3.14, in
which a code object is larger: 2.8 to 5.1 MB, msgspec included."""


@pytest.fixture(scope="module")
def bytecode(tmp_path_factory):
    """Where it is written, redis's once for both."""
    return tmp_path_factory.mktemp("bytecode")


@pytest.mark.parametrize("code", [ALL, FOR_TASKS])
def test_it_costs_at_most_30_ms_and_little_of_redis_s_memory(code, bytecode):
    """CPU time and resident memory, the medians of several fresh processes with their bytecode written.

    On a machine that takes longer for redis itself than a tenth of a second the time is judged by that.
    """
    cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(bytecode)}
    code = MEASURE.replace("{code}", code)
    python(code, environ=cached)
    found = [json.loads(python(code, environ=cached).stdout) for _ in range(5)]
    redis, ours, whole, size = (sorted(column)[2] for column in zip(*found, strict=True))
    assert ours <= max(0.030, 0.3 * redis), found
    assert size <= MOST * whole, found


@pytest.mark.parametrize("module", ["poolmgr.supervisor.supervisor", "poolmgr.supervisor.__main__", "poolmgr.cli.app"])
def test_the_supervisor_and_the_command_load_neither_a_pool_nor_redis(module):
    """redis takes longer to load than all the rest of them together."""
    printed = python(f"import sys, json, {module}\nprint(json.dumps(sorted(sys.modules)))").stdout
    assert not {"poolmgr.pool", "poolmgr.member", "redis"} & set(json.loads(printed))


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "unheard"])
def test_a_supervisor_that_serves_has_loaded_nothing_that_it_does_without(short_dir, heard):
    """structlog loads rich where it is installed, which takes longer than all that is structlog's own; where the log
    goes to /dev/null, nothing is to render it. What was kept away can be loaded later."""
    code = """if True:
        import json, os, sys
        from poolmgr import spawn
        from poolmgr.supervisor import __main__ as supervisor
        if not {heard}:
            os.environ[spawn.STARTUP_OUTPUT] = str(os.open(os.devnull, os.O_WRONLY))
        def serves(error):
            assert not error
            tops = sorted({{name.partition(".")[0] for name in sys.modules}})
            import rich, ssl, typing_extensions
            print(json.dumps(tops))
            sys.exit(0)
        supervisor._tell_starter = serves
        supervisor.main(["--socket", {path!r}])"""
    done = python(code.format(heard=heard, path=str(short_dir / "s")))
    tops = set(json.loads(done.stdout))
    assert not {"greenlet", "psutil", "pygments", "rich", "ssl", "typing_extensions"} & tops
    assert ("structlog" in tops) is heard


def test_the_first_fork_says_nothing():
    """It loads what a pool's first use loads. A module that begins to hold a lock over forks in the middle of one would
    release what it has not taken."""
    fork = "import os, poolmgr\npid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\nelse:\n    os._exit(0)"
    assert python(fork).stderr == ""


@pytest.mark.parametrize("name", sorted(set(poolmgr.__all__)))
def test_every_public_name_is_there(name):
    assert getattr(poolmgr, name) is not None
    assert name in dir(poolmgr)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'poolmgr' has no attribute 'Pool'"):
        poolmgr.Pool  # noqa: B018


def test_a_child_keeps_the_default_client_and_pool(redis_server, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_server(maxclients=10).url)
    code = """if True:
        import os, poolmgr
        client, pool = poolmgr.get_client(), poolmgr.get_pool()
        assert poolmgr.get_client() is client and client.connection_pool is pool
        assert client.set("k", "v")
        child = os.fork()
        if child == 0:
            same = poolmgr.get_client() is client and poolmgr.get_pool() is pool
            os._exit(0 if same and client.get("k") == b"v" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.get("k") == b"v" """
    python(code)


def test_the_programs_of_tests_do_not_load_pytest():
    """That takes a fifth of a second of each."""
    code = "import sys, tests.aio_programs, tests.clone, tests.member_process, tests.permits, tests.fleet.worker\n"
    assert python(f"{code}print('pytest' in sys.modules)").stdout == "False\n"
