"""The metrics for Prometheus: the whole host's pools, in one place.

:class:`Reading` holds all the figures, frozen; :func:`families` turns one into metrics, by Prometheus' rules for names
and units. :mod:`poolmgr.supervisor.views.exposition` serves them.

It must never label by process: workers come and go, and each label value is a time series forever. ``poolmgr status``
shows single processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from poolmgr import status as schema
from poolmgr.supervisor.clients.totals import Total
from poolmgr.wire import WAIT_BOUNDS

if TYPE_CHECKING:
    from prometheus_client.core import Metric

STATES = ("live", "restored", "silent")

TIMEOUTS = ("budget", "descriptors", "pool", "queue", "server", "supervisor")
"""Reasons for which a caller gets no connection. Each is there from the beginning with 0: Prometheus sees no
increase in a series that begins with 1."""


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one server since the supervisor began."""

    recalled: int = 0
    rotated: int = 0
    outages: int = 0
    handover: float = 0.0
    """Seconds that moving a permit takes, smoothed."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is served, at one instant.

    Attributes:
        ledgers: by server.
        totals: by (server, pool name), of all members' pools.
        restarts: earlier supervisors that did not end by themselves.
        snapshots: how many were written.
        unwritten: the last one could not be written.
    """

    status: schema.Status
    limits: schema.Limits
    ledgers: dict[str, Counted]
    totals: dict[tuple[str, str], Total]
    restarts: int = 0
    snapshots: int = 0
    unwritten: bool = False


# ---- from values to metrics ------------------------------------------------------------------


def families(reading: Reading) -> Iterator[Metric]:
    """The metrics, each name once."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    yield InfoMetricFamily("poolmgr_build", "The supervisor's version.", value={"version": reading.status.version})
    clients = GaugeMetricFamily("poolmgr_clients", "Open connections of members and tools to the supervisor.")
    clients.add_metric([], reading.status.clients)
    yield clients
    restarts = CounterMetricFamily(
        "poolmgr_supervisor_restarts", "Supervisors that were ended or died while permits were charged."
    )
    restarts.add_metric([], reading.restarts)
    yield restarts
    written = CounterMetricFamily("poolmgr_snapshots_written", "Snapshots of the ledger written.")
    written.add_metric([], reading.snapshots)
    yield written
    unwritten = GaugeMetricFamily("poolmgr_snapshot_unwritable", "1 if the last snapshot could not be written.")
    unwritten.add_metric([], int(reading.unwritten))
    yield unwritten
    yield from _of_servers(reading)
    yield from _of_leases(reading.status.servers)
    yield from _of_pools(reading.totals)


def _of_servers(reading: Reading) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    servers = reading.status.servers

    def gauge(name: str, text: str, value: Callable[[schema.ServerStatus], float | None]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["server"])
        for server in servers:
            number = value(server)
            if number is not None:
                family.add_metric([server.id], number)
        return family

    def counter(name: str, text: str, value: Callable[[schema.ServerStatus], float]) -> Metric:
        family = CounterMetricFamily(name, text, labels=["server"])
        for server in servers:
            family.add_metric([server.id], value(server))
        return family

    def of(server: schema.ServerStatus) -> Counted:
        return reading.ledgers.get(server.id) or Counted()

    def idle(server: schema.ServerStatus) -> int:
        return sum(max(0, member.open - member.in_use) for member in server.members)

    yield gauge("poolmgr_budget_connections", "Connections that all processes together may hold.", lambda s: s.budget)
    bound = GaugeMetricFamily(
        "poolmgr_budget_bound_connections", "What the budget was derived from.", labels=["server", "bound"]
    )
    for limits in reading.limits.servers:
        for name, value, _ in limits.parts:
            if value is not None and name != "hosts":
                bound.add_metric([limits.id, name.replace(" ", "_")], value)
    yield bound
    used = GaugeMetricFamily(
        "poolmgr_charged_connections", "What is charged against the budget, by holder.", labels=["server", "holder"]
    )
    for server in servers:
        for holder, number in (("members", server.charged), ("quarantine", server.quarantine), ("own", server.own)):
            used.add_metric([server.id, holder], number)
    yield used
    yield gauge(
        "poolmgr_free_connections",
        "Not charged to any holder; negative while a smaller budget is recalled.",
        lambda s: s.free if s.budget is not None else None,
    )
    yield gauge("poolmgr_limit_connections", "Sum of the members' limits.", lambda s: sum(m.limit for m in s.members))
    yield gauge("poolmgr_open_connections", "Open sockets of members.", lambda s: sum(m.open for m in s.members))
    yield gauge("poolmgr_in_use_connections", "Connections with callers.", lambda s: sum(m.in_use for m in s.members))
    yield gauge(
        "poolmgr_pinned_connections",
        "In use for so long that no recall waits for them.",
        lambda s: sum(m.pinned for m in s.members),
    )
    yield gauge("poolmgr_idle_connections", "Open and not in use.", idle)
    yield gauge(
        "poolmgr_waiting_callers", "Callers that wait for a connection.", lambda s: sum(m.waiting for m in s.members)
    )
    members = GaugeMetricFamily("poolmgr_members", "Processes that use the server.", labels=["server", "state"])
    for server in servers:
        for state in STATES:
            members.add_metric([server.id, state], sum(1 for member in server.members if member.state == state))
    yield members
    yield gauge(
        "poolmgr_members_processor_seconds",
        "Processor time of the processes that use the server, those that have ended left out.",
        lambda s: sum(m.processor or 0.0 for m in s.members),
    )
    yield gauge(
        "poolmgr_members_resident_bytes",
        "Resident memory of the processes that use the server.",
        lambda s: sum(m.memory or 0 for m in s.members),
    )
    yield gauge(
        "poolmgr_members_open_files",
        "Descriptors of the processes that use the server, sockets included.",
        lambda s: sum(m.descriptors or 0 for m in s.members),
    )
    yield gauge(
        "poolmgr_members_threads",
        "Threads of the processes that use the server.",
        lambda s: sum(m.threads or 0 for m in s.members),
    )
    yield gauge("poolmgr_server_up", "0 while processes cannot connect.", lambda s: int(s.health.up))
    yield gauge(
        "poolmgr_server_unseen",
        "1 while the supervisor cannot reach the server, list its clients or log in.",
        lambda s: int(bool(s.health.unseen)),
    )
    yield gauge("poolmgr_handover_seconds", "Time a permit takes from one to another.", lambda s: of(s).handover)
    yield gauge(
        "poolmgr_audit_differences",
        "Processes about which ledger, kernel and server disagree.",
        lambda s: sum(1 for found in reading.status.differences if found.server == s.id),
    )
    yield counter("poolmgr_permits_recalled", "Permits taken back from members.", lambda s: of(s).recalled)
    yield counter("poolmgr_rotations", "Turns that ended while permits rotate.", lambda s: of(s).rotated)
    yield counter("poolmgr_outages", "Times the server stopped answering.", lambda s: of(s).outages)
    yield counter("poolmgr_permits_unproven", "Permits freed after a wait, not a proof.", lambda s: s.unproven)


def _of_leases(servers: Iterable[schema.ServerStatus]) -> Iterator[Metric]:
    """Of hosts in a fleet. Figures of the fleet as a whole are the same on all its hosts."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    leases = [(server.id, server.lease) for server in servers if server.lease is not None and not server.lease.outside]
    if not leases:
        return

    def gauge(name: str, text: str, value: Callable[[schema.LeaseStatus], float | None]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["server"])
        for server, lease in leases:
            number = value(lease)
            if number is not None:
                family.add_metric([server], number)
        return family

    def counter(name: str, text: str, value: Callable[[schema.LeaseStatus], float]) -> Metric:
        family = CounterMetricFamily(name, text, labels=["server"])
        for server, lease in leases:
            family.add_metric([server], value(lease))
        return family

    yield gauge("poolmgr_fleet_budget_connections", "Connections of all hosts of the fleet.", lambda held: held.budget)
    yield gauge("poolmgr_fleet_slack_connections", "Of these, given to no host.", lambda held: held.slack)
    yield gauge("poolmgr_fleet_hosts", "Hosts that renew their leases.", lambda held: held.hosts)
    yield gauge("poolmgr_fleet_other_clients", "Clients that are not the fleet's.", lambda held: held.others)
    yield gauge("poolmgr_lease_grant_connections", "What this host may hold.", lambda held: held.grant)
    yield gauge("poolmgr_lease_demand_connections", "What this host could use.", lambda held: held.demand)
    yield gauge("poolmgr_lease_seconds_left", "Until this host's lease ends.", lambda held: held.seconds_left)
    renewals = CounterMetricFamily("poolmgr_lease_renewals", "Requests, by outcome.", labels=["server", "outcome"])
    for server, lease in leases:
        for outcome in ("ok", "table", "old", "fenced", "error"):
            renewals.add_metric([server, outcome], lease.renewals.get(outcome, 0))
    yield renewals
    yield counter("poolmgr_lease_renew_seconds", "Time that these took, together.", lambda held: held.renew_seconds)
    yield counter("poolmgr_lease_fenced", "Leases of this host that others have proven over.", lambda held: held.fenced)
    yield counter("poolmgr_lease_gate_shut", "New connections that were not let in.", lambda held: held.gates_shut)
    yield counter("poolmgr_fleet_tables", "Times that another table was met.", lambda held: held.tables)
    yield counter("poolmgr_fleet_leases_freed", "Leases that this host has proven over.", lambda held: held.freed)
    yield counter("poolmgr_fleet_leases_unproven", "Leases freed without a proof.", lambda held: held.unproven)
    yield counter(
        "poolmgr_fleet_connections_killed", "Connections that it has killed for that.", lambda held: held.killed
    )


def _of_pools(totals: dict[tuple[str, str], Total]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    labels = ["server", "pool"]

    def counter(name: str, text: str, value: Callable[[Total], float]) -> Metric:
        family = CounterMetricFamily(name, text, labels=labels)
        for key, total in totals.items():
            family.add_metric(list(key), value(total))
        return family

    def by_reason(name: str, text: str, value: Callable[[Total], dict[str, int]]) -> Metric:
        family = CounterMetricFamily(name, text, labels=[*labels, "reason"])
        for key, total in totals.items():
            for reason, count in value(total).items():
                family.add_metric([*key, reason], count)
        return family

    yield counter("poolmgr_checkouts", "Connections handed to callers.", lambda t: t.checkouts)
    waits = HistogramMetricFamily(
        "poolmgr_checkout_wait_seconds", "Waits of checkouts that found no idle connection.", labels=labels
    )
    for key, total in totals.items():
        waits.add_metric(list(key), buckets=list(_cumulative(total.wait_buckets)), sum_value=total.wait_seconds)
    yield waits
    yield by_reason(
        "poolmgr_checkout_timeouts",
        "Callers that got no connection, by reason.",
        lambda t: {**dict.fromkeys(TIMEOUTS, 0), **t.timeouts},
    )
    yield counter("poolmgr_connections_created", "Connections opened.", lambda t: t.created)
    yield by_reason("poolmgr_connections_closed", "Connections closed, by reason.", lambda t: t.closed)
    yield counter("poolmgr_connect_errors", "Attempts to open a connection that failed.", lambda t: t.connect_errors)
    yield counter("poolmgr_leaks", "Connections held for longer than leak_after.", lambda t: t.leaks)


def _cumulative(counts: Iterable[int]) -> Iterator[tuple[str, float]]:
    """Prometheus' buckets: how many waits took at most that long."""
    total = 0
    for bound, count in zip([*(str(bound) for bound in WAIT_BOUNDS), "+Inf"], counts, strict=True):
        total += count
        yield bound, total
