"""Which server connections with given arguments reach, as members name it to the supervisor: a
:class:`poolmgr.wire.Endpoint`."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

import msgspec

from poolmgr import certificates
from poolmgr.wire import Endpoint

SOCKETLESS = frozenset({"fakeredis"})
"""Packages whose connections derive from redis-py's and open no socket."""


class Way(msgspec.Struct, frozen=True):
    """How connections of one class get to their server. Only a pool's flavour can say it: its classes are others than
    another flavour's."""

    tcp: bool
    tls: bool
    unix: bool
    own: bool
    """Foreign code stands between a connect and the socket: a tunnel, perhaps."""


def opens_no_socket(connection_class: object) -> bool:
    """Whether connections of this class live in the process's memory.

    A class says so by an attribute ``opens_no_socket = True``.
    """
    if getattr(connection_class, "opens_no_socket", False) is True:
        return True
    modules = (kind.__module__.partition(".")[0] for kind in getattr(connection_class, "__mro__", ()))
    return not SOCKETLESS.isdisjoint(modules)


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
    way: Way, arguments: dict[str, Any], host: str | None, port: int | None, address: str = "", *, among: bool = False
) -> Endpoint:
    """How the supervisor reaches the server that connections with these arguments reach.

    Args:
        address: where the host's name leads; empty: the host is an address, or stays a name.
        among: the name leads to other addresses as well.
    """
    username, password = arguments.get("username"), arguments.get("password")
    provider = arguments.get("credential_provider")
    if provider is not None:
        credentials = tuple(provider.get_credentials())
        username, password = credentials if len(credentials) == 2 else (None, *credentials)
    path = arguments.get("path") if way.unix else None
    tls: dict[str, str | bool | int] | None = None
    if way.tls:
        tls = {k: v for k, v in arguments.items() if k.startswith("ssl_") and isinstance(v, (str, bool, int))}
        tls.update({k: absolute(arguments[k]) for k in certificates.FILES if arguments.get(k)})
    return Endpoint(
        key=key_of(address or host, port, path),
        host="" if path else (host or "localhost"),
        address="" if path else address,
        among=among,
        own=way.own,
        port=0 if path else int(port or 6379),
        path=absolute(path) if path else "",
        username=username,
        password=password,
        tls=tls,
    )


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
