"""What members cost their host: in ``status``, in the metrics, and not at the event loop's expense."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest

from poolmgr.supervisor.clients import footprint
from tests.helpers import tool, wait_for
from tests.supervisor_process import Pair, joined
from tests.threads import meanwhile

QUICK = "clients.footprint.EVERY=0.2"


def test_status_says_what_a_member_costs(pair: Pair) -> None:
    running, server = pair(10, maxclients=40, HASTY=QUICK)
    from tests.fake_member import endpoint_of

    member, name = joined(running, endpoint_of(path=server.path))
    member.grow(name, 2)

    def mine() -> dict[str, float]:
        (found,) = running.server()["members"]
        return found  # type: ignore[no-any-return]

    wait_for(lambda: mine()["threads"], 10, what="it has been read")
    before = mine()
    assert before["pid"] == os.getpid()
    assert before["memory"] == pytest.approx(_resident(), rel=0.3)
    assert before["processor"] == pytest.approx(sum(os.times()[:2]), abs=5)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
    stop = threading.Event()
    try:
        with meanwhile(stop.wait, ended=stop, times=7):
            wait_for(lambda: mine()["descriptors"] >= before["descriptors"] + 50, 10, what="the descriptors are seen")
            wait_for(lambda: mine()["threads"] >= before["threads"] + 7, 10, what="the threads are seen")
    finally:
        for descriptor in held:
            os.close(descriptor)
    shown = tool("status")
    head = next(line for line in shown.splitlines() if "pid" in line)
    assert head.split()[-4:] == ["cpu", "memory", "files", "threads"]
    assert "MiB" in shown


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_process_that_has_ended_has_no_figures() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert set(footprint.read([os.getpid(), ended.pid])) == {os.getpid()}
