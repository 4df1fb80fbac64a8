"""The server's own table of commands: the names, and the flags and categories of each.

The table comes from two questions, ``COMMAND`` and one ``COMMAND INFO`` with all its names, because
the first alone is wrong after a rename: with ``rename-command SET GET`` it lists ``get``, which only reads, while
``GET`` runs SET. ``COMMAND INFO get`` then answers with ``set``. So a name counts only if the server answers it with
that same name. No I/O here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

WELL_FORMED = re.compile(rb"[A-Za-z0-9._-]+")
"""The characters of a command's and a subcommand's name. Servers compare names up to a zero byte, and redis-py splits
the first argument at blanks, so they may read any other text differently from how it was judged."""


class Rule(NamedTuple):
    """What the server says of a command. Flags and categories are in lower case."""

    name: str
    """``get``; ``config|set`` for a subcommand."""
    words: tuple[bytes, ...]
    """The name as it is sent: the server's own spelling, one or two words."""
    arity: int
    """How many words it takes, its name included; negative: at least so many."""
    flags: frozenset[str]
    categories: frozenset[str] | None
    """None: the server does not tell categories (before Redis 6)."""
    subcommands: Mapping[bytes, Rule]
    """By their own name. Empty for a command without any, and for servers that do not list them (before Redis 7)."""


Table = Mapping[bytes, Rule]
"""By name, in lower case."""


def names_of(reply: Any) -> list[bytes]:
    """The names in a reply to COMMAND, undecoded; empty if it is not such a reply."""
    return [entry[0] for entry in reply if _is_entry(entry)] if isinstance(reply, list) else []


def table_of(names: Sequence[bytes], reply: Any) -> Table:
    """The table.

    Args:
        names: the names that were asked for, in this order.
        reply: the reply to ``COMMAND INFO name name ...``, undecoded.
    """
    if not isinstance(reply, list) or len(reply) != len(names):
        return {}
    found = {}
    for name, entry in zip(names, reply, strict=True):
        if _is_entry(entry) and entry[0] == name and WELL_FORMED.fullmatch(name):
            found[name.lower()] = _rule(entry, (name,))
    return found


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) >= 6 and isinstance(entry[0], bytes)


def _rule(entry: list[Any], words: tuple[bytes, ...]) -> Rule:
    """Positions as the server's manual has them: name, arity, flags, three keys, categories (since 6),
    tips, key specifications, subcommands (since 7)."""
    subcommands = {}
    for sub in (entry[9] if len(entry) > 9 else None) or ():
        container, bar, name = sub[0].partition(b"|")
        if bar and container == words[0] and WELL_FORMED.fullmatch(name):
            subcommands[name.lower()] = _rule(sub, (words[0], name))
    return Rule(
        name=b"|".join(words).decode("ascii").lower(),
        words=words,
        arity=int(entry[1]),
        flags=_lower(entry[2]),
        categories=_lower(entry[6]) if len(entry) > 6 else None,
        subcommands=subcommands,
    )


def _lower(values: Any) -> frozenset[str]:
    return frozenset(value.decode("latin-1").lower() for value in values or ())
