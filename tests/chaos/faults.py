"""What can go wrong, one class each. A fault is begun once and may leave something to be undone.

A fault must not harm a request by itself, except those in flight in a process that it kills: whatever
else fails during a storm is a failure of the service.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests import damage
from tests.helpers import alive, kill

if TYPE_CHECKING:
    from tests.chaos.storm import Storm

Fault = Callable[["Storm", random.Random], str]
"""Does it and says what it did, or says an empty text if it was not possible just now."""


def worker_killed(storm: Storm, rng: random.Random) -> str:
    workers = storm.workers()
    if len(workers) < 2:
        return ""
    victim = rng.choice(workers)
    storm.kills.append(time.monotonic())
    kill(victim)
    return f"SIGKILL of worker {victim}"


def worker_stopped(storm: Storm, rng: random.Random) -> str:
    workers = storm.workers()
    if len(workers) < 3:
        return ""
    victim, seconds = rng.choice(workers), rng.uniform(0.2, 1.5)
    storm.pause(victim, seconds)
    return f"worker {victim} stopped for {seconds:.1f} s"


def reload(storm: Storm, rng: random.Random) -> str:
    os.kill(storm.master, signal.SIGHUP)
    return "HUP"


def one_more(storm: Storm, rng: random.Random) -> str:
    if len(storm.workers()) >= 6:
        return ""
    os.kill(storm.master, signal.SIGTTIN)
    return "TTIN"


def one_less(storm: Storm, rng: random.Random) -> str:
    if len(storm.workers()) <= 3:
        return ""
    os.kill(storm.master, signal.SIGTTOU)
    return "TTOU"


def upgrade(storm: Storm, rng: random.Random) -> str:
    """USR2: a second master; then the old one is stopped, or the new one (the way back out)."""
    old = storm.master
    new = storm.second_master()
    if rng.random() < 0.5:
        os.kill(new, signal.SIGTERM)
        storm.await_end(new)
        return f"USR2, and back out of {new}"
    os.kill(old, signal.SIGTERM)
    storm.master = new
    storm.await_end(old)
    return f"USR2 from {old} to {new}"


def master_killed(storm: Storm, rng: random.Random) -> str:
    """The old master of an upgrade: its workers are orphans, and end when they have noticed."""
    old = storm.master
    storm.master = storm.second_master()
    orphans = storm.service.workers(old)
    kill(old)
    for pid in orphans:
        storm.await_end(pid)
    return f"USR2 to {storm.master}, SIGKILL of master {old}"


def supervisor_terminated(storm: Storm, rng: random.Random) -> str:
    """As an operator or a package's upgrade does."""
    pid = storm.service.supervisor()
    if not pid:
        return ""
    kill(pid, signal.SIGTERM)
    return f"SIGTERM of supervisor {pid}"


def supervisor_killed(storm: Storm, rng: random.Random) -> str:
    pid = storm.service.supervisor()
    if not pid:
        return ""
    kill(pid)
    return f"SIGKILL of supervisor {pid}"


def supervisor_stopped(storm: Storm, rng: random.Random) -> str:
    pid = storm.service.supervisor()
    if not pid:
        return ""
    seconds = rng.uniform(0.2, 3)
    storm.pause(pid, seconds)
    return f"supervisor {pid} stopped for {seconds:.1f} s"


def supervisor_hung(storm: Storm, rng: random.Random) -> str:
    """Never continued: its members must replace it."""
    pid = storm.service.supervisor()
    if not pid or storm.remaining < 20:
        return ""
    kill(pid, signal.SIGSTOP)
    storm.hung.append(pid)
    return f"supervisor {pid} stopped for good"


def snapshot_damaged(storm: Storm, rng: random.Random) -> str:
    """The supervisor dies, and what it had written cannot be used."""
    pid = storm.service.supervisor()
    path = Path(storm.service.socket + ".snapshot")
    if not pid or not path.exists():
        return ""
    how = rng.choice(
        (damage.truncated, damage.cut_in_half, damage.missing, damage.of_another_boot, damage.of_another_version)
    )
    kill(pid, signal.SIGSTOP)
    how(path)
    kill(pid)
    return f"SIGKILL of supervisor {pid}, snapshot {how.__name__.replace('_', ' ')}"


def snapshot_unwritable(storm: Storm, rng: random.Random) -> str:
    """Neither in place nor anew, as on a full disk or in a directory that forbids it."""
    path, obstacle = Path(storm.service.socket + ".snapshot"), Path(storm.service.socket + ".snapshot.new")
    if not storm.service.supervisor() or not path.exists() or obstacle.exists():
        return ""
    seconds = rng.uniform(0.2, 2)
    obstacle.mkdir()
    path.unlink()
    storm.later(seconds, obstacle.rmdir)
    return f"snapshot cannot be written for {seconds:.1f} s"


def connections_killed(storm: Storm, rng: random.Random) -> str:
    """CLIENT KILL of some idle connections, as an operator or a proxy would."""
    with storm.server.observer() as client:
        idle = [c for c in client.client_list() if c["name"] != "observer" and c["cmd"] != "blpop" and c["qbuf"] == "0"]
        victims = rng.sample(idle, min(len(idle), rng.randint(1, 3)))
        for victim in victims:
            client.execute_command("CLIENT", "KILL", "ID", victim["id"])
    return f"CLIENT KILL of {len(victims)} connections" if victims else ""


def budget_changed(storm: Storm, rng: random.Random) -> str:
    budget = rng.randint(3, storm.budget)
    storm.set_budget(budget)
    return f"budget {budget}"


def descriptors_inherited(storm: Storm, rng: random.Random) -> str:
    """A worker forks a child that lives on with whatever it inherited, for a moment."""
    answer = storm.service.get(f"/fork?seconds={rng.uniform(0.1, 1):.2f}")
    return f"worker {answer.json['pid']} forked {answer.json['child']}" if answer.status == 200 else ""


def guest(storm: Storm, rng: random.Random) -> str:
    """Another program of the same budget, which says no goodbye; see :mod:`tests.chaos.guest`."""
    if len(storm.guests) - storm.ended_guests() > 2 or storm.remaining < 10:
        return ""
    kind = rng.choice(("exec", "chain", "vanish", "closed"))
    return f"a guest: {kind}, process {storm.invite(kind, rng.uniform(0.1, 1))}"


def stranger(storm: Storm, rng: random.Random) -> str:
    """A connection with the name of one of ours, but for its number: no permit of ours, and never killed."""
    with storm.server.observer() as client:
        names = [row["name"] for row in client.client_list() if "pm1." in row["name"]]
    if not names or storm.stranger is not None:
        return ""
    seconds = rng.uniform(0.2, 2)
    name = rng.choice(names)
    storm.receive_stranger(name[:-1] + ("1" if name[-1] != "1" else "2"), seconds)
    return f"a stranger with the name {name} for {seconds:.1f} s"


def socket_removed(storm: Storm, rng: random.Random) -> str:
    """As a cleaner of temporary files does."""
    path = Path(storm.service.socket)
    if not storm.service.supervisor() or not path.exists():
        return ""
    path.unlink()
    return "the supervisor's socket file removed"


FAULTS: dict[Fault, float] = {
    worker_killed: 6,
    worker_stopped: 2,
    reload: 2,
    one_more: 1,
    one_less: 1,
    upgrade: 0.5,
    master_killed: 0.5,
    supervisor_killed: 2,
    supervisor_terminated: 0.5,
    supervisor_stopped: 1,
    supervisor_hung: 0.3,
    snapshot_damaged: 1,
    snapshot_unwritable: 0.5,
    connections_killed: 2,
    budget_changed: 1,
    descriptors_inherited: 1,
    guest: 2,
    stranger: 0.5,
    socket_removed: 0.3,
}
"""Every fault with its weight: how often it is drawn beside the others."""


def gone(pid: int) -> bool:
    return not alive(pid)
