"""Which commands may be run for a caller over HTTP. A command that this module does not understand is refused.

The server's own table (:mod:`worker.table`) decides: its flags and categories, those of subcommands included. A few
names are refused whatever the table says, since they would change a connection that the next request
gets. This module writes the command to send, in the table's own spelling; only the arguments are the caller's bytes.
No I/O: :mod:`worker.catalog` reads the table.

It refuses
- names that are not in the table, and subcommands that their container does not have;
- commands that change a connection: of the category ``@connection`` (except the few of :data:`HARMLESS_CONNECTION`), of
  ``@transaction`` (use ``/multi-exec``) and the SUBSCRIBE family;
- commands that administer or endanger the server: with the flag ``admin``, and the few of :data:`ENDANGERS`;
- commands that may block forever and whose timeout is not known here (:mod:`worker.timeouts`);
- the few commands of :data:`REPEATING` and :data:`DRAWING`, if an argument says how long their reply is;
- those of :data:`ECHOING`, if an argument has a line break;
- with the read-only token: all commands but those that the table marks ``readonly`` and neither ``@scripting``,
  ``@dangerous`` nor ``@admin``, and the few of :data:`HARMLESS`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from worker import timeouts
from worker.protocol import Command
from worker.table import WELL_FORMED, Rule, Table

CONNECTION_BOUND = frozenset(
    (
        *("subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe", "monitor"),
        *("select", "auth", "hello", "quit", "reset", "client", "asking", "readonly", "readwrite", "himport"),
        *("multi", "exec", "discard", "watch", "unwatch", "sync", "psync", "replconf"),
    )
)
"""Refused by name: for servers that do not list categories, and for the pub/sub family, whose flag
PUBLISH has too."""

HARMLESS_CONNECTION = frozenset(("ping", "echo", "command", "wait", "waitaof"))

HARMLESS = frozenset(("ping", "echo", "time"))
"""Allowed with the read-only token although no table marks them ``readonly``: they touch no key."""

ENDANGERS = {
    "acl": "it administers the server",
    "migrate": "it makes the server connect to wherever the caller likes",
    "swapdb": "it exchanges databases that others are using",
    "script|debug": "it would stop the connection in a debugger",
}
"""Refused although the table does not flag them ``admin``."""

KILLS = frozenset(("script|kill", "function|kill"))
"""They name no target, and end whatever script runs: with the full token allowed alone, while the server is BUSY."""

SUBSCRIBING = frozenset(("subscribe", "psubscribe", "ssubscribe", "monitor"))

READING_SCRIPTS = frozenset(("eval_ro", "evalsha_ro", "fcall_ro"))

BEYOND_READING = ("@scripting", "@dangerous", "@admin")

REPEATING = frozenset(("srandmember", "hrandfield", "zrandmember"))
"""With a negative count they give the same elements again and again, so one is enough for a reply of any length."""

DRAWING = frozenset(("lolwut",))
"""Their arguments say how much they draw: a few words cost 25 MB and a third of a second of the server's time."""

ECHOING = frozenset(("function|list",))
"""Valkey's errors repeat an argument of these with its line breaks, and what follows one would be another reply."""

_REPEATS = re.compile(rb"-[1-9][0-9]{0,3}")
"""Negative counts that are allowed. Servers take no blank, no plus and no zero before a number here."""

UNTOLD = {
    "object": frozenset(("encoding", "freq", "idletime", "refcount")),
    "memory": frozenset(("usage",)),
    "xinfo": frozenset(("stream", "groups", "consumers")),
}
"""Subcommands that only read, for servers that do not tell subcommands (before Redis 7)."""


class Allowed(NamedTuple):
    """The command may be run.

    Attributes:
        command: the command to send, in full; for a blocking command the timeout is in :attr:`blocking`.
        blocking: set if it may block.
        kills: it may be run alone, and while the server is BUSY.
    """

    command: Command
    blocking: timeouts.Blocking | None = None
    kills: bool = False


class Refused(NamedTuple):
    """The command is refused.

    Attributes:
        why: in the form of an error reply.
        unknown: refused because the table does not have it; a newer table may.
    """

    why: str
    unknown: bool = False


class _Entry(NamedTuple):
    """The decision about a command that does not depend on the caller."""

    rule: Rule
    full: str
    """Why the full token may not run it; empty if it may."""
    readonly: str
    subcommands: dict[bytes, _Entry]


class Policy:
    """The decisions over one table.

    Args:
        table: the table of the server that will run the commands.
        readonly_scripts: whether the read-only token may run scripts that only read.
    """

    def __init__(self, table: Table, *, readonly_scripts: bool = False) -> None:
        self.table = table
        self._scripts = readonly_scripts
        self._entries = {name: self._entry(rule) for name, rule in table.items()}

    def knows(self, *names: bytes) -> bool:
        """Whether the server has these commands under their own names."""
        return all(name in self.table for name in names)

    def decide(self, command: Command, *, readonly: bool) -> Allowed | Refused:
        """Whether a command may be run, and the command to send then.

        Args:
            command: as the caller sent it.
            readonly: whether its token only allows reading.
        """
        entry = self._entries.get(command[0].lower())  # of bytes: ASCII letters only, as the server does
        if entry is None:
            why = malformed(command)
            return Refused(why or _unknown(command), unknown=not why)
        rest = 1
        if entry.subcommands and len(command) > 1:
            found = entry.subcommands.get(command[1].lower())
            if found is None:
                return Refused(_unknown_subcommand(entry, command), unknown=bool(WELL_FORMED.fullmatch(command[1])))
            entry, rest = found, 2
        elif not entry.rule.subcommands and len(command) > 1 and _may_have_subcommands(entry.rule):
            why = self._untold(entry.rule, command[1], readonly=readonly)
            if why:
                return Refused(why)
        why = entry.readonly if readonly else entry.full
        if why:
            return Refused(why)
        rule = entry.rule
        sent = [*rule.words, *command[rest:]]
        if rule.name in timeouts.BOUNDS:
            return _bounded(rule, sent)
        if rule.name in REPEATING and len(sent) > 2 and sent[2].startswith(b"-") and not _REPEATS.fullmatch(sent[2]):
            return Refused("ERR value is out of range: a negative count is from -1 to -9999 here")
        if rule.name in DRAWING and len(sent) > 1:
            return Refused(f"ERR '{_title(rule)}' takes no arguments here: they say how long its reply is")
        if rule.name in ECHOING and any(b"\r" in word or b"\n" in word for word in command[rest:]):
            return Refused(f"ERR an argument of '{_title(rule)}' has no line break here: the server would repeat it")
        return Allowed(sent, kills=rule.name in KILLS)

    # ---- before any caller comes -----------------------------------------------------------------

    def _entry(self, rule: Rule) -> _Entry:
        subcommands = {name: self._entry(sub) for name, sub in rule.subcommands.items()}
        full = _refusal(rule)
        if not full and subcommands and rule.arity != -1:  # the bare name of a container runs nothing
            full = _and_others(sub.full for sub in subcommands.values()) or _too_short(rule)
        return _Entry(rule, full, full or self._reading(rule), subcommands)

    def _reading(self, rule: Rule) -> str:
        """Why a command is more than reading."""
        title = _title(rule)
        if rule.name in HARMLESS:
            return ""
        if "readonly" not in rule.flags or rule.flags & {"write", "admin"}:
            return f"NOPERM this token is read-only: the server does not list '{title}' among what only reads"
        if rule.categories is None:
            return f"NOPERM this token is read-only: the server does not tell what '{title}' belongs to"
        if rule.name in READING_SCRIPTS:
            allowed = "" if self._scripts else f"'{title}' runs a script, which WORKER_READONLY_SCRIPTS=1 allows"
            return allowed and f"NOPERM this token is read-only: {allowed}"
        for category in BEYOND_READING:
            if category in rule.categories:
                return f"NOPERM this token is read-only: '{title}' is {category}"
        return ""

    def _untold(self, rule: Rule, word: bytes, *, readonly: bool) -> str:
        """Why a subcommand is refused that the server does not tell."""
        if not WELL_FORMED.fullmatch(word):
            return _MALFORMED_SUBCOMMAND
        sub = word.decode("ascii").lower()
        if f"{rule.name}|{sub}" in ENDANGERS.keys() | KILLS:
            return f"ERR '{_title(rule)} {sub.upper()}' is not allowed over HTTP"
        if readonly and sub not in UNTOLD.get(rule.name, ()):
            return (
                f"NOPERM this token is read-only: the server does not tell whether '{_title(rule)} {sub.upper()}' reads"
            )
        return ""


def malformed(command: Command) -> str:
    """Why a text cannot be a command's name, whatever the server's table says; empty if it can."""
    return "" if WELL_FORMED.fullmatch(command[0]) else _MALFORMED


_CHARACTERS = "the name consists of letters, digits, '.', '_' and '-'"
_MALFORMED = f"ERR this is not a command's name: {_CHARACTERS}"
_MALFORMED_SUBCOMMAND = f"ERR this is not a subcommand's name: {_CHARACTERS}"


def _unknown(command: Command) -> str:
    name = command[0][:60].decode("ascii")
    return f"ERR unknown command '{name}': the server does not list it (COMMAND) under this name"


def _unknown_subcommand(entry: _Entry, command: Command) -> str:
    if not WELL_FORMED.fullmatch(command[1]):
        return _MALFORMED_SUBCOMMAND
    name = command[1][:60].decode("ascii")
    if entry.full and not entry.full.startswith("ERR wrong"):  # the whole container is refused
        return entry.full
    return f"ERR unknown subcommand '{name}': the server does not list it among those of {_title(entry.rule)}"


def _too_short(rule: Rule) -> str:
    return f"ERR wrong number of arguments for '{rule.name}' command"


def _and_others(whys: object) -> str:
    return next((why for why in whys if "administers" in why), "")  # type: ignore[attr-defined]


def _may_have_subcommands(rule: Rule) -> bool:
    return rule.name in UNTOLD or rule.name in _CONTAINERS


_CONTAINERS = frozenset(name.partition("|")[0] for name in (*ENDANGERS, *KILLS) if "|" in name) | {"xgroup", "pubsub"}
"""Commands with subcommands, for servers that do not tell them, beside those that are refused as a whole."""


def _title(rule: Rule) -> str:
    return rule.name.replace("|", " ").upper()


def _refusal(rule: Rule) -> str:
    """Why a command is run for no caller at all."""
    title, container = _title(rule), rule.name.partition("|")[0]
    names = {rule.name, container}
    categories = rule.categories or frozenset()
    if names & SUBSCRIBING:
        return f"ERR '{title}' is not supported over HTTP: this service has no event streams"
    if names & CONNECTION_BOUND or ("@connection" in categories and not names & HARMLESS_CONNECTION):
        hint = ": POST the commands to /multi-exec" if names & {"multi", "exec", "discard", "watch"} else ""
        return f"ERR '{title}' is not allowed over HTTP, since connections are shared{hint}"
    for dangerous in names & ENDANGERS.keys():
        return f"ERR '{title}' is not allowed over HTTP: {ENDANGERS[dangerous]}"
    if "@transaction" in categories:
        return f"ERR '{title}' is not allowed over HTTP, since connections are shared"
    if "admin" in rule.flags or "@admin" in categories:
        return f"ERR '{title}' is not allowed over HTTP: it administers the server"
    if "blocking" in rule.flags and rule.name not in timeouts.BOUNDS:
        return f"ERR '{title}' is not allowed over HTTP: it may block forever"
    return ""


def _bounded(rule: Rule, sent: Command) -> Allowed | Refused:
    match timeouts.read(rule.name, sent):
        case timeouts.Blocking() as blocking:
            return Allowed(sent, blocking)
        case str() as why:
            return Refused(why)
        case command:
            return Allowed(command)
