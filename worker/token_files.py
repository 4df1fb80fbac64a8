"""Tokens that lie in files, as a container gets its secrets: ``WORKER_TOKEN_FILE``, ``WORKER_READONLY_TOKEN_FILE``.

A file may get another token while the service runs: a Kubernetes secret is updated in place, by another symbolic link.
So a file is read again when a request comes and the last look was a second ago. A file that cannot be read then, or
that holds no token, changes nothing: the last token stays, and the log says why.

A master reads the files when it starts, and refuses to start without a token. It does not follow them, so its workers
inherit nothing: a token that was replaced must not come back with a new worker.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time

from poolmgr.errors import SettingsError
from poolmgr.logs import redaction
from poolmgr.settings import Settings, parsers

log = logging.getLogger("poolmgr.worker")

LOOK_EVERY = 1.0
"""Seconds between two looks at a file."""

LONGEST = 4096
"""Bytes of a file: more is no token."""

REMEDY = "write one token into the file: printable ASCII without spaces; a newline at its end does not count"


class TokenFile:
    """One file. Safe in all threads: two that look at the same time read the same."""

    def __init__(self, variable: str, path: str) -> None:
        self.variable, self.path = variable, path
        self._text = ""
        self._looked = float("-inf")
        self._complained = ""

    def latest(self) -> str:
        """The token.

        Raises:
            SettingsError: there is none, and never was in this process.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY and self._text:
            return self._text
        self._looked = now
        try:
            found = self.read()
        except SettingsError as error:
            if self._complained != str(error):
                self._complained = str(error)
                log.error("worker.token_file", extra={"path": self.path, "error": str(error), "remedy": REMEDY})
            if not self._text:
                raise
            return self._text
        self._complained = ""
        before, self._text = self._text, found
        if before not in ("", found):
            log.info("worker.token_changed", extra={"variable": self.variable, "path": self.path})
        return found

    def read(self) -> str:
        """The token in the file now.

        Raises:
            SettingsError: one line: the file cannot be read, or holds no token.
        """
        where = f"{self.variable}={self.path!r}"
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait for its writer
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise SettingsError(f"{where} is not a file; {REMEDY}")
                data = os.read(fd, LONGEST + 1)
            finally:
                os.close(fd)
        except OSError as error:
            who = f" by uid {os.geteuid()}" if error.errno == errno.EACCES else ""
            raise SettingsError(f"{where} cannot be read{who} ({error.strerror}); {REMEDY}") from None
        text = data.decode("latin-1").strip()
        if not text:
            raise SettingsError(f"{where} is empty; {REMEDY}")
        if len(data) > LONGEST:
            raise SettingsError(f"{where} has more than {LONGEST} bytes; {REMEDY}")
        try:
            parsers.token(text)
        except ValueError as error:
            raise SettingsError(f"{where} holds no token ({error}); {REMEDY}") from None
        redaction.hide(text)
        return text


def full(settings: Settings) -> TokenFile | None:
    """The file of the token that may do everything, if one is set."""
    path = settings.worker_token_file
    return TokenFile("WORKER_TOKEN_FILE", path) if path is not None else None


def readonly(settings: Settings) -> TokenFile | None:
    path = settings.worker_readonly_token_file
    return TokenFile("WORKER_READONLY_TOKEN_FILE", path) if path is not None else None


def check(settings: Settings) -> None:
    """From a starting master: read all files.

    Raises:
        SettingsError: one cannot be used, or both tokens are the same.
    """
    one, other = full(settings), readonly(settings)
    found = {file.variable: file.read() for file in (one, other) if file}
    everything = found.get("WORKER_TOKEN_FILE", settings.worker_token)
    reads = found.get("WORKER_READONLY_TOKEN_FILE", settings.worker_readonly_token)
    if reads is not None and reads == everything:
        name = "WORKER_READONLY_TOKEN_FILE" if other else "WORKER_READONLY_TOKEN"
        raise SettingsError(f"{name} has the token that allows everything; set it to another token, or unset it")
