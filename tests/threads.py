"""Calls in threads of their own, of whose errors none is lost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class Calls:
    """Calls that run from now on, each in a thread of its own; with ``times`` each of them so many times at once."""

    def __init__(self, *calls: Callable[[], object], times: int = 1) -> None:
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(call,)) for call in calls * times]
        for thread in self._threads:
            thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            self._errors.append(error)

    def errors(self, timeout: float = 60.0) -> list[BaseException]:
        """Wait for the end of all; what they raised. Nothing keeps the errors, and with them what their frames hold."""
        for thread in self._threads:
            thread.join(timeout)
            assert not thread.is_alive(), "a call does not end"
        found, self._errors = self._errors, []
        return found

    def join(self, timeout: float = 60.0) -> None:
        """Wait for the end of all, none of which may have raised anything."""
        for error in self.errors(timeout):
            raise error

    @property
    def running(self) -> bool:
        """Whether all of them go on."""
        return all(thread.is_alive() for thread in self._threads)


@contextlib.contextmanager
def meanwhile(*calls: Callable[[], object], ended: threading.Event, times: int = 1) -> Iterator[Calls]:
    """The calls run while the block does, and end when ``ended`` is set."""
    running = Calls(*calls, times=times)
    try:
        yield running
    finally:
        ended.set()
        running.join()
