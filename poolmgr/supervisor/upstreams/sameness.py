"""Which addresses are one server, from their latest answers.

Two addresses are one server while both, asked at the same time, say the same. An address with a new answer leads to a
restarted server, or elsewhere by now, or to several servers in turn (a balancer); one answer does not tell which, so it
is asked again at once. Two addresses that differ twice in a row are two servers: they part. An address that changes its
answer once more while it is being asked leads to several servers. It stays one upstream, because its next connection's
destination is unknown and no list shows all. Pure. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

AGAIN = 4
"""How often an address with a changed answer is asked again, at once."""

STEADY = 60.0
"""Seconds of the same answer after which an address leads to one server again."""

NEVER = float("-inf")


class Said(msgspec.Struct, frozen=True):
    """An address's answer. ``at``: when it was asked; ``since``: since when it has said the same."""

    run_id: str
    at: float
    since: float


class Meetings:
    """When a server that is being resolved first gave each of its run_ids. Most give one. An address that leads to
    several servers in turn gives another one each time, and none of them is new then."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}

    def met(self, run_id: str, now: float) -> float:
        """When it first gave that run_id: now, if it never has."""
        return self._first.setdefault(run_id, now)

    def end(self) -> None:
        """It is resolved."""
        self._first.clear()


class Sameness:
    """The addresses of one upstream.

    Attributes:
        several: servers to which one address leads in turn; empty: each leads to one.
        again: how many more times to ask before anything is concluded.
    """

    def __init__(self) -> None:
        self.several: set[str] = set()
        self.again = 0
        self._said: dict[str, Said] = {}
        self._differed: dict[str, str] = {}
        """Their last answers, if those differed."""
        self._twice: dict[str, str] = {}
        """Likewise, if they differed the same way the time before."""

    def asked(self, answers: Mapping[str, str], began: float, started: Mapping[str, float]) -> bool:
        """Take new answers, asked from ``began`` on: what each address said, and when that server was started at the
        latest. Returns whether the answers are settled: until then nothing seen at this server proves anything."""
        moved = False
        for address, run_id in answers.items():
            moved = self._one(address, run_id, began, started.get(address, NEVER)) or moved
        for address in self._said.keys() - answers.keys():
            if began > self._said[address].at + STEADY:
                del self._said[address]
        if self.several and all(began > said.since + STEADY for said in self._said.values()):
            self.several.clear()
        differ = self._differ(answers)
        if moved:
            self.again = AGAIN
        elif self.again:
            self.again -= 1
        if differ and not self._differed:
            self.again = max(1, self.again)
        self._twice = differ if differ and differ == self._differed else {}
        self._differed = differ
        return not self.again

    def _one(self, address: str, run_id: str, began: float, started: float) -> bool:
        """Whether it leads elsewhere although no server was restarted."""
        last = self._said.get(address)
        if last is None or last.run_id == run_id:
            self._said[address] = Said(run_id, began, began if last is None else last.since)
            return False
        self._said[address] = Said(run_id, began, began)
        if self.several:
            self.several.add(run_id)
            return False
        if started >= last.at:
            return False
        if self.again:
            self.several |= {last.run_id, run_id}
        return not self.several

    def _differ(self, answers: Mapping[str, str]) -> dict[str, str]:
        """Their answers, if they differ; empty for an answer that is one of several."""
        found = {address: "" if run_id in self.several else run_id for address, run_id in answers.items()}
        return found if len(set(found.values())) > 1 else {}

    def apart(self, stays: str) -> list[list[str]]:
        """Groups of addresses that have turned out to be other servers than the rest. ``stays`` belongs to the rest; if
        it is not known, the largest group does. Empty: all are one, or it is not certain yet."""
        if self.again or not self._twice:
            return []
        groups: dict[str, list[str]] = {}
        for address, run_id in self._twice.items():
            groups.setdefault(run_id, []).append(address)
        home = next((of for of, group in groups.items() if stays in group), None)
        if home is None:
            home = max(groups, key=lambda of: len(groups[of]))
        return [group for of, group in groups.items() if of != home]

    def part(self, addresses: list[str]) -> Sameness:
        """These addresses, with what is known of them, now belong to another upstream: if one of them leads to several
        servers in turn, the rest leads to none of those."""
        other = Sameness()
        if any(self._twice.get(address) == "" for address in addresses):
            other.several, self.several = self.several, set()
        self.leave(addresses)
        return other

    def leave(self, addresses: list[str]) -> None:
        """These are no longer addresses of this upstream."""
        for address in addresses:
            self._said.pop(address, None)
        self._twice, self._differed = {}, {}

    def says(self, stays: str) -> str:
        """The answer of the upstream's own address, or the latest one."""
        if stays in self._said:
            return self._said[stays].run_id
        return max(self._said.values(), key=lambda said: said.at).run_id if self._said else ""

    def turned(self, known: str, stays: str) -> str:
        """The upstream's new run_id, if it certainly is another server than the known one; else empty."""
        run_id = self.says(stays)
        return "" if self.again or known in self.several or run_id == known else run_id


def same(one: str, several: set[str], other: str, others: set[str]) -> bool:
    """Whether two upstreams are one server, by what each says now, and by the servers to which it leads in turn."""
    if not one or not other:
        return False
    return one == other or one in others or other in several or bool(several & others)
