"""Bearer tokens of callers, compared in constant time."""

from __future__ import annotations

import hmac
from urllib.parse import unquote_plus

from poolmgr.settings import Settings
from worker import token
from worker.errors import Problem
from worker.protocol import is_token


class Gate:
    """The tokens of this service. It reads the file of a generated token when first asked, not before:
    with ``--preload`` the application is imported before the master has begun."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._full = b""
        self._readonly = (settings.worker_readonly_token or "").encode()

    def readonly(self, authorization: str | None, query: str) -> bool:
        """Whether the caller may only read.

        Args:
            authorization: the header of that name; it overrides ``?_token=``.
            query: as it was sent, percent-encoded.

        Raises:
            Problem: there is no token, or a wrong one (401).
        """
        given = _given(authorization, query)
        if not given:
            raise Problem(401, "Unauthorized: send the header 'Authorization: Bearer TOKEN'")
        offered = given.encode("utf-8", "surrogatepass")
        full = hmac.compare_digest(offered, self._token())
        readonly = bool(self._readonly) and hmac.compare_digest(offered, self._readonly)
        if not full and not readonly:
            raise Problem(401, "Unauthorized: the token is wrong")
        return not full

    def _token(self) -> bytes:
        if not self._full:
            made = self._settings.worker_token
            self._full = (made if made is not None else token.current(self._settings)).encode()
        return self._full


def _given(authorization: str | None, query: str) -> str:
    if authorization:
        scheme, _, value = authorization.strip().partition(" ")
        return value.strip() if scheme.lower() == "bearer" else ""
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if is_token(name):
            return unquote_plus(value)
    return ""
