"""Worker processes that load a server like a pre-fork service, without HTTP.

Each worker is forked from a process without threads, makes its pool after the fork, warms up, and measures when
all are ready. Load is closed-loop: a thread sends its next command when the last is answered.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import threading
import time
import traceback
from array import array
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import msgspec

Action = Callable[[], Any]


class Role(msgspec.Struct, frozen=True):
    """What one worker does.

    Attributes:
        name: results with the same name are added up.
        threads: how many callers it has.
        pause: seconds that each caller rests between two commands.
    """

    name: str
    threads: int
    pause: float = 0.0


class Outcome(msgspec.Struct):
    """What one worker saw within the measured time: sorted latencies in seconds, and errors.

    Attributes:
        done: answers within the measured time. Latencies cover every request that began in it, so that the longest
            waits are included. Late answers do not count as throughput: that would flatter a queue.
    """

    role: Role
    done: int
    latencies: list[float]
    errors: dict[str, int]
    seconds: float


def run(roles: Sequence[Sequence[Role]], make: Callable[[], Action], *, warm: float, seconds: float) -> list[Outcome]:
    """Run workers side by side; each plays one or more roles on one ``make()``.

    Args:
        roles: the roles of each worker.
        make: called in the worker; all its threads call the function that it returns.
        warm: seconds before anything counts.

    Raises:
        RuntimeError: a worker failed.
    """
    fork = multiprocessing.get_context("fork")
    workers = []
    for mine in roles:
        near, far = fork.Pipe()
        process = fork.Process(target=_worker, args=(far, mine, make, warm, seconds), daemon=True)
        process.start()
        far.close()
        workers.append((process, near))
    try:
        for _, pipe in workers:
            _expect(pipe, 60)
        for _, pipe in workers:
            pipe.send("go")
        found: list[Outcome] = []
        for _, pipe in workers:
            found += msgspec.msgpack.decode(_expect(pipe, 60 + warm + seconds), type=list[Outcome])
        for _, pipe in workers:
            pipe.send("end")
        for process, _ in workers:
            process.join(10)
        return found
    finally:
        for process, pipe in workers:
            process.kill()
            process.join()
            pipe.close()


def _expect(pipe: Connection, timeout: float) -> bytes:
    if not pipe.poll(timeout):
        raise RuntimeError("a worker does not answer")
    try:
        ok, value = pipe.recv()
    except EOFError:
        raise RuntimeError("a worker has ended") from None
    if not ok:
        raise RuntimeError(f"a worker failed: {value}")
    assert isinstance(value, bytes)
    return value


def _worker(pipe: Connection, roles: Sequence[Role], make: Callable[[], Action], warm: float, seconds: float) -> None:
    try:
        action = make()
        action()
        pipe.send((True, b""))
        pipe.recv()
        pipe.send((True, msgspec.msgpack.encode(_load(roles, action, warm, seconds))))
        pipe.recv()
    except BaseException as error:
        traceback.print_exc()
        pipe.send((False, f"{type(error).__name__}: {error}"))
    # An orderly end, at which a member says goodbye: multiprocessing's own runs no exit handlers in a fork.
    atexit._run_exitfuncs()
    os._exit(0)


def _load(roles: Sequence[Role], action: Action, warm: float, seconds: float) -> list[Outcome]:
    begin = time.perf_counter() + warm
    end = begin + seconds
    jobs = []
    for role in roles:
        for _ in range(role.threads):
            latencies, late, errors = array("d"), array("d"), dict[str, int]()
            thread = threading.Thread(
                target=_caller, args=(role, action, begin, end, latencies, late, errors), daemon=True
            )
            jobs.append((role, thread, latencies, late, errors))
    for _, thread, *_ in jobs:
        thread.start()
    for _, thread, *_ in jobs:
        thread.join(max(0.0, end - time.perf_counter()) + 10)
    found = []
    for role in roles:
        merged = Outcome(role, 0, [], {}, seconds)
        for whose, thread, latencies, late, errors in jobs:
            if whose is not role:
                continue
            merged.done += len(latencies)
            merged.latencies += [*latencies, *late]
            for name, count in errors.items():
                merged.errors[name] = merged.errors.get(name, 0) + count
            if thread.is_alive():
                merged.errors["never answered"] = merged.errors.get("never answered", 0) + 1
        merged.latencies.sort()
        found.append(merged)
    return found


def _caller(
    role: Role,
    action: Action,
    begin: float,
    end: float,
    latencies: array[float],
    late: array[float],
    errors: dict[str, int],
) -> None:
    clock = time.perf_counter
    if role.pause:
        time.sleep(role.pause * (os.getpid() % 16) / 16)  # callers of different workers do not march in step
    while True:
        start = clock()
        if start >= end:
            return
        try:
            action()
        except Exception as error:
            name = type(error).__name__
            errors[name] = errors.get(name, 0) + 1
        stop = clock()
        if stop >= begin:
            (latencies if stop <= end else late).append(stop - start)
        if role.pause:
            time.sleep(role.pause)


def merged(outcomes: Sequence[Outcome], name: str) -> Outcome:
    """All workers of one role as one."""
    mine = [outcome for outcome in outcomes if outcome.role.name == name]
    latencies = sorted(x for o in mine for x in o.latencies)
    whole = Outcome(mine[0].role, sum(o.done for o in mine), latencies, {}, mine[0].seconds)
    for outcome in mine:
        for key, count in outcome.errors.items():
            whole.errors[key] = whole.errors.get(key, 0) + count
    return whole
