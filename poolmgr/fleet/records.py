"""The fleet's table as people see it: which host holds what. Pure: the fields of the hash in, values out.

``table.lua`` writes the records. What a later version has put behind the known fields is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One lease.

    Attributes:
        name: the lease's random name. host: the name of the host that holds the lease, for people.
        grant: connections that the table charges the host with. demand: how many the host could use.
        floor: how many of these it gets before any host gets more than its own floor.
        ends_in: seconds until it ends; negative: it has ended.
        budget: the fleet's, as this host is configured.
        able: the host may list and kill clients.
        marked_for: seconds since the lease was marked, which shuts its gate for good; None: it is not marked.
    """

    name: str
    host: str
    grant: int
    demand: int
    floor: int
    ends_in: float
    budget: int
    able: bool
    marked_for: float | None = None


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """A table.

    Attributes:
        name: the fleet's. table: the table's number. run_id: of the server process that it belongs to.
        budget: in force. slack: of it, given to no host. operator: the operator's number, if that holds.
        granted: to all hosts. level: the fair part of a host that wants more.
        others: clients that are not the fleet's; None: not counted yet.
        learning: the table is new, and what is connected has not been counted yet.
        hosts: all leases, the largest first.
    """

    name: str
    table: str
    run_id: str
    budget: int
    slack: int
    operator: int | None
    granted: int
    level: int
    others: int | None
    learning: bool
    hosts: tuple[Host, ...]


class UnreadableError(ValueError):
    """A record is not understood; the text quotes it."""


def read(name: str, fields: Mapping[str, str], now: float) -> Fleet | None:
    """The table; None: there is none.

    Args:
        name: the fleet's.
        fields: the hash, as text.
        now: the server's clock, in seconds.

    Raises:
        UnreadableError: another version has written it.
    """
    head = fields.get("!")
    if head is None:
        return None
    hosts = sorted(
        (_host(field, text, now) for field, text in fields.items() if field != "!"),
        key=lambda host: (-host.grant, host.host, host.name),
    )
    try:
        run, table, learning, _, budget, slack, level = head.split()[:7]
        operator, _, others = head.split()[15:18]
        return Fleet(
            name=name,
            table=table,
            run_id=run,
            budget=int(budget),
            slack=int(slack),
            operator=None if operator == "-" else int(operator),
            granted=sum(host.grant for host in hosts),
            level=int(level),
            others=None if others == "-" else int(others),
            learning=learning == "1",
            hosts=tuple(hosts),
        )
    except ValueError:
        raise UnreadableError(f"the table's head is not understood: {head!r:.200}") from None


def _host(field: str, text: str, now: float) -> Host:
    try:
        words = text.split()
        since = int(words.pop(0)) if field.startswith("x") else None
        grant, _, end, demand, floor, budget, _, flags, host = words[:9]
        return Host(
            name=field.removeprefix("x"),
            host=host,
            grant=int(grant),
            demand=int(demand),
            floor=int(floor),
            ends_in=round(int(end) / 1000 - now, 3),
            budget=int(budget),
            able=flags == "able",
            marked_for=None if since is None else round(now - since / 1000, 3),
        )
    except (ValueError, IndexError):
        raise UnreadableError(f"the record of {field} is not understood: {text!r:.200}") from None
