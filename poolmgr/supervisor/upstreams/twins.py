"""Which of the known upstreams are one server, or may be: by run_id, by address, or only by a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from poolmgr.supervisor.context import Context
from poolmgr.supervisor.upstreams.addresses import Addresses
from poolmgr.supervisor.upstreams.sameness import same
from poolmgr.supervisor.upstreams.upstream import Upstream


class _Asked(Protocol):
    """A probe."""

    @property
    def still_runs(self) -> bool: ...
    def ask_again(self) -> None: ...


class Twins:
    """See the module's docstring."""

    def __init__(
        self, context: Context, upstreams: Mapping[str, Upstream], probes: Mapping[str, _Asked], addresses: Addresses
    ) -> None:
        self._ledger = context.ledger
        self._upstreams = upstreams
        self._probes = probes
        self._addresses = addresses
        self.apart: set[frozenset[str]] = set()
        """Pairs of servers that were compared and found to differ. Used where one of them does not give its run_id."""

    def of(self, upstream: Upstream) -> Upstream | None:
        """The resolved upstream that is the same server. They are matched by run_id, or by address if one of them has
        not given its run_id or cannot be asked yet. Two resolved upstreams are one only if both say so now: addresses
        change hands, and what one said earlier may now name the other's server."""
        run_id, address = upstream.run_id, upstream.address
        key = f"tcp://{address[0]}:{address[1]}" if address else ""
        for other in self._others(upstream):
            if same(run_id, upstream.sameness.several, other.run_id, other.sameness.several):
                if upstream.sameness.again:
                    continue
                if other.sameness.again or (upstream.resolved and other.fresh_at < upstream.changed_at):
                    self._probes[other.id].ask_again()  # its last answer may be out of date: it asks again
                    continue
                return other
            if address and not (run_id and other.run_id) and other.address == address:
                return other
            if key and not other.endpoints and self._addresses.by_key.get(key) is other:
                return other
        return None

    def comparable(self, upstream: Upstream) -> list[Upstream]:
        """Servers that only a comparison can tell apart from ``upstream``."""
        return [
            other
            for other in self._others(upstream)
            if other.endpoints
            and not (upstream.run_id and other.run_id)
            and frozenset((upstream.id, other.id)) not in self.apart
        ]

    def differ(self, upstream: Upstream, other: Upstream) -> None:
        """They were compared."""
        self.apart.add(frozenset((upstream.id, other.id)))

    def compare_again(self, upstream: Upstream) -> None:
        """The server may have changed since it was compared."""
        self.apart = {pair for pair in self.apart if upstream.id not in pair}

    def doubtful(self, upstream: Upstream, run_id: str, met: float, since: float) -> list[Upstream]:
        """Upstreams that may be the same server as ``upstream``, or may no longer be. Either they may have been
        restarted since they last gave their run_id; or they gave the same one before ``upstream`` was ``met``, and may
        lead elsewhere by now. Upstreams without an endpoint count while a living member holds something."""
        several = upstream.sameness.several
        return [
            other
            for other in self._others(upstream)
            if other.run_id
            and (
                ((other.fresh_at <= met or other.sameness.again > 0) and bool(other.endpoints))
                if same(run_id, several, other.run_id, other.sameness.several)
                else other.asked_at <= since
            )
            and (other.endpoints or self._ledger.servers[other.id].charged)
            and not self._probes[other.id].still_runs
        ]

    def _others(self, upstream: Upstream) -> list[Upstream]:
        return [other for other in self._upstreams.values() if other is not upstream and other.resolved]
