"""How long a blocking command may block: this reads its timeout as the server reads it, or refuses it. No I/O.

Servers accept more numbers than people expect: ``0x3e8`` (``strtold``), and ``-0.0005``, which they round up to zero,
forever. This module accepts only plain decimals, and writes the timeout itself, never the caller's bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from worker.protocol import Command

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
"""Blocking commands: the place of their timeout, and its units in a second."""

_SECONDS = re.compile(rb"(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?")
_MILLISECONDS = re.compile(rb"0|[1-9][0-9]{0,15}")
_MOST = 1e12
"""Seconds, above which the server complains too (it counts milliseconds in 63 bits)."""

NOT_SECONDS = "ERR timeout is not a float or out of range: send a plain decimal number of seconds, 0 or more"
NOT_MILLISECONDS = "ERR timeout is not an integer or out of range: send a plain whole number of milliseconds, 0 or more"
NOT_UNDERSTOOD = "ERR syntax error: only BLOCK, COUNT, GROUP, NOACK and CLAIM with their arguments may precede STREAMS"


class Blocking(NamedTuple):
    """A command that may block, taken apart.

    Attributes:
        before, after: the words before and after its timeout.
        seconds: of its timeout; 0: forever.
        units: of the timeout in a second.
    """

    before: Command
    seconds: float
    units: int
    after: Command

    def cut(self, most: float) -> Command:
        """The command to be sent, with a timeout of at most so many seconds."""
        seconds = min(self.seconds or most, most)
        milliseconds = max(1, math.ceil(seconds * 1000 - 1e-6))
        if self.units == 1000:
            written = b"%d" % milliseconds
        elif milliseconds % 1000:
            written = b"%d.%03d" % divmod(milliseconds, 1000)
        else:
            written = b"%d" % (milliseconds // 1000)
        return [*self.before, written, *self.after]


def read(name: str, command: Command) -> Blocking | Command | str:
    """A command of :data:`BOUNDS`, taken apart if it blocks; the command to send if it does not; or why it is refused.

    Args:
        name: its own name.
        command: with that name as its first word.
    """
    place, units = BOUNDS[name]
    if place == _OPTION:
        return _read_options(name, command, units)
    at = len(command) - 1 if place == _LAST else 1
    if not 0 < at < len(command):
        return command  # too short: the server refuses it
    seconds = _number(command[at], units)
    return seconds if isinstance(seconds, str) else Blocking(command[:at], seconds, units, command[at + 1 :])


def _number(text: bytes, units: int) -> float | str:
    if units == 1000:
        return int(text) / 1000 if _MILLISECONDS.fullmatch(text) else NOT_MILLISECONDS
    if not _SECONDS.fullmatch(text):
        return NOT_SECONDS
    value = float(text)
    if value > _MOST:
        return NOT_SECONDS
    # The server rounds up to milliseconds, so a timeout above 0 does not become 0 there either.
    return value if value or not _has_a_digit_but_zero(text) else 0.001


def _has_a_digit_but_zero(text: bytes) -> bool:
    return any(digit in b"123456789" for digit in re.split(rb"[eE]", text)[0])


def _read_options(name: str, command: Command, units: int) -> Blocking | Command | str:
    """XREAD and XREADGROUP. Of several BLOCKs the server takes the last."""
    before, seconds, at = command[:1], None, 1
    while at < len(command):
        word = command[at].upper()
        if word == b"STREAMS":
            rest = [word, *command[at + 1 :]]
            return [*before, *rest] if seconds is None else Blocking([*before, b"BLOCK"], seconds, units, rest)
        if word == b"BLOCK" and at + 1 < len(command):
            found = _number(command[at + 1], units)
            if isinstance(found, str):
                return found
            seconds, at = found, at + 2
            continue
        takes = _TAKES.get((name, word), -1)
        if takes < 0 or at + takes >= len(command):
            return NOT_UNDERSTOOD
        before += [word, *command[at + 1 : at + 1 + takes]]
        at += 1 + takes
    return NOT_UNDERSTOOD


_TAKES = {
    ("xread", b"COUNT"): 1,
    ("xreadgroup", b"COUNT"): 1,
    ("xreadgroup", b"GROUP"): 2,
    ("xreadgroup", b"NOACK"): 0,
    ("xreadgroup", b"CLAIM"): 1,
}
"""How many arguments an option takes."""
