"""Load on a service: callers in a closed loop, and what became of every single request.

Used with :class:`tests.service.Service` by the integration and the chaos tests.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.helpers import wait_for
from tests.service import Service


@dataclass(slots=True)
class Outcome:
    """One request.

    Attributes:
        start, end: on ``time.monotonic()``.
        status: of the answer; 0: there was none.
        pid: the worker that answered; 0: unknown.
        error: what went wrong.
    """

    start: float
    end: float
    status: int
    pid: int = 0
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class Load:
    """Callers in a closed loop: each sends its next request when the last one is answered.

    ``with Load(service, "/hold?ms=5", callers=16) as load: ...``; then look at :attr:`outcomes`. Every
    request has a connection of its own, so a killed worker takes with it only what it had accepted.
    """

    service: Service
    path: str = "/get"
    callers: int = 16
    timeout: float = 15
    outcomes: list[Outcome] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        for number in range(self.callers):
            thread = threading.Thread(target=self._call, name=f"caller-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(self.timeout + 5)

    def _call(self) -> None:
        while not self._stop.is_set():
            self.outcomes.append(self._one())

    def _one(self) -> Outcome:
        start = time.monotonic()
        status, pid, error = 0, 0, ""
        try:
            answer = self.service.get(self.path, timeout=self.timeout)
            status = answer.status
            found = answer.json
            pid = int(found.get("pid", 0))
            error = str(found.get("error", ""))
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        return Outcome(start, time.monotonic(), status, pid, error)

    # ---- what came of it -----------------------------------------------------------------------

    @property
    def answered(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.ok]

    def failures(self, kills: list[float] | None = None) -> list[Outcome]:
        """Requests without a good answer, those left out that a killed worker may have had.

        Args:
            kills: when workers were killed. A request is excused only if it got no answer at all and
                was open at one of these moments.
        """
        return [
            outcome
            for outcome in self.outcomes
            if not outcome.ok
            and not (outcome.status == 0 and any(outcome.start <= at <= outcome.end for at in kills or ()))
        ]

    def by_worker(self) -> Counter[int]:
        return Counter(outcome.pid for outcome in self.answered)

    def serving(self, since: float) -> set[int]:
        """Who has answered a request well that began after this moment."""
        return {outcome.pid for outcome in reversed(self.outcomes) if outcome.ok and outcome.start > since}

    def between(self, begin: float, end: float) -> list[Outcome]:
        """Good answers that came in this time."""
        return [outcome for outcome in self.answered if begin <= outcome.end <= end]

    def slowest(self) -> float:
        return max((outcome.seconds for outcome in self.outcomes), default=0.0)

    def wait_for_answers(self, count: int, timeout: float = 20) -> None:
        """Until so many more requests have been answered well."""
        goal = len(self.answered) + count
        try:
            wait_for(lambda: len(self.answered) >= goal, timeout, what=f"{count} more good answers", step=0.02)
        except AssertionError:
            now = time.monotonic()
            print(f"{goal - len(self.answered)} are missing; the last requests, seconds ago:")
            for one in sorted(self.outcomes, key=lambda outcome: outcome.end)[-40:]:
                print(f"{now - one.start:8.3f} {now - one.end:8.3f} {one.pid} {one.status} {one.error}")
            raise
