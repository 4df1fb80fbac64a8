"""Which addresses are one server: what they answer when they are asked now.

Two addresses are one server while both, asked at the same time, say the same. One that says something else has been
restarted, or leads elsewhere by now, or leads to several servers in turn (a balancer); one answer does not tell which,
so it is asked again at once. Two that differ twice in a row are two servers: they part. An address that says something
else once more while it is being asked leads to several servers: it stays one, for nobody can say where its next
connection goes, and no list shows all. Pure. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

AGAIN = 4
"""How often an address that says something else than before is asked again, at once."""

STEADY = 60.0
"""Seconds after which an address that has said the same all the time leads to one server again."""

NEVER = float("-inf")


class Said(msgspec.Struct, frozen=True):
    """What an address said. ``at``: when it was asked; ``since``: since when it has said the same."""

    run_id: str
    at: float
    since: float


class Meetings:
    """When a server that is being resolved first said each of the names that it has said. Most say one. An address that
    leads to several servers in turn says another one each time, and none of them is new then."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}

    def met(self, run_id: str, now: float) -> float:
        """When it said that first: now, if it never has."""
        return self._first.setdefault(run_id, now)

    def end(self) -> None:
        """It is resolved."""
        self._first.clear()


class Sameness:
    """The addresses of one upstream.

    Attributes:
        several: servers to which one address leads in turn; empty: each leads to one.
        again: how often they are still to be asked again before anything is concluded.
    """

    def __init__(self) -> None:
        self.several: set[str] = set()
        self.again = 0
        self._said: dict[str, Said] = {}
        self._differed: dict[str, str] = {}
        """What they said when they were asked last, where that was not the same."""
        self._twice: dict[str, str] = {}
        """Likewise, if it was so the time before."""

    def asked(self, answers: Mapping[str, str], began: float, started: Mapping[str, float]) -> bool:
        """They were asked anew, beginning at that time: what each said, and when that server was started at the
        latest. Whether something is settled: nothing that is seen at this server proves anything while it is not."""
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
        """Whether it leads elsewhere, though nobody has been restarted."""
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
        """What they say, if that is not the same; empty for what is one of several."""
        found = {address: "" if run_id in self.several else run_id for address, run_id in answers.items()}
        return found if len(set(found.values())) > 1 else {}

    def apart(self, stays: str) -> list[list[str]]:
        """Groups of addresses that have turned out to be other servers than the rest, with which ``stays`` remains, or
        the largest group where that one is not known. Empty: all are one, or it is not certain yet."""
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
        """These are another upstream's from now on, with what is known of them: the servers to which one of them leads
        in turn are none of those that the rest lead to."""
        other = Sameness()
        if any(self._twice.get(address) == "" for address in addresses):
            other.several, self.several = self.several, set()
        self.leave(addresses)
        return other

    def leave(self, addresses: list[str]) -> None:
        """These are no addresses of this upstream any more."""
        for address in addresses:
            self._said.pop(address, None)
        self._twice, self._differed = {}, {}

    def says(self, stays: str) -> str:
        """What the upstream's own address says, or what was said last."""
        if stays in self._said:
            return self._said[stays].run_id
        return max(self._said.values(), key=lambda said: said.at).run_id if self._said else ""

    def turned(self, known: str, stays: str) -> str:
        """What the upstream is by now, if that is certainly another server than the known one; else empty."""
        run_id = self.says(stays)
        return "" if self.again or known in self.several or run_id == known else run_id


def same(one: str, several: set[str], other: str, others: set[str]) -> bool:
    """Whether two upstreams are one server, by what each says now, and by what those say to which it leads in turn."""
    if not one or not other:
        return False
    return one == other or one in others or other in several or bool(several & others)
