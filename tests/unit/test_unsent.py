"""Which errors of a send prove that nothing was sent."""

from __future__ import annotations

import asyncio
import errno

import pytest
import redis

from poolmgr.pool.unsent import sent_nothing


@pytest.mark.parametrize(
    "error",
    [redis.DataError("None"), TypeError("kind"), PermissionError("a class's own"), redis.ResponseError("no")],
)
def test_a_refusal_by_the_class_or_the_packer_sent_nothing(error: BaseException) -> None:
    assert sent_nothing(error)


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("gone"), redis.TimeoutError("slow"), TimeoutError(),
        ConnectionResetError(errno.ECONNRESET, "x"), OSError(errno.EPIPE, "x"),
        asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit(),
    ],
)  # fmt: skip
def test_an_error_of_the_transport_or_one_that_strikes_anywhere_proves_nothing(error: BaseException) -> None:
    assert not sent_nothing(error)
