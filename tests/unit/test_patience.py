"""How often an attempt to connect is repeated: as somebody's retries say, and not after a deadline."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from poolmgr.pool.sync.retries import Until


class Attempts:
    """Something that fails, ``seconds`` after it was begun."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.begun: list[float] = []
        self.failures: list[int] = []

    def do(self) -> None:
        self.begun.append(time.monotonic())
        time.sleep(self.seconds)
        raise ConnectionError(len(self.begun))

    def fail(self, error: Exception, count: int) -> None:
        self.failures.append(count)

    def under(self, retry: Any, deadline: float) -> None:
        with pytest.raises(ConnectionError) as caught:
            Until(retry, deadline).call_with_retry(self.do, self.fail, with_failure_count=True)
        assert caught.value.args == (len(self.begun),), "what the last one has raised"


class Stubborn:
    """A user's own class, with pauses of its own."""

    def call_with_retry(self, do: Any, fail: Any, with_failure_count: bool = False) -> Any:
        for count in range(1, 4):
            try:
                return do()
            except ConnectionError as error:
                fail(error, count)
                time.sleep(0.05)
        raise AssertionError("nobody has told it that the time is up")


def retries(backoff: Any) -> Retry:
    return Retry(backoff, 3, supported_errors=(ConnectionError,))


def test_in_time_all_retries_are_made():
    attempts = Attempts()
    attempts.under(retries(NoBackoff()), time.monotonic() + 60)
    assert (len(attempts.begun), attempts.failures) == (4, [1, 2, 3, 4])


def test_a_pause_is_cut_at_the_deadline_and_no_attempt_follows():
    attempts, began = Attempts(), time.monotonic()
    attempts.under(retries(ConstantBackoff(60)), began + 0.05)
    assert time.monotonic() - began < 10
    assert (len(attempts.begun), attempts.failures) == (1, [1])


def test_an_attempt_that_ends_after_the_deadline_is_the_last():
    attempts = Attempts(seconds=0.05)
    attempts.under(retries(NoBackoff()), time.monotonic() + 0.02)
    assert (len(attempts.begun), attempts.failures) == (1, [1])


def test_nor_does_one_begin_with_a_users_own_class():
    attempts = Attempts()
    attempts.under(Stubborn(), time.monotonic() + 0.02)
    assert (len(attempts.begun), attempts.failures) == (1, [1])


def test_the_users_retry_is_as_before_and_a_copy_can_be_made():
    backoff = ConstantBackoff(60)
    theirs = retries(backoff)
    Attempts().under(theirs, 0.0)
    assert theirs._backoff is backoff
    ours = copy.deepcopy(Until(theirs, 0.0))
    assert ours.get_retries() == 3
