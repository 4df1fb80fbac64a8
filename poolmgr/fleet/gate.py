"""The gate: what a new connection reads of its lease, once it has its name (F5).

Pure: the texts that HMGET and TIME answered in, a reason out. They are asked on the new connection itself, behind its
name: so a connection that could pass is in every list that is searched for that name. The lease's end is compared with
the same server's clock. A copy of the table that another server process left behind is shut as soon as its ends have
passed.

A limit is good for the table that gave it. After a failover, or back at a process that this name led to before, another
one decides.

While the table learns, the gate is shut for all. A host that did not claim its lease in a table that was lost as well
could claim it in the next one, and open connections while those that had got its permits are still connected.
"""

from __future__ import annotations

from collections.abc import Sequence


def commands(key: str, lease: str) -> tuple[tuple[str, ...], ...]:
    """What is sent behind the name, in the same packet. The user needs ``+hmget +time %R~poolmgr:*``."""
    return (("HMGET", key, "!", lease), ("TIME",))


def left(records: Sequence[bytes | str | None], clock: Sequence[bytes | str | int]) -> float:
    """Seconds until the lease ends, if the gate is open: until then no other host can have fenced this one."""
    record = records[1]
    assert record is not None
    return (int(record.split(maxsplit=3)[2]) - _milliseconds(clock)) / 1000


def _milliseconds(clock: Sequence[bytes | str | int]) -> int:
    seconds, micros = clock
    return int(seconds) * 1000 + int(micros) // 1000


def shut(records: Sequence[bytes | str | None], clock: Sequence[bytes | str | int], table: str) -> str:
    """Why the connection must be closed unused; empty: the gate is open.

    Args:
        records: the answer to HMGET. clock: the answer to TIME: seconds and microseconds.
        table: the number of the table that gave this process its limit.
    """
    head, record = records
    if not head:
        return "this server has no table of the fleet"
    if not record:
        return "the fleet's table does not have this host's lease"
    first, fields = head.split(maxsplit=3), record.split(maxsplit=3)
    if len(first) < 3 or len(fields) < 3 or not fields[2].isdigit():
        return f"the record of this host's lease is not understood: {record!r:.80}"
    number = first[1].decode("ascii", "replace") if isinstance(first[1], bytes) else first[1]
    if number != table:
        return "the fleet's table is another one than the one that gave this process its limit"
    if int(first[2]):
        return "the fleet's table is new, and what is connected has not been counted yet"
    if _milliseconds(clock) >= int(fields[2]):
        return "this host's lease has ended"
    return ""
