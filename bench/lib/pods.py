"""Hosts of a fleet with supervisors and processes of their own, for the rows in which those count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bench.lib import exchanges, servers
from tests.fleet.hosts import Host, table
from tests.helpers import ROOT, RedisServer, wait_for

BUDGET = 24
FAIR = 11
"""What each of two hosts gets of it that want more."""

JOINS = b"\r\nrenew\r\n"


def host(directory: Path, url: str, **environ: str) -> Host:
    fleet = {"REDIS_FLEET_BUDGET": str(BUDGET), "REDIS_FLEET_LEASE": "10", "HOLD": "0.5", "POOLMGR_METRICS": "off"}
    return Host(directory, url, **{**fleet, **environ})


def grants(server: RedisServer) -> list[int]:
    """What the table grants its hosts, the largest first."""
    with server.observer() as client:
        found = table(client)
    return [] if found is None else [each.grant for each in found.hosts]


# ---- the first permits of a new pod ------------------------------------------------------------------------


def first(directory: Path, server: RedisServer, number: int) -> tuple[int, int]:
    """A pod starts beside one that works. Round trips until it has permits: on the connection that asks for them,
    behind its handshake; and of all its supervisor's connections together."""
    with exchanges.counting(server.port) as proxy:
        pod = host(directory / f"pod{number}", f"redis://127.0.0.1:{proxy.port}")
        try:
            pod.start(())
            pod.add().ask("callers 1")
            wait_for(lambda: pod.lease["grant"] > 0, 30, what="it has permits")
            together = 0
            for connection in proxy.connections:
                for place, said in enumerate(connection.exchanges):
                    together += 1
                    if JOINS in said:
                        return place, together
            raise RuntimeError("it has not asked")
        finally:
            pod.stop()


# ---- connecting --------------------------------------------------------------------------------------------


class Connecting:
    """A process that connects when its parent asks for it, and that process's supervisor."""

    def __init__(self, socket: Path, port: int, flavour: str, **environ: str) -> None:
        self._socket = socket
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.apps.connects", str(port), flavour],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={
                **os.environ, "POOLMGR_SOCKET": str(socket), "POOLMGR_LOG_LEVEL": "error", "POOLMGR_METRICS": "off",
                "POOLMGR_LINGER": "0", **environ,
            },
        )  # fmt: skip
        if self._says() != "ready":
            raise RuntimeError("a process that connects has failed")

    def _says(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def times(self, count: int) -> list[float]:
        assert self._process.stdin is not None
        print(count, file=self._process.stdin, flush=True)
        return list(json.loads(self._says()))

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
        servers.end_supervisor(self._socket)


# ---- a pod that is killed ----------------------------------------------------------------------------------


class Pair:
    """Two hosts at a server of their own, which share a budget that is too small for both."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._running = servers.server(directory)
        self._server = self._running.__enter__()
        self._hosts = [host(directory / name, self._server.url) for name in "ab"]
        try:
            for each in self._hosts:
                each.start()
                each.callers(BUDGET)
            wait_for(lambda: grants(self._server) == [FAIR, FAIR], 60, what="they share")
        except BaseException:
            self.end()
            raise

    def kill_one(self) -> float:
        """Seconds until the other one has all."""
        began = time.monotonic()
        self._hosts[0].kill()
        wait_for(lambda: max(grants(self._server)) == 2 * FAIR, 60, what="the other one has its part")
        return time.monotonic() - began

    def end(self) -> None:
        for each in self._hosts:
            each.stop()
        self._running.__exit__(None, None, None)
