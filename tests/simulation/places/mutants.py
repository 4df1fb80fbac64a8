"""Every rule of addresses switched off: the world of :mod:`tests.simulation.places` must notice each one.

``python -m tests.simulation.places.mutants`` shows for each how many seeds it took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable

from poolmgr import wire
from poolmgr.budget import merging
from poolmgr.budget.accounts import Account
from poolmgr.budget.ledger import Ledger, Turn
from poolmgr.member.core.directory import Directory
from poolmgr.member.core.dispatcher import Dispatcher
from poolmgr.supervisor.upstreams import twins
from poolmgr.supervisor.upstreams.addresses import Addresses
from poolmgr.supervisor.upstreams.registry import Registry
from poolmgr.supervisor.upstreams.sameness import Meetings, Sameness
from poolmgr.supervisor.upstreams.twins import Twins
from poolmgr.supervisor.upstreams.upstream import Upstream
from tests.simulation.mutants import Mutant, applied
from tests.simulation.places.supervisor import Looks
from tests.simulation.places.world import failure

_part, _dissolve, _settle = merging.part, merging.dissolve, Ledger.settle


def _parts_without_charges(
    ledger: Ledger, server: str, new: str, aliases: Iterable[str], tags: Collection[str]
) -> None:
    ledger.server(new, aliases=aliases).budget = ledger.servers[server].budget


def _parts_and_tells(ledger: Ledger, server: str, new: str, aliases: Iterable[str], tags: Collection[str]) -> None:
    _part(ledger, server, new, aliases, tags)
    ledger.servers[new].unknown = False


def _recalls_at_unknown(self: Ledger, now: float) -> Turn:
    """Nothing is answered there, as ever: only what is decided is told."""
    unknown = [server for server in self.servers.values() if server.unknown]
    kept = {server.id: [tag for tag, a in server.accounts.items() if a.unanswered] for server in unknown}
    for server in unknown:
        server.unknown = False
        for tag in kept[server.id]:
            server.accounts[tag].unanswered = False
    turn = _settle(self, now)
    for server in unknown:
        server.unknown = True
        for tag in kept[server.id]:
            account = server.accounts[tag]
            account.unanswered = account.told[-1][0] == 0
    return turn


def _asks_nobody(self: Twins, upstream: Upstream, run_id: str, met: float, since: float) -> list[Upstream]:
    return []


def _one_answer(self: Sameness, address: str, run_id: str, began: float, started: float) -> bool:
    several, again = set(self.several), self.again
    self.again = 0
    moved = _one(self, address, run_id, began, started)
    self.several, self.again = several, again
    return moved


def _only_alike(one: str, several: set[str], other: str, others: set[str]) -> bool:
    return bool(one) and one == other


def _dissolves_the_charge(ledger: Ledger, server: str, into: str) -> None:
    old = ledger.servers[server]
    for tag in old.accounts.keys() & ledger.servers[into].accounts.keys():
        old.charged -= old.accounts[tag].charge
        old.accounts[tag].told = [(0, 0)]
    _dissolve(ledger, server, into)


def _asks_once(self: Looks) -> None:
    if not self.upstream.resolved:
        _ask(self)


def _counted_at_one(self: Registry, hold: wire.Hold) -> dict[Upstream, tuple[int, int]]:
    found = _held(self, hold)
    first = next(iter(found), None)
    return {} if first is None else {first: found[first]}


def _whatever_was_heard(account: Account, seq: int) -> bool:
    return not account.unanswered


def _the_same_id(self: Registry, key: str) -> str:
    self._spent.clear()
    return _id_for(self, key)


def _leaves_the_id_to_the_other(self: Registry, server: str, keys: Iterable[str]) -> Upstream:
    other = self.addresses.by_key.get(server)
    upstream = _new(self, server, keys)
    if other is not None and server not in keys:
        self.addresses.by_key[server] = other
    return upstream


def _may_forget_with_unknown(self: Directory, dispatcher: Dispatcher) -> bool:
    return not (dispatcher.account.open or dispatcher.waiters)


def _met_just_now(self: Meetings, run_id: str, now: float) -> float:
    if run_id not in self._first:
        self._first.clear()
    return _met(self, run_id, now)


def _keeps_the_balancers_servers(self: Sameness, addresses: list[str]) -> Sameness:
    several = set(self.several)
    other = _parted(self, addresses)
    self.several = several
    return other


_one, _ask = Sameness._one, Looks.ask
_new = Registry._new
_held, _id_for, _met, _parted = Registry.held, Registry._id_for, Meetings.met, Sameness.part

MUTANTS = (
    Mutant(
        "parts without charges", "what is open there is charged nowhere", ((merging, "part", _parts_without_charges),)
    ),
    Mutant(
        "tells a limit before it is known which server that is",
        "it may be one whose budget is used",
        ((merging, "part", _parts_and_tells),),
    ),
    Mutant(
        "recalls where it is not known which server that is",
        "within the smaller limit something is opened there",
        ((Ledger, "settle", _recalls_at_unknown),),
    ),
    Mutant(
        "what goes along leaves room behind",
        "it is opened once more before the others have gone along",
        ((Directory, "_take_along", staticmethod(lambda dispatcher, sockets: None)),),
    ),
    Mutant("unites by an older answer", "they are two by now", ((Twins, "doubtful", _asks_nobody),)),
    Mutant("a balancer is no balancer", "its servers get a budget by each address", ((Sameness, "_one", _one_answer),)),
    Mutant(
        "a balancer is alone",
        "who goes straight to its servers has another budget",
        ((twins, "same", _only_alike),),
    ),
    Mutant(
        "the charge is not taken along", "what is open is not charged", ((merging, "dissolve", _dissolves_the_charge),)
    ),
    Mutant(
        "addresses are asked once only",
        "those that lead elsewhere stay one",
        ((Looks, "ask", _asks_once),),
    ),
    Mutant("never parts", "two servers share a budget for ever", ((Sameness, "apart", lambda self, stays: []),)),
    Mutant(
        "a hold is counted at one server only",
        "what is open elsewhere is not charged",
        ((Registry, "held", _counted_at_one),),
    ),
    Mutant(
        "a goodbye while a limit is on its way",
        "what the limit allows is not charged",
        ((Ledger, "_has_heard_all", staticmethod(_whatever_was_heard)),),
    ),
    Mutant(
        "a goodbye while it is not known where addresses lead",
        "what is open by them may be there",
        ((Directory, "_may_forget", _may_forget_with_unknown),),
    ),
    Mutant(
        "an id is given again",
        "what was told for the one server counts at the other",
        ((Registry, "_id_for", _the_same_id),),
    ),
    Mutant(
        "an id stays another server's",
        "what is stated to be open at the one is charged at the other",
        ((Registry, "_new", _leaves_the_id_to_the_other),),
    ),
    Mutant(
        "forgets addresses before all have registered",
        "what is open by them belongs to no server",
        ((Addresses, "_have_registered", lambda self, tags: True),),
    ),
    Mutant(
        "a balancer is met anew each time",
        "it is never known which server it is",
        ((Meetings, "met", _met_just_now),),
    ),
    Mutant(
        "the rest keeps a balancer's servers",
        "the two part and unite for ever",
        ((Sameness, "part", _keeps_the_balancers_servers),),
    ),
    Mutant(
        "opens by an address that has not been placed",
        "the limit is another server's",
        ((Directory, "is_placed", lambda self, attachment: True),),
    ),
    Mutant(
        "an answer to a question taken back is believed",
        "the address may lead elsewhere by now",
        ((Directory, "_answers_the_last", lambda self, key, number: True),),
    ),
)

SEEDS = {
    "parts without charges": 16,
    "tells a limit before it is known which server that is": 28,
    "recalls where it is not known which server that is": 6530,
    "what goes along leaves room behind": 156,
    "unites by an older answer": 267,
    "a balancer is no balancer": 26,
    "a balancer is alone": 107,
    "the charge is not taken along": 9,
    "addresses are asked once only": 2,
    "never parts": 3,
    "a hold is counted at one server only": 38,
    "a goodbye while a limit is on its way": 2,
    "an id stays another server's": 2722,
    "forgets addresses before all have registered": 4094,
    "a balancer is met anew each time": 45,
    "the rest keeps a balancer's servers": 298,
    "an answer to a question taken back is believed": 22,
}
"""A seed that is known to find it. What is not here no seed has found yet: ids that are given again, goodbyes while it
is not known where addresses lead, and what is opened by an address that has not been placed. These have tests of their
own (``tests/unit/test_registry.py``, ``test_member_addresses.py``)."""


def hunt(mutant: Mutant, seeds: int, first: int = 0) -> tuple[int, str] | None:
    """The first seed that finds it, and what it says; one that fails without it too does not count."""
    for seed in range(first, first + seeds):
        with applied(mutant):
            found = failure(seed)
        if found and not failure(seed):
            return seed, found
    return None


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.isdecimal()]
    seeds = next((int(word) for word in sys.argv[1:] if word.isdecimal()), 200)
    for mutant in MUTANTS:
        if words and not any(word in mutant.name for word in words):
            continue
        began = time.monotonic()
        found = hunt(mutant, seeds)
        verdict = f"seed {found[0]}: {found[1][:90]}" if found else "NOT FOUND"
        print(f"{mutant.name:55s} {time.monotonic() - began:6.1f} s  {verdict}", flush=True)


if __name__ == "__main__":
    main()
