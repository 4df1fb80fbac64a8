"""Whether a well-formed message makes sense: its numbers are counts, its names are names.

The decoder (:mod:`poolmgr.wire`) knows types only. What gets past here may be wrong, and may be a lie,
but it cannot poison the ledger's sums or its clock.
"""

from __future__ import annotations

from poolmgr import wire

MOST = 10_000_000
"""Largest count of anything."""

LONGEST = 1024
"""Longest name."""

MANY = 10_000
"""Most entries in a list."""


def objection(message: wire.Message) -> str:
    """What is wrong with it; empty if nothing is."""
    match message:
        case wire.Report():
            counts = (
                message.acked, message.open, message.in_use, message.waiting, message.peak, message.spare,
                message.ceiling, message.pinned,
            )  # fmt: skip
            if not _counts(*counts) or not _name(message.server):
                return "a report with a number or name that cannot be"
            if not message.timeout >= 0 or not message.replied >= 0:  # not a number is not, either
                return "a report with a time that cannot be"
        case wire.Trouble():
            if not message.began >= 0 or not message.replied >= 0:
                return "trouble at a time that cannot be"
        case wire.Hello():
            if not _counts(message.link, message.descriptors, *message.versions) or message.mark < 0:
                return "a hello with a number that cannot be"
            if max(len(message.holds), len(message.endpoints), len(message.replaces)) > MANY:
                return "a hello that is too long"
            if not all(
                _counts(hold.stated, hold.open, *hold.by.values()) and _name(hold.server, *hold.endpoints)
                for hold in message.holds
            ):
                return "a hello that holds what cannot be"
            if not all(_way(endpoint) for endpoint in message.endpoints):
                return "a hello with an endpoint that cannot be"
        case wire.Attach():
            return "" if _way(message.endpoint) and message.number >= 0 else "an endpoint that cannot be"
        case wire.Detach():
            names = [name for name in (message.endpoint, message.server) if name]
            return "" if names and _name(*names) and _counts(message.seq) else "an endpoint that cannot be"
        case wire.Lost():
            if len(message.serials) > MANY or not _counts(*message.serials) or not _name(message.server):
                return "a loss that cannot be"
        case wire.Stats():
            if not _name(message.server, message.pool):
                return "statistics with a name that cannot be"
    return ""


def _counts(*numbers: int) -> bool:
    return all(0 <= number <= MOST for number in numbers)


def _name(*names: str) -> bool:
    return all(0 < len(name) <= LONGEST and name.isprintable() for name in names)


def _way(endpoint: wire.Endpoint) -> bool:
    where = endpoint.path or endpoint.host
    return _name(endpoint.key, where, endpoint.address or where) and 0 <= endpoint.port <= 65535
