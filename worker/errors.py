"""The answer to a caller whose request gets no result.

Every failure becomes a :class:`Problem`: one status and one sentence. Nothing here may let a traceback
or a secret through.
"""

from __future__ import annotations

from redis import exceptions as redis_errors

import poolmgr


class Problem(Exception):
    """A request that is answered with ``{"error": ...}``.

    Attributes:
        status: of the HTTP answer.
        retry_after: seconds after which the caller may try again; 0: trying again will not help.
        allow: for 405, the methods that are allowed.
    """

    def __init__(self, status: int, message: str, *, retry_after: int = 0, allow: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.allow = allow


def words(error: Exception) -> str:
    """The server's own words: redis-py takes the code off the text of an error reply and keeps it apart."""
    code = getattr(error, "status_code", None)
    return f"{code} {error}" if code else str(error)


def is_busy(reply: object) -> bool:
    """Whether the server answers nothing because a script runs too long."""
    return isinstance(reply, redis_errors.ResponseError) and str(reply).startswith("BUSY ")


def is_loading(reply: object) -> bool:
    """Whether the server refuses nearly everything because it loads its data, or a script pretends that."""
    return isinstance(reply, redis_errors.ResponseError) and str(reply).startswith("LOADING ")


def problem(error: Exception) -> Problem:
    """The answer to a request that ended in this exception."""
    match error:
        case Problem():
            return error
        case poolmgr.ConnectionPoolTimeoutError():
            return Problem(503, f"no connection to Redis came in time: {error}", retry_after=1)
        case poolmgr.ReplyTooLargeError():
            return Problem(
                400,
                "ERR the replies to this request take more than is allowed (WORKER_MAX_REPLY), so they were not read; "
                "the commands have been run. Ask for less at a time: SCAN, LRANGE, GETRANGE, fewer commands",
            )
        case redis_errors.BusyLoadingError():
            return Problem(503, f"Redis is loading its data: {words(error)}", retry_after=1)
        case redis_errors.AuthenticationError():
            return Problem(503, f"Redis refuses this service's credentials: {words(error)}", retry_after=5)
        case poolmgr.ServerDownError():
            return Problem(503, f"Redis cannot be reached: {error}", retry_after=1)
        case redis_errors.TimeoutError():
            return Problem(
                503, f"Redis did not answer in time, and may or may not have run the command: {error}", retry_after=1
            )
        case redis_errors.ConnectionError():
            return Problem(503, f"Redis cannot be reached: {words(error)}", retry_after=1)
        case redis_errors.InvalidResponse() if "nesting depth" in str(error):  # hiredis's words
            return Problem(400, f"ERR the reply to a command is nested too deeply: {error}")
        case redis_errors.ResponseError() if is_busy(error) or is_loading(error):
            return Problem(503, words(error), retry_after=1)
        case redis_errors.ResponseError():
            return Problem(400, words(error))
        case poolmgr.PoolmgrError() | redis_errors.RedisError():
            return Problem(503, str(error), retry_after=1)
    return Problem(500, "this service has a defect: see its log")
