"""Which commands may be run for a caller over HTTP, and for how long one may block.

The server's own command table decides: its flags and categories, those of subcommands included. A few
names are refused whatever the table says, since they would change a connection that the next request
gets. Nothing here talks to a server: :mod:`worker.execute` reads the table and asks.

Refused are commands
- that change a connection: of the category ``@connection`` (except the few of :data:`HARMLESS_CONNECTION`), of
  ``@transaction`` (``/multi-exec`` is the way) and the SUBSCRIBE family;
- that administer or endanger the server: with the flag ``admin``, and the few of :data:`ENDANGERS`;
- that may block for ever and whose timeout is not known here;
- with the read-only token: all that write, and all that may (scripts, PUBLISH).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from worker.protocol import Command

CONNECTION_BOUND = frozenset(
    (
        *("subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe", "monitor"),
        *("select", "auth", "hello", "quit", "reset", "client", "asking", "readonly", "readwrite", "himport"),
        *("multi", "exec", "discard", "watch", "unwatch", "sync", "psync", "replconf"),
    )
)
"""Refused by name, for servers that do not tell categories and for the pub/sub family, whose flag
PUBLISH has too."""

HARMLESS_CONNECTION = frozenset(("ping", "echo", "command", "wait", "waitaof"))

ENDANGERS = {
    "acl": "it administers the server",
    "migrate": "it makes the server connect to wherever the caller likes",
    "swapdb": "it exchanges databases under everybody's feet",
    "script|debug": "it would stop the connection in a debugger",
    "script|kill": "it would end another caller's script",
    "function|kill": "it would end another caller's function",
}
"""Refused although the table does not flag them ``admin``."""

PUBLISHING = frozenset(("publish", "spublish"))

SUBSCRIBING = frozenset(("subscribe", "psubscribe", "ssubscribe", "monitor"))


class Rule(NamedTuple):
    """What the server says of a command. Names, flags and categories are in lower case."""

    name: str
    """Its real name, ``config|set`` for a subcommand; a renamed command has another in the table."""
    flags: frozenset[str]
    categories: frozenset[str]
    subcommands: Mapping[str, Rule]


Table = Mapping[str, Rule]


def table_of(reply: list[Any]) -> dict[str, Rule]:
    """The rules in a reply to COMMAND or COMMAND INFO, undecoded; entries that are nil are left out."""
    return {rule.name: rule for entry in reply if entry for rule in (_rule(entry),)}


def _rule(entry: list[Any]) -> Rule:
    """Positions as the server's manual has them: name, arity, flags, three keys, categories (since 6),
    tips, key specifications, subcommands (since 7)."""
    return Rule(
        name=_word(entry[0]),
        flags=_words(entry[2]),
        categories=_words(entry[6]) if len(entry) > 6 else frozenset(),
        subcommands={
            rule.name.partition("|")[2]: rule
            for rule in (_rule(sub) for sub in (entry[9] if len(entry) > 9 else ()) or ())
        },
    )


def _word(value: bytes) -> str:
    return value.decode("latin-1").lower()


def _words(values: Any) -> frozenset[str]:
    return frozenset(_word(value) for value in values or ())


def name_of(command: Command) -> str:
    return _word(command[0])


def find(table: Table, command: Command) -> Rule | None:
    """The rule for a command, its subcommand's if it has one; None: the table does not know it."""
    rule = table.get(name_of(command))
    if rule is not None and rule.subcommands and len(command) > 1:
        return rule.subcommands.get(_word(command[1]), rule)
    return rule


def refusal(rule: Rule | None, command: Command, *, readonly: bool) -> str:
    """Why a command is not run, in the form of an error reply; empty if it may be."""
    typed = command[0].decode("utf-8", "replace").upper()
    name = name_of(command)
    names = {name}
    if len(command) > 1:  # old servers do not tell subcommands
        names.add(f"{name}|{_word(command[1])}")
    if rule is not None:
        names |= {rule.name, rule.name.partition("|")[0]}
        typed = f"{typed} {rule.name.partition('|')[2].upper()}".rstrip()
    if names & SUBSCRIBING:
        return f"ERR '{typed}' is not supported over HTTP: this service has no event streams"
    if names & CONNECTION_BOUND:
        hint = ": POST the commands to /multi-exec" if names & {"multi", "exec", "discard", "watch"} else ""
        return f"ERR '{typed}' is not allowed over HTTP, since connections are shared{hint}"
    for dangerous in names & ENDANGERS.keys():
        return f"ERR '{typed}' is not allowed over HTTP: {ENDANGERS[dangerous]}"
    if rule is None:
        return ""
    if ("@connection" in rule.categories and not names & HARMLESS_CONNECTION) or "@transaction" in rule.categories:
        return f"ERR '{typed}' is not allowed over HTTP, since connections are shared"
    if "admin" in rule.flags or any("admin" in sub.flags for sub in rule.subcommands.values()):
        return f"ERR '{typed}' is not allowed over HTTP: it administers the server"
    if "blocking" in rule.flags and not names & BOUNDS.keys():
        return f"ERR '{typed}' is not allowed over HTTP: it may block for ever"
    if readonly and _may_write(rule):
        return f"NOPERM this token is read-only: '{typed}' may write"
    return ""


def _may_write(rule: Rule) -> bool:
    """Scripts bear no write flag, since they may do either; nor does PUBLISH, which others get to see."""
    if "write" in rule.flags:
        return True
    if "readonly" in rule.flags:
        return False
    return "may_replicate" in rule.flags or "@scripting" in rule.categories or rule.name in PUBLISHING


# ---- blocking ----------------------------------------------------------------------------------

_LAST, _FIRST, _OPTION = "last", "first", "option"

BOUNDS: Mapping[str, tuple[str, int]] = {
    "blpop": (_LAST, 1),
    "brpop": (_LAST, 1),
    "brpoplpush": (_LAST, 1),
    "blmove": (_LAST, 1),
    "bzpopmin": (_LAST, 1),
    "bzpopmax": (_LAST, 1),
    "blmpop": (_FIRST, 1),
    "bzmpop": (_FIRST, 1),
    "xread": (_OPTION, 1000),
    "xreadgroup": (_OPTION, 1000),
    "wait": (_LAST, 1000),
    "waitaof": (_LAST, 1000),
}
"""Blocking commands: where their timeout stands, and its units in a second."""

_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def bounded(rule: Rule | None, command: Command, seconds: float) -> tuple[Command, bool]:
    """The command with its timeout cut to ``seconds``, and whether it blocks at all.

    A timeout of 0 means for ever, so it is cut too. One that is no number is left for the server to
    complain about.
    """
    name = rule.name if rule is not None else name_of(command)
    if name not in BOUNDS:
        return command, False
    place, units = BOUNDS[name]
    if place == _OPTION:
        at = _block_option(command)
    else:
        at = len(command) - 1 if place == _LAST else 1
    if not 0 < at < len(command):
        return command, False
    if not _NUMBER.fullmatch(command[at]):
        return command, True
    value = float(command[at])
    if value < 0 or 0 < value <= seconds * units:
        return command, True
    most = b"%d" % max(1, int(seconds * units)) if units > 1 else b"%.3f" % seconds
    return [*command[:at], most, *command[at + 1 :]], True


def _block_option(command: Command) -> int:
    """Where the number after BLOCK stands in XREAD and XREADGROUP; 0 if they do not block."""
    at = 1
    while at < len(command):
        match command[at].lower():
            case b"streams":
                return 0
            case b"block":
                return at + 1
            case b"group":
                at += 3
            case b"count":
                at += 2
            case _:
                at += 1
    return 0
