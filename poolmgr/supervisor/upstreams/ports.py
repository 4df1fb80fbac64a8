"""What the parts of one server need from the registry and from another server's probe."""

from __future__ import annotations

from collections.abc import Mapping, MutableSet
from typing import Protocol

from poolmgr import wire
from poolmgr.supervisor.upstreams.addresses import Addresses
from poolmgr.supervisor.upstreams.latecomers import Latecomers
from poolmgr.supervisor.upstreams.lender import Lender
from poolmgr.supervisor.upstreams.own_permits import OwnPermits
from poolmgr.supervisor.upstreams.twins import Twins
from poolmgr.supervisor.upstreams.upstream import Upstream


class ProbePort(Protocol):
    """Another server's :class:`poolmgr.supervisor.upstreams.probe.Probe`."""

    upstream: Upstream
    permits: OwnPermits
    lender: Lender

    def ask_again(self) -> None: ...
    def hurry(self) -> None: ...


class RegistryPort(Protocol):
    """:class:`poolmgr.supervisor.upstreams.registry.Registry`."""

    upstreams: dict[str, Upstream]
    addresses: Addresses
    twins: Twins
    stopping: bool
    latecomers: Latecomers

    @property
    def probes(self) -> Mapping[str, ProbePort]: ...
    @property
    def unplaced(self) -> MutableSet[ProbePort]: ...
    def is_resolved(self, upstream: Upstream, run_id: str, twin: Upstream | None = None) -> Upstream: ...
    def unite(self, upstream: Upstream, twin: Upstream) -> None: ...
    def part(self, upstream: Upstream, keys: list[str]) -> None: ...
    def health_of(self, upstream: Upstream) -> wire.Health: ...
