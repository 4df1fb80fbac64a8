"""What a user must be allowed in a fleet. The supervisor uses the credentials that its processes use."""

from __future__ import annotations

COMMANDS = "+evalsha +eval +hget +hset +hmget +hgetall +hdel +del +time +info +client|setname +client|list +client|kill"
"""The script's own commands among them: a server checks those too (https://redis.io/docs/latest/operate/oss_and_stack/
management/security/acl/#acl-rules)."""


def line(user: str | None) -> str:
    """The command that allows it. (``%RW~`` is from Redis 7.0 on; before, ``~`` means the same.)"""
    return f"ACL SETUSER {user or 'default'} {COMMANDS} %RW~poolmgr:*"


def missing(error: str) -> bool:
    """Whether an error reply says that the user may not do this. Redis words it otherwise inside of a script."""
    return error.startswith("NOPERM") or "ACL failure in script" in error or "No permission" in error
