"""What a user must be allowed in a fleet. The supervisor uses the credentials that its processes use."""

from __future__ import annotations

COMMANDS = (
    "+evalsha +eval +hget +hset +hmget +hgetall +hdel +del +time +info "
    "+client|id +client|setname +client|list +client|kill"
)
"""The script's own commands among them: a server checks those too (https://redis.io/docs/latest/operate/oss_and_stack/
management/security/acl/#acl-rules)."""


IN_SCRIPTS = ("ACL failure in script", "The user executing the script can't", "No permission")
"""What Valkey and Redis from 7.2 on, Redis 7.0, and Redis 6.2 say."""


def line(user: str | None) -> str:
    """The command that allows it. (``%RW~`` is from Redis 7.0 on; before, ``~`` means the same.)"""
    return f"ACL SETUSER {user or 'default'} {COMMANDS} %RW~poolmgr:*"


def refusal(command: str, error: str, user: str | None) -> str:
    """The sentence about a command that the server refuses. If the user lacks a right, it ends with the remedy."""
    remedy = f". Allow it: {line(user)}" if missing(error) else ""
    return f"the server refuses {command}, which a fleet needs ({error}){remedy}"


def missing(error: str) -> bool:
    """Whether an error reply says that the user may not do this. Redis words it otherwise inside of a script."""
    return error.startswith("NOPERM") or any(words in error for words in IN_SCRIPTS)
