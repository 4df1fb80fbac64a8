"""Cancels a coroutine at each of its suspensions in turn, and says what is wrong afterwards.

:class:`Step` re-yields every suspension of a coroutine, and cancels its task exactly at the k-th one. A walk runs the
same operation with k = 1, 2, ... until there is no k-th suspension any more; the world around it is made afresh each
time. In the other kind of walk the loop ends there, without a word to its tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any, Literal

import uvloop

How = Literal["once", "twice"]
"""Cancelled at the k-th suspension; there and at the next one."""

HOWS: tuple[How, ...] = ("once", "twice")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run(loop: str, work: Coroutine[Any, Any, Any], *, debug: bool = False) -> Any:
    """Run it in a new loop of this kind."""
    limited = short_stacks() if debug else contextlib.nullcontext()
    with asyncio.Runner(loop_factory=LOOPS[loop], debug=debug) as runner, limited:
        return runner.run(work)


@contextlib.contextmanager
def short_stacks() -> Iterator[None]:
    """A loop under debug keeps the stack of the maker of each future and callback, with a look at the file of each
    frame: under pytest these are sixty, and take most of a test's time. One frame is enough here."""
    sys.tracebacklimit = 1
    try:
        yield
    finally:
        vars(sys).pop("tracebacklimit", None)


class Step:
    """An awaitable around a coroutine; see the module's docstring."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int, how: How | None) -> None:
        self._work = work
        self._at = at
        self._how = how
        self.count = 0
        self.where = ""

    def __await__(self) -> Generator[Any, None, Any]:
        work, error = self._work, None
        while True:
            try:
                future = work.send(None) if error is None else work.throw(error)
            except StopIteration as done:
                return done.value
            self.count += 1
            if self.count == self._at:
                self.where = _place(work)
            if self.count == self._at and self._how is None:
                loop = asyncio.get_running_loop()
                loop.stop()
                future = loop.create_future()  # never done: the loop may turn once more before it stops
                future._asyncio_future_blocking = True
            elif self.count == self._at or (self._how == "twice" and self.count == self._at + 1):
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            error = None
            try:
                yield future
            except GeneratorExit:
                work.close()
                raise
            except BaseException as struck:
                error = struck


def _place(work: Any) -> str:
    """Where a coroutine stands, innermost last."""
    names = []
    while work is not None:
        frame = getattr(work, "cr_frame", None) or getattr(work, "gi_frame", None)
        if frame is None:
            break
        names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        work = getattr(work, "cr_await", None) or getattr(work, "gi_yieldfrom", None)
    return " > ".join(names[-5:])


async def walk(
    make: Callable[[], Coroutine[Any, Any, Any]],
    operation: Callable[[Any], Coroutine[Any, Any, Any]],
    check: Callable[[Any], Awaitable[list[str]]],
    how: How = "once",
    most: int = 60,
) -> tuple[int, list[str]]:
    """How many suspensions there are, and what was wrong after a cancellation at one of them.

    Args:
        make: a world.
        operation: what is done in it, the same each time.
        check: what is wrong in it afterwards; also ends it.
    """
    wrong: list[str] = []
    for at in range(1, most):
        world = await make()
        step = Step(operation(world), at, how)

        async def drive(step: Step = step) -> Any:
            return await step

        task = asyncio.get_running_loop().create_task(drive())
        _, late = await asyncio.wait({task}, timeout=10)
        if late:
            wrong.append(f"{at} {step.where}: it hangs")
            task.cancel()
        elif step.count < at:
            await check(world)
            return at - 1, wrong
        elif not task.cancelled():
            error = task.exception()
            wrong.append(
                f"{at} {step.where}: cancellation swallowed" if error is None else f"{at} {step.where}: {error!r}"
            )
        wrong += [f"{at} {step.where}: {one}" for one in await check(world)]
    raise AssertionError(f"more than {most} suspensions")


def walk_to_the_end(
    loop: str,
    make: Callable[[], Coroutine[Any, Any, Any]],
    operation: Callable[[Any], Coroutine[Any, Any, Any]],
    check: Callable[[Any], Coroutine[Any, Any, list[str]]],
    most: int = 60,
) -> tuple[int, list[str]]:
    """As :func:`walk`, but the loop stops at the suspension and is closed, with all that is in it; the check runs in
    another loop."""
    wrong: list[str] = []
    for at in range(1, most):
        ending = LOOPS[loop]()
        world = ending.run_until_complete(make())
        step = Step(operation(world), at, None)

        async def drive(step: Step = step) -> Any:
            return await step

        task = ending.create_task(drive())
        task.add_done_callback(lambda _, ending=ending: ending.stop())  # type: ignore[misc]
        ending.run_forever()
        finished = task.done()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        ending.close()
        del task, drive
        where, step = step.where, None  # type: ignore[assignment]
        wrong += [f"{at} {where}: {one}" for one in run(loop, check(world))]
        if finished:
            return at - 1, wrong
    raise AssertionError(f"more than {most} suspensions")
