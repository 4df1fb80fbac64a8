"""What a command does to its connection's session: PubSub, MONITOR, WATCH, MULTI, another login or database.

Pure: arguments in, a state and a number of replies out.
"""

from __future__ import annotations

from typing import Any

import hiredis

WATCHING = 1 << 40
MULTI = 1 << 41
IDENTITY = 1 << 42
"""AUTH or HELLO: whose session it is. Part of connecting; afterwards the caller's own doing."""
STRANGE = 1 << 43
"""A state that only a new connection ends: subscriptions, MONITOR, another database."""
OUTSTANDING = (1 << 40) - 1
"""The bits below these: replies to come."""
PLAIN = 0
SPECIAL = 1
SUBSCRIPTIONS = frozenset(("SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE", "SSUBSCRIBE", "SUNSUBSCRIBE"))
STATEFUL = SUBSCRIPTIONS | frozenset(
    (
        "AUTH", "DISCARD", "EXEC", "HELLO", "MONITOR", "MULTI", "PSYNC", "QUIT", "REPLCONF", "RESET",
        "SCRIPT", "SELECT", "SYNC", "UNWATCH", "WATCH",
    )
)  # fmt: skip
KINDS: dict[Any, int] = {}
"""The kind of each command's first argument, as the caller wrote it."""
KINDS_LIMIT = 4096
ORDINARY: set[str] = set()
"""Of these the names that are plain and one word: hiredis packs them as they are."""


def outstanding(owed: int) -> int:
    """How many replies are to come, of a number as :mod:`poolmgr.pool.owed` keeps it. Under MONITOR more come than were
    asked for, and the number falls below 0."""
    count = owed & OUTSTANDING
    return count if count <= OUTSTANDING >> 1 else 0


def _text(argument: object) -> str:
    if isinstance(argument, str):
        return argument
    if isinstance(argument, (bytes, bytearray, memoryview)):
        return bytes(argument).decode("latin-1")
    return str(argument)


def classify(name: object) -> int:
    """Whether a command may change more than data. Remembers its answer."""
    words = _text(name).split(None, 1)
    kind = SPECIAL if words and words[0].upper() in STATEFUL else PLAIN
    if len(KINDS) < KINDS_LIMIT and type(name) in (str, bytes):  # a subclass's object may keep anything alive
        KINDS[name] = kind
        if kind == PLAIN and type(name) is str and words == [name]:
            ORDINARY.add(words[0])
    return kind


def kind(name: object) -> int:
    try:
        known = KINDS.get(name)
    except TypeError:  # a bytearray
        known = None
    return classify(name) if known is None else known


def effect(state: int, args: tuple[Any, ...] | list[Any], database: int) -> tuple[int, int]:
    """The state after a special command, and how many replies it will bring that are read as such."""
    words = [*_text(args[0]).upper().split(), *(_text(a).upper() for a in args[1:3])]
    name, first = words[0], words[1] if len(words) > 1 else ""
    if name in SUBSCRIPTIONS:
        return state | STRANGE, 0
    if name == "SCRIPT":
        return (state | STRANGE if first == "DEBUG" else state), 1
    if name == "WATCH":
        return state | WATCHING, 1
    if name == "UNWATCH":
        return (state if state & MULTI else state & ~WATCHING), 1
    if name == "MULTI":
        return state | MULTI, 1
    if name in ("EXEC", "DISCARD"):
        return state & ~(MULTI | WATCHING), 1
    if name in ("AUTH", "HELLO"):
        return state | IDENTITY, 1
    if name == "SELECT":
        return (state if first == str(database) else state | STRANGE), 1
    return state | STRANGE, 1  # MONITOR, SYNC, PSYNC, QUIT, REPLCONF, RESET


def unpack(chunks: object) -> list[list[Any]] | None:
    """The commands in bytes that the caller packed; None if the bytes cannot be read as commands."""
    reader = hiredis.Reader(notEnoughData=unpack)
    found: list[list[Any]] = []
    try:
        if isinstance(chunks, str):
            reader.feed(chunks.encode())
        elif isinstance(chunks, (bytes, bytearray, memoryview)):
            reader.feed(bytes(chunks))
        else:
            for chunk in chunks:  # type: ignore[attr-defined]
                reader.feed(bytes(chunk))
        while (command := reader.gets(False)) is not unpack:
            if not isinstance(command, list) or not command:
                return None
            found.append(command)
        return None if reader.has_data() else found
    except Exception:  # not a command, whatever it was
        return None
