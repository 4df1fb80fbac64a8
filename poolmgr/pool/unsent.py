"""Which errors of a send mean that nothing was sent: a refusal by the connection's class or by the packer."""

from __future__ import annotations

from redis.exceptions import ConnectionError as RedisConnectionError, TimeoutError as RedisTimeoutError


def sent_nothing(error: BaseException) -> bool:
    """Whether an error before anything was counted proves that no byte has left.

    No proof are the errors of a transport, and what may strike in the middle of a write: a cancellation, a signal
    handler's exception.
    """
    if not isinstance(error, Exception) or isinstance(error, (RedisConnectionError, RedisTimeoutError, TimeoutError)):
        return False
    return not (isinstance(error, OSError) and error.errno is not None)  # the kernel's; a class's own has no number
