"""A connection's name on its server: the permit's goes into the client name and into LIB-NAME.

A server, or a proxy before it, may not take our name, which redis-py would not have sent. Then the connection goes
without it, and the supervisor hears of that.
"""

from __future__ import annotations

from typing import Any

from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as RedisConnectionError

from poolmgr.member.ports import Permit


class _Unset:
    """No name was kept yet."""


class Named:
    """Mixed into pooled connections of every flavour."""

    client_name: Any
    driver_info: Any
    _origin: Any

    _given_name: Any = _Unset
    _given_info: DriverInfo | None = None
    _naming = False
    """Our name was, or may have been, sent to the server, which has not answered that yet."""
    _nameless = False
    """This attempt goes without our name."""
    _gated = False
    """In a fleet: the connection needs its name, and asks a gate."""
    _passed = False
    """It has asked."""

    def _name(self, permit: Permit) -> None:
        """Carry the permit's name in the client name and in LIB-NAME."""
        if self._given_name is _Unset:
            self._given_name, self._given_info = self.client_name, self.driver_info
        if not permit.name:
            return
        self._gated, self._passed = getattr(permit, "gate", None) is not None, False
        origin = self._origin
        if (
            not self._gated
            and not self._given_name
            and (self._nameless or (origin is not None and origin.goes_nameless(self)))
        ):
            self.client_name = self._given_name
        else:
            self.client_name = f"{self._given_name}:{permit.name}" if self._given_name else permit.name
        info = self._given_info
        if info is not None:
            library = info.formatted_name
            self.driver_info = DriverInfo(
                name=f"{library}:{permit.name}" if library else permit.name, lib_version=info.lib_version
            )

    @property
    def _name_is_ours(self) -> bool:
        """Whether it has a name that redis-py would not have given it."""
        return self._given_name is not _Unset and not self._given_name and bool(self.client_name)

    def _name_is_in_the_way(self, error: Exception) -> bool:
        """Whether the handshake may succeed without our name: a proxy may not know CLIENT and close at it, and if
        commands are sent one by one, an error reply to it ends the handshake."""
        if self._gated or self._nameless or not self._naming or not self._name_is_ours:
            return False
        if isinstance(error, RedisConnectionError):
            return type(error) is RedisConnectionError and "max number of clients" not in str(error)
        return "CLIENT" in str(error).upper()

    def _is_nameless(self, why: str) -> None:
        """The server does not know this connection by a name of ours."""
        if self._origin is not None:
            self._origin.note_nameless(self, why)
