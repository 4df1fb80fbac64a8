"""The package is replaced by a later version, and by the earlier one again, below a service at work.

The files that the service runs from are replaced: this version by a next one, which speaks a newer protocol with
more fields, and the first version, 0.1.0 as it was, by this one. Members of either version meet supervisors of
either, and the server counts every connection too many.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolmgr import wire
from tests.helpers import ROOT, RedisServer, alive, free_port, kill, tool, wait_for
from tests.load import Load
from tests.service import LOAD_APP, Service

BUDGET = 12

FIRST = "c3b0537a2038369721fbf4feedc53d6f905163b8"
"""The last commit of version 0.1.0."""

NAMES = ("poolmgr", "deploy")


def _copied(source: Path, directory: Path) -> None:
    for name in NAMES:
        shutil.copytree(source / name, directory / name)  # with its bytecode, which is not what is tested here


def _as_it_was(commit: str, directory: Path) -> None:
    """The package of a commit, where the history is there."""
    command = ["git", "-C", str(ROOT), "archive", commit, *NAMES]
    found = subprocess.run(command, capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"no history with version 0.1.0: {found.stderr.decode().strip()}")
    directory.mkdir()
    subprocess.run(["tar", "-x"], cwd=directory, input=found.stdout, check=True)


class Tree:
    """Files that a service runs from, of an earlier version or of a later one.

    Attributes:
        version: of the later one.
        speaks: the protocol's version of the earlier one, and of the later one.
    """

    def __init__(self, directory: Path, pair: str) -> None:
        self.path = directory / "tree"
        self.path.mkdir()
        shutil.copytree(ROOT / "tests/apps", self.path / "tests/apps")
        (self.path / "tests" / "__init__.py").touch()
        self._earlier, self._later = directory / "earlier", directory / "later"
        _copied(ROOT, self._later)
        if pair == "the next version":
            _copied(ROOT, self._earlier)
            self._make_next()
            self.version, self.speaks = "99.0", (wire.VERSION, 99)
        else:
            _as_it_was(FIRST, self._earlier)
            self.version, self.speaks = "98.0", (1, wire.VERSION)
        package = self._later / "poolmgr/__init__.py"
        text = _replaced(r'__version__ = "[^"]+"', f'__version__ = "{self.version}"', package.read_text())
        package.write_text(text)
        self.install_earlier()

    def _make_next(self) -> None:
        wire = (self._later / "poolmgr/wire.py").read_text()
        wire = _replaced(r"\nVERSION = \d+\n", "\nVERSION = 99\n", wire)
        wire = _replaced(r"(\n    link: Count\n)(    versions)", r"\1    of_tomorrow: int = 7\n\2", wire)  # Hello
        wire = _replaced(r"(\n    timeout: Time = 5.0\n)", r"\1    of_tomorrow: int = 7\n", wire)  # Report
        wire = _replaced(r"(\n    seq: int\n    limit: int\n)", r"\1    of_tomorrow: int = 7\n", wire)  # Limit
        (self._later / "poolmgr/wire.py").write_text(wire)
        frames = (self._later / "poolmgr/frames.py").read_text()
        frames = _replaced(r"tag=True, omit_defaults=True\)", "tag=True, omit_defaults=False)", frames)
        (self._later / "poolmgr/frames.py").write_text(frames)

    def install_later(self) -> None:
        self._install(self._later)

    def install_earlier(self) -> None:
        self._install(self._earlier)

    def _install(self, source: Path) -> None:
        """As an installer does: the files are replaced below whatever runs from them."""
        for name in NAMES:
            shutil.rmtree(self.path / name, ignore_errors=True)
        _copied(source, self.path)


def _replaced(pattern: str, by: str, text: str) -> str:
    made, count = re.subn(pattern, by, text)
    assert count == 1, f"{pattern} is there {count} times"
    return made


@pytest.fixture(params=["the next version", "the first version"])
def tree(short_dir: Path, request: pytest.FixtureRequest) -> Tree:
    return Tree(short_dir, request.param)


@pytest.fixture
def server(redis_server) -> Iterator[RedisServer]:
    made: RedisServer = redis_server(port=free_port(), maxclients=BUDGET + 1)
    yield made
    assert made.rejected() == 0, "the server has seen one connection too many"


@pytest.fixture
def service(make: Callable[..., Service], server: RedisServer, tree: Tree) -> Service:
    environ = {"REDIS_CONNECTION_BUDGET": str(BUDGET), "PYTHONPATH": None}
    conf = str(tree.path / "deploy" / "conf.py")
    found = make(app=LOAD_APP, redis_url=server.url, workers=2, threads=8, cwd=tree.path, conf=conf, environ=environ)
    return found.start(path="/pid")


def status(service: Service) -> dict[str, Any]:
    """As this version's tool is told by a supervisor of either."""
    return dict(json.loads(tool("status", "--json")))


def test_members_and_supervisors_of_two_versions_share_one_budget(
    service: Service, server: RedisServer, tree: Tree
) -> None:
    master = service.pid

    def live(version: str, pids: set[int]) -> bool:
        try:
            found = status(service)
        except subprocess.CalledProcessError:  # it does not listen yet
            return False
        members = {m["pid"] for s in found["servers"] for m in s["members"] if m["state"] == "live" and m["limit"]}
        return bool(found["version"].startswith(version) and pids <= members)

    def spoken(supervisor: int) -> set[int]:
        """The protocol's versions, with those who have registered there."""
        return {event["version"] for event in service.events("member.joined") if event["pid"] == supervisor}

    supervisors: dict[str, int] = {}
    with Load(service, "/hold?ms=200", callers=12) as load:
        wait_for(lambda: len(load.by_worker()) == 2, 10, what="both workers answer")
        this = status(service)["version"]
        assert this != tree.version
        for version, install in ((tree.version, tree.install_later), (this, tree.install_earlier)):
            former = service.supervisor()
            install()
            old = set(service.workers(master))
            second = service.upgrade(master=master)
            both = old | set(service.workers(second))
            # Newcomers of the other version at the old supervisor, then all of them at the new one.
            wait_for(lambda both=both: both <= set(load.by_worker()), 15, what="both generations serve")  # type: ignore[misc]
            assert service.supervisor() == former
            os.kill(former, signal.SIGTERM)
            wait_for(lambda f=former: service.supervisor() not in (0, f), 15, what="a new supervisor")  # type: ignore[misc]
            wait_for(lambda v=version, b=both: live(v, b), 15, step=0.3, what=f"all are members of {version}")  # type: ignore[misc]
            supervisors[version] = status(service)["pid"]
            load.wait_for_answers(50)
            os.kill(master, signal.SIGTERM)
            wait_for(lambda m=master: not alive(m), 20, what="the old master ends")  # type: ignore[misc]
            wait_for(lambda: "Master has been promoted" in service.log, 10, what="the second one is the master")
            master = second
        load.wait_for_answers(25)
    assert load.failures() == []
    assert not [event for event in service.events() if event["level"] in ("error", "critical")]
    assert spoken(supervisors[tree.version]) == set(tree.speaks), "with each the newest that both know"
    assert spoken(supervisors[this]) == {tree.speaks[0]}
    for refused in ("client.refused", "client.malformed", "snapshot.unusable"):
        assert service.events(refused) == []
    kill(master, signal.SIGTERM)
    wait_for(lambda: not service.processes(), 20)
