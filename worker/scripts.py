"""Scripts for Upstash: remove flags in a script's first line that only Upstash's servers know. No I/O.

``#!lua flags=allow-key-locking`` has Upstash lock the script's keys instead of the whole database; without it the
script does the same. The script that runs then has another hash, and callers know the hash of what they wrote. So a
process remembers which hash became which. It does not know the scripts that other processes received: EVALSHA answers
NOSCRIPT for these, and clients then send the script itself.
"""

from __future__ import annotations

import re
from hashlib import sha1

from worker.protocol import Command

FOREIGN = frozenset((b"allow-key-locking",))

MOST = 4096
"""Scripts that are remembered; one more, and all of them are forgotten."""

_FIRST_LINE = re.compile(rb"#!lua[ \t]+flags=([^\s\"']*)[ \t\r]*\n")

_SCRIPT_AT = {(b"eval",): 1, (b"eval_ro",): 1, (b"script", b"load"): 2}
_HASHES_AT = {
    (b"evalsha",): slice(1, 2),
    (b"evalsha_ro",): slice(1, 2),
    (b"script", b"exists"): slice(2, None),
}
_NAMES = frozenset(words[0] for words in (*_SCRIPT_AT, *_HASHES_AT))


class Scripts:
    """One for a process; safe in all threads and greenlets."""

    def __init__(self) -> None:
        self._became: dict[bytes, bytes] = {}

    def translate(self, command: Command) -> Command:
        """The command to send.

        Args:
            command: with its own name first, in any case.
        """
        name = command[0].lower()
        if name not in _NAMES or len(command) < 2:
            return command
        words = (name, command[1].lower()) if name == b"script" else (name,)
        at = _SCRIPT_AT.get(words)
        if at is not None and at < len(command):
            return [*command[:at], self._plain(command[at]), *command[at + 1 :]]
        hashes = _HASHES_AT.get(words)
        if hashes is not None and self._became:
            command = list(command)
            command[hashes] = [self._became.get(one.lower(), one) for one in command[hashes]]
        return command

    def _plain(self, script: bytes) -> bytes:
        found = _FIRST_LINE.match(script)
        flags = found[1].split(b",") if found else []
        kept = [flag for flag in flags if flag not in FOREIGN]
        if found is None or kept == flags:
            return script
        # Its line stays, for the numbers in what the server says of the others.
        line = b"#!lua flags=" + b",".join(kept) if kept else b""
        plain = line + b"\n" + script[found.end() :]
        if len(self._became) >= MOST:
            self._became = {}
        self._became[_hash(script)] = _hash(plain)
        return plain


def _hash(script: bytes) -> bytes:
    return sha1(script, usedforsecurity=False).hexdigest().encode()
