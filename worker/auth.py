"""Bearer tokens of callers, compared in constant time."""

from __future__ import annotations

import hmac
from urllib.parse import unquote_plus

from poolmgr.errors import SettingsError
from poolmgr.settings import Settings
from worker import token, token_files
from worker.errors import Problem
from worker.protocol import is_token


class Gate:
    """The tokens of this service. It reads the file of a generated token when first asked, not before:
    with ``--preload`` the application is imported before the master has begun."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._full = b""
        self._readonly = (settings.worker_readonly_token or "").encode()
        self._full_file = token_files.full(settings)
        self._readonly_file = token_files.readonly(settings)

    def readonly(self, authorization: str | None, query: str) -> bool:
        """Whether the caller may only read.

        Args:
            authorization: the header of that name; it overrides ``?_token=``.
            query: as it was sent, percent-encoded.

        Raises:
            Problem: there is no token, or a wrong one (401); this service has none itself (503).
        """
        given = _given(authorization, query)
        if not given:
            raise Problem(401, "Unauthorized: send the header 'Authorization: Bearer TOKEN'")
        offered = given.encode("utf-8", "surrogatepass")
        full = hmac.compare_digest(offered, self._token())
        reads = self._readonly_token()
        readonly = bool(reads) and hmac.compare_digest(offered, reads)
        if not full and not readonly:
            raise Problem(401, "Unauthorized: the token is wrong")
        return readonly  # a file may have got the token that allows everything, by mistake

    def _readonly_token(self) -> bytes:
        return _of(self._readonly_file) if self._readonly_file else self._readonly

    def _token(self) -> bytes:
        if self._full_file:
            return _of(self._full_file)
        if not self._full:
            made = self._settings.worker_token
            self._full = (made if made is not None else token.current(self._settings)).encode()
        return self._full


def _of(file: token_files.TokenFile) -> bytes:
    try:
        return file.latest().encode()
    except SettingsError:  # the log says why
        raise Problem(503, "this service has no token: see its log", retry_after=1) from None


def _given(authorization: str | None, query: str) -> str:
    if authorization:
        scheme, _, value = authorization.strip().partition(" ")
        return value.strip() if scheme.lower() == "bearer" else ""
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if is_token(name):
            return unquote_plus(value)
    return ""
