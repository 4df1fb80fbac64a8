"""Which file an error of TLS's set-up is about. Neither OpenSSL nor Python says that. Such an error says nothing about
the server."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any

FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
"""redis-py's arguments that name files."""


def meant(error: BaseException, files: Mapping[str, Any]) -> str:
    """The files that an error of TLS is about, as text; empty if it is about none.

    Args:
        files: the values of :data:`FILES` that are set.
    """
    if isinstance(error, (TimeoutError, ConnectionError, ssl.SSLEOFError)):
        return ""
    known = {name: os.fsdecode(path) for name, path in files.items() if isinstance(path, (str, bytes, os.PathLike))}
    if not known:
        return ""
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = {name: path for name, path in known.items() if name in ("ssl_ca_certs", "ssl_ca_path")}
        return _words(trusted)
    return _words({name: path for name, path in known.items() if not os.access(path, os.R_OK)} or known)


def _words(files: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {path!r}" for name, path in files.items())


def of(connection: Any) -> dict[str, Any]:
    """The values of :data:`FILES` that a TLS connection of redis-py's keeps."""
    kept = {name: getattr(connection, name.removeprefix("ssl_"), None) for name in FILES}
    return {name: path for name, path in kept.items() if path}


def name(error: BaseException, files: Mapping[str, Any]) -> None:
    """Add to an error of redis-py's the files that it is about, if it is about files."""
    below = _unusable(error) if files else None
    words = "" if below is None else meant(below, files)
    if words and words not in str(error):
        error.args = (f"{error.args[0] if error.args else below} ({words})", *error.args[1:])


def unusable(error: BaseException, *, tls: bool) -> bool:
    """Whether TLS could not be set up with the client's own files: that says nothing about the server.

    Args:
        tls: whether the connection uses TLS.
    """
    return tls and _unusable(error) is not None


def _unusable(error: BaseException | None) -> BaseException | None:
    while error is not None:
        ended = isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, TimeoutError, ConnectionError))
        if isinstance(error, ssl.SSLError) and not ended:
            return error
        if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
            return error
        error = error.__cause__ or error.__context__
    return None
