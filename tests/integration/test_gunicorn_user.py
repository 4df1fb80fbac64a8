"""gunicorn that is started by root and gives its workers another user (``-u``): a service has one identity."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT, RedisServer, free_port, wait_for
from tests.service import Service

USER = 65534

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.getuid() != 0, reason="only root can give a worker another user")]


def _as_user(*command: str, **environ: str) -> bool:
    user = "--reuid", str(USER), "--regid", str(USER), "--clear-groups"
    whole = ["setpriv", *user, "sh", "-c", 'exec "$0" "$@"', *command]  # it is root's privileges that find the shell
    return not subprocess.run(whole, env={**os.environ, **environ}, capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """An interpreter that the other user may run, and where it finds our packages."""
    packages = str(Path(next(place for place in sys.path if place.endswith("site-packages"))))
    beside = ROOT.parent / f".stubs-{os.getpid()}"  # that user sees neither root's home nor pytest's directories
    beside.mkdir()
    (beside / "async_timeout.py").write_text("from asyncio import timeout\n")  # Python 3.11.2 and before want it
    path = os.pathsep.join((str(ROOT), packages, str(beside)))
    try:
        for candidate in (sys.executable, "/usr/bin/python3"):
            if _as_user(candidate, "-c", "import gunicorn, redis, msgspec, worker", PYTHONPATH=path):
                yield candidate, path
                return
        pytest.skip("there is no Python that another user may run")
    finally:
        (beside / "async_timeout.py").unlink()
        for cache in beside.glob("__pycache__/*"):
            cache.unlink()
        for directory in (*beside.glob("__pycache__"), beside):
            directory.rmdir()


@pytest.fixture
def start(make: Callable[..., Service], short_dir: Path, python: tuple[str, str]) -> Callable[..., Service]:
    def start(**options: object) -> Service:
        environ = {"PYTHONPATH": python[1], "PYTHONDONTWRITEBYTECODE": "1", "REDIS_CONNECTION_BUDGET": "7"}
        user = "-u", str(USER), "-g", str(USER)
        return make(program=(python[0], "-m", "gunicorn"), arguments=user, environ=environ, **options)

    return start


@pytest.mark.parametrize("embedded", [False, True], ids=["a server", "the embedded server"])
def test_the_service_has_one_supervisor_which_is_its_workers(
    start, short_dir: Path, redis_server: Callable[..., RedisServer], embedded: bool
) -> None:
    os.chown(short_dir, USER, USER)
    server = None if embedded else redis_server(port=free_port(), maxclients=8)
    url = None if server is None else server.url
    service = start(workers=2, redis_url=url).start()
    supervisor = service.supervisor()
    assert _effective(supervisor) == USER
    assert service.ask("SET", "k", "v").json == {"result": "OK"}, "the token that the master has made is the workers'"
    for _ in range(10):
        service.ask("GET", "k")
    assert service.supervisor() == supervisor
    assert [_effective(pid) for pid in service.workers()] == [USER, USER]
    assert _effective(service.pid) == 0, "the master is root again"
    if server is not None:
        assert server.rejected() == 0
    assert service.stop() == 0
    wait_for(lambda: not service.processes(), 10, what="nothing is left")


def _effective(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = (line.split()[1:] for line in lines if line.startswith("Uid:"))
    assert len(set(found)) == 1, "it cannot become another one"
    return int(found[1])


def test_a_directory_that_is_the_roots_is_refused_in_one_line(start, short_dir: Path) -> None:
    """The workers could not use it: every request would fail, and nothing would say so."""
    short_dir.chmod(0o755)
    status, log = start(workers=1, redis_url=None).run()
    assert status == 1
    (line,) = [line for line in log.splitlines() if "Error" in line]
    assert "POOLMGR_SOCKET" in line
