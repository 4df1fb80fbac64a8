"""APM agents see host, port and commands of our pool's clients as of redis-py's: each agent in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.agents.recorders import RECORDERS, Found, Recorder
from tests.helpers import ROOT, RedisServer

AGENTS = str(Path(sys.prefix) / "agents")
"""Where ``make agents`` installs them."""

COMMANDS = ("set", "get", "config", "eval", "publish", "del")
"""What an agent must have seen of the work, in its own spelling."""


def recorded(agent: type[Recorder], name: str, order: str, server: RedisServer) -> dict[str, Found]:
    if not list(importlib.metadata.distributions(name=agent.package, path=[AGENTS, *sys.path])):
        pytest.skip(f"{agent.package} is not installed (make agents)")
    command = [sys.executable, "-m", "tests.agents", name, order, str(server.port), server.path]
    environ = {**os.environ, "PYTHONPATH": AGENTS}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found: dict[str, Found] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("name", RECORDERS)
def test_an_agent_sees_what_it_sees_of_redis_pys_pools(
    name: str, order: str, server: RedisServer, isolated: Path
) -> None:
    """``order``: whether the agent is installed before or after the import of poolmgr."""
    agent = RECORDERS[name]
    found = recorded(agent, name, order, server)
    host, port, asked = agent.where
    for way in ("tcp", "tcp at first", "unix", "unix at first"):
        kind, _, first = way.partition(" ")
        ours, theirs = (found[f"{kind} {which} {first}".strip()] for which in ("ours", "theirs"))
        assert ours == theirs
        said = " ".join(str(span[asked]).lower() for span in ours if asked in span)
        assert all(word in said for word in COMMANDS), said
        if kind == "tcp":
            places: set[Any] = {(span.get(host), str(span.get(port))) for span in ours}
            assert ("127.0.0.1", str(server.port)) in places
