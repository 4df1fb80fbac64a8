"""Which server connections with given arguments reach, as the supervisor is told it: a
:class:`poolmgr.wire.Endpoint`."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

from redis.connection import SSLConnection, UnixDomainSocketConnection

from poolmgr import certificates
from poolmgr.pool.entry import PoolEntry
from poolmgr.pool.sync.overrides import dials_its_own_way
from poolmgr.wire import Endpoint


def absolute(path: Any) -> str:
    """A path as any process of this host can use it, whatever its working directory.

    Args:
        path: str, bytes or a :class:`pathlib.Path`.
    """
    text = os.fsdecode(path)
    if text.startswith(("/", "\0")):
        return text
    try:
        return os.path.join(os.getcwd(), text.removeprefix("./"))  # no normpath: ".." may follow a link
    except FileNotFoundError:  # the working directory was removed
        return text


def key_of(host: str | None, port: int | None, path: str | None) -> str:
    """The name of an endpoint: ``tcp://host:port`` or ``unix:///path``."""
    if path:
        return f"unix://{absolute(path)}"
    return f"tcp://{host or 'localhost'}:{port or 6379}"


def is_name(host: str | None) -> bool:
    """Whether it must be looked up."""
    try:
        ipaddress.ip_address((host or "localhost").partition("%")[0])
    except ValueError:
        return True
    return False


def endpoint_of(
    connection_class: type,
    arguments: dict[str, Any],
    host: str | None,
    port: int | None,
    address: str = "",
    *,
    among: bool = False,
    own: bool = False,
) -> Endpoint:
    """How the supervisor reaches the server that connections with these arguments reach.

    Args:
        address: where the host's name leads; empty: the host is an address, or stays a name.
        among: the name leads to other addresses as well.
        own: the connections get there in a way of their own.
    """
    username, password = arguments.get("username"), arguments.get("password")
    provider = arguments.get("credential_provider")
    if provider is not None:
        credentials = tuple(provider.get_credentials())
        username, password = credentials if len(credentials) == 2 else (None, *credentials)
    path = arguments.get("path") if issubclass(connection_class, UnixDomainSocketConnection) else None
    tls: dict[str, str | bool | int] | None = None
    if issubclass(connection_class, SSLConnection):
        tls = {k: v for k, v in arguments.items() if k.startswith("ssl_") and isinstance(v, (str, bool, int))}
        tls.update({k: absolute(arguments[k]) for k in certificates.FILES if arguments.get(k)})
    return Endpoint(
        key=key_of(address or host, port, path),
        host="" if path else (host or "localhost"),
        address="" if path else address,
        among=among,
        own=own,
        port=0 if path else int(port or 6379),
        path=absolute(path) if path else "",
        username=username,
        password=password,
        tls=tls,
    )


def has_own_way(connection_class: type) -> bool:
    """Whether connections of this class, pooled or not, get to a server in a way of their own: by a tunnel, perhaps."""
    if issubclass(connection_class, PoolEntry):
        return bool(getattr(connection_class, "_own_way", False))
    return hasattr(connection_class, "_connect") and dials_its_own_way(connection_class)


_TLS = {
    "ssl_keyfile": "keyfile", "ssl_certfile": "certfile", "ssl_cert_reqs": "cert_reqs", "ssl_ca_certs": "ca_certs",
    "ssl_ca_data": "ca_data", "ssl_ca_path": "ca_path", "ssl_check_hostname": "check_hostname",
    "ssl_password": "certificate_password", "ssl_min_version": "ssl_min_version", "ssl_ciphers": "ssl_ciphers",
}  # fmt: skip
"""Arguments of redis-py's TLS connections, and the attributes that keep them."""


def arguments_of(connection: Any) -> dict[str, Any]:
    """The arguments for a connection's server and user, from the connection itself."""
    names = {name: name for name in ("username", "password", "credential_provider", "path")}
    found = {name: getattr(connection, attribute, None) for name, attribute in {**names, **_TLS}.items()}
    requirement = found["ssl_cert_reqs"]
    if requirement is not None:  # redis-py keeps what ssl calls it
        found["ssl_cert_reqs"] = requirement.name.removeprefix("CERT_").lower()
    return found
