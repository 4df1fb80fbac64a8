"""What a state of the smallest worlds is: plain values, no behaviour."""

from __future__ import annotations

from typing import Any

import msgspec


class World(msgspec.Struct, frozen=True):
    """What there is and how many faults of each kind may come."""

    name: str
    members: int = 2
    budget: int = 2
    running: int = -1
    crashes: int = 0
    kills: int = 0
    cuts: int = 0
    stops: int = 0
    forks: int = 0
    shrinks: int = 0
    queue: bool = False
    """Connections wait to be accepted, and have no name at first."""


class Link(msgspec.Struct, frozen=True):
    number: int
    member_open: bool = True
    supervisor_open: bool = True
    up: tuple[Any, ...] = ()
    """``("hello", stated)`` and ``("ack", seq)``."""
    down: tuple[tuple[int, int], ...] = ()
    """Limits as (seq, limit)."""


class Process(msgspec.Struct, frozen=True):
    """A member and its sockets. ``state``: absent, running, stopped, dead."""

    state: str = "A"
    limit: int = 0
    seq: int = 0
    acked: int = 0
    live: int = 0
    closing: int = 0
    """Closed here, and still counted by the server."""
    ended: int = 0
    """The server has confirmed; not read yet."""
    left: int = 0
    """Counted by the server, owner dead."""
    links: tuple[Link, ...] = ()
    # The accept queue's world: waiting to be accepted, the same of a dead owner, unnamed among ``live``
    # and among ``left``.
    queued: int = 0
    queued_dead: int = 0
    unnamed: int = 0
    unnamed_left: int = 0


class Record(msgspec.Struct, frozen=True):
    """What the ledger has of a member."""

    told: tuple[tuple[int, int], ...]
    seq: int
    link: int
    linked: bool
    unanswered: bool


class Supervisor(msgspec.Struct, frozen=True):
    records: tuple[Record | None, ...]
    quarantine: tuple[int, ...]
    budget: int
    pending: tuple[int, int, int, int] | None = None
    """(member, link, seq, limit): on disk, and not sent yet."""


class Disk(msgspec.Struct, frozen=True):
    charges: tuple[int | None, ...]
    quarantine: tuple[int, ...]
    budget: int


class State(msgspec.Struct, frozen=True):
    supervisor: Supervisor | None
    disk: Disk
    processes: tuple[Process, ...]
    faults: tuple[int, ...]
    budget: int


CRASH, KILL, CUT, STOP, FORK, SHRINK = range(6)

Step = tuple[str, bool, State]
"""What happens, whether it is the system's own doing (no fault), and what comes of it."""


def beginning(world: World) -> State:
    """No supervisor, nothing open."""
    running = world.members if world.running < 0 else world.running
    n = world.members
    return State(
        None,
        Disk((None,) * n, (0,) * n, world.budget),
        tuple(Process("R" if i < running else "A") for i in range(n)),
        (world.crashes, world.kills, world.cuts, world.stops, world.forks, world.shrinks),
        world.budget,
    )


def count(state: State) -> int:
    """What the server counts."""
    return sum(p.live + p.closing + p.left for p in state.processes)


def violated(state: State) -> str:
    """What is wrong with this state; empty if nothing is."""
    counted = count(state)
    if counted > state.budget:
        return f"the server counts {counted} of {state.budget}"
    supervisor = state.supervisor
    if supervisor is not None:
        for i, (record, process) in enumerate(zip(supervisor.records, state.processes, strict=True)):
            charge = max(limit for _, limit in record.told) if record else 0
            opened = process.live + process.closing + process.ended + process.queued
            if process.state in "RS" and opened > charge:
                return f"m{i} has {opened} open, charged {charge}"
    return ""
