"""What a list comes to, by process: all that the event loop needs of it.

Pure. A server may have ten thousand clients, and the event loop answers no member while it goes over them. So the
worker thread that has read a list sums it up, and the rows never leave that thread.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from poolmgr import tags
from poolmgr.supervisor.upstreams.proof import Row


class Summary(msgspec.Struct, frozen=True):
    """One list.

    Attributes:
        counts: how many connections bear each tag, without the serial. A process has one for each scope.
        strangers: how many connections bear none.
        numbers: the server's numbers of each process's connections.
        leased: scopes of hosts in a fleet.
    """

    counts: dict[tags.Tag, int] = {}
    strangers: int = 0
    numbers: dict[str, set[int]] = {}
    leased: frozenset[str] = frozenset()


def summed(rows: Iterable[Row]) -> Summary:
    """The summary of these rows. Ten thousand take some milliseconds: it is not for the event loop."""
    found: dict[tuple[str, str], tuple[tags.Tag, list[int]]] = {}
    strangers, leased = 0, set[str]()
    for row in rows:
        tag = row.tag
        if tag is None:
            strangers += 1
            continue
        if tag.lease:
            leased.add(tag.scope)
        key = tag.process, tag.scope
        if key not in found:
            found[key] = msgspec.structs.replace(tag, serial=0, lease=""), []
        found[key][1].append(row.id)
    numbers: dict[str, set[int]] = {}
    for (process, _), (_, ids) in found.items():
        numbers.setdefault(process, set()).update(ids)
    return Summary({tag: len(ids) for tag, ids in found.values()}, strangers, numbers, frozenset(leased))
