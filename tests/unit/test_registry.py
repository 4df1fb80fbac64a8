"""What the registry remembers of addresses, and which ids it gives."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace
from typing import Any

from poolmgr import settings, wire
from poolmgr.budget import merging, recovery
from poolmgr.budget.accounts import Identity
from poolmgr.budget.ledger import Ledger
from poolmgr.member.core.directory import FORGET_AFTER
from poolmgr.member.core.process import Attachment, MemberCore
from poolmgr.supervisor.clients.roster import Roster
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.upstreams import registry as module
from poolmgr.supervisor.upstreams.addresses import UNUSED
from poolmgr.supervisor.upstreams.upstream import Upstream

A, B = "tcp://10.0.0.1:1", "tcp://10.0.0.2:1"


def attachment(key: str) -> Attachment:
    return Attachment(wire.Endpoint(key, host="h", address=key, port=1))


class Registry(module.Registry):
    """Nobody is asked anything: what servers say, the test says."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.now = 100.0
        nobody: Any = None
        committer: Any = SimpleNamespace(clock=lambda: self.now, touch=lambda: None)
        ledger = ledger or Ledger(owner=Identity("supervisor", 1), rng=random.Random(1))
        super().__init__(
            Context(ledger, committer, settings.load({}), Roster(), nobody, nobody, nobody, itertools.count())
        )

    def _probe(self, upstream: Upstream) -> Any:
        nothing = lambda *_, **__: None  # noqa: E731
        return SimpleNamespace(
            start=nothing, wake=nothing, hurry=nothing, try_again=nothing, ask_again=nothing, recalculate=nothing,
            unwanted=False, allowance=SimpleNamespace(restored=nothing),
        )  # fmt: skip

    def resolved(self, upstream: Upstream, tag: str, key: str) -> None:
        self.ledger.attach(tag, upstream.id, self.now)

    def comes(self, tag: str, key: str) -> Upstream:
        """A process comes to an address."""
        upstream = self.upstream_for(attachment(key).endpoint, tag)
        assert upstream is not None
        self.resolved(upstream, tag, key) if upstream.resolved else upstream.waiting.append((tag, key))
        return upstream

    def says(self, upstream: Upstream, run_id: str) -> Upstream:
        """The server behind it says who it is."""
        target = self.is_resolved(upstream, run_id)
        if target is not upstream:
            merging.dissolve(self.ledger, upstream.id, target.id)
        return target

    def unites(self, other: Upstream, known: Upstream) -> None:
        """The other one says that it is the known one."""
        other.run_id = known.run_id
        self.unite(other, known)
        merging.dissolve(self.ledger, other.id, known.id)

    def leaves(self, tag: str, key: str) -> None:
        """It uses that address no more, and nobody else does."""
        upstream = self.addresses.by_key[key]
        self.detached(tag, key)
        self.addresses.forget_unused(upstream)
        assert key not in self.addresses.by_key

    def registers(self, tag: str, link: int = 1, **holds: int) -> None:
        assert self.ledger.register(Identity(tag, 2), link, holds, self.now)


def test_an_id_that_is_given_again_is_the_new_servers_only() -> None:
    """An address of a server that has been united with another one gets an id with a number when it comes back. Nobody
    has been told of that one when it leads to the known server still, so it is given again; and who is told of it then
    means what it leads to by now."""
    registry = Registry()
    registry.registers("m")
    known, other = registry.says(registry.comes("m", A), "x"), registry.says(registry.comes("m", B), "y")
    registry.unites(other, known)
    registry.leaves("m", B)
    assert registry.says(registry.comes("m", B), "x") is known
    registry.leaves("m", B)
    third = registry.says(registry.comes("m", B), "z")
    assert third.id == f"{B}#2"
    assert registry.held(wire.Hold(third.id, (B,), 5)) == {third: (5, 0)}


def test_an_id_that_was_told_is_not_given_again() -> None:
    """A process that has been told a limit under it, and has not said goodbye to that server yet, would open as many
    connections to another one, which is charged with none of them."""
    registry, core = Registry(), MemberCore("m")
    core.attach(elsewhere := attachment("tcp://10.0.0.3:1"))
    registry.registers("m")
    for _ in range(2):  # on the second link it is not known yet where that address leads
        core.register(0.0)
        core.received(core.link, wire.Welcome(1, 1, parts=True), 0.0)
        if core.link == 1:
            core.received(1, wire.Resolved("tcp://10.0.0.3:1", "third"), 0.0)
            core.received(1, wire.Limit("third", 1, 1), 0.0)
            assert core.take(elsewhere, 0.0)
    core.attach(one := attachment(B))
    known, other = registry.says(registry.comes("m", A), "x"), registry.says(registry.comes("m", B), "y")
    core.received(2, wire.Resolved(B, other.id, 1), 0.0)
    core.received(2, wire.Limit(other.id, 1, 3), 0.0)
    registry.unites(other, known)
    core.received(2, wire.Resolved(B, known.id, 1), 0.0)
    core.detach(one)
    for now in (0.0, FORGET_AFTER):
        core.settle(now)
    assert wire.Detach(B) in core.outgoing()
    registry.leaves("m", B)
    core.attach(again := attachment(B))
    third = registry.says(registry.comes("m", B), "z")
    core.received(2, wire.Resolved(B, third.id, 2), 30.0)
    assert core.take(again, 30.0) is None


def test_an_id_with_a_number_is_found_by_the_name_of_those_who_have_a_way_of_their_own() -> None:
    """The next process that comes by it would be given a server of its own."""
    registry, name = Registry(), "tcp://cache:1"
    registry.registers("m")
    known, other = registry.says(registry.comes("m", A), "x"), registry.says(registry.comes("m", name), "y")
    registry.unites(other, known)
    registry.leaves("m", name)
    again = registry.comes("m", name)
    assert again.id == f"{name}#2"
    assert registry.comes("n", name) is again


def test_who_has_not_registered_again_may_go_by_any_address() -> None:
    """The snapshot says what it was told, and not by which addresses it goes. Should one of these have moved meanwhile,
    what it has open there is charged only because the address parts from the known ones."""
    before = Registry()
    for tag, key in (("m", A), ("n", B)):
        before.registers(tag)
        before.says(before.comes(tag, key), "x")
        before.ledger.servers[A].accounts[tag].told = [(1, 3)]
    after = Registry(recovery.restored(recovery.save(before.ledger, 100.0), 100.0, alive=lambda _: True))
    after.restore()
    after.comes("o", B)
    after.registers("m")
    after.comes("m", A)
    after.detached("o", B)
    after.addresses.forget_unused(after.upstreams[A])
    assert after.addresses.by_key[B] is after.upstreams[A], "n may go by it"
    assert B not in after.upstreams[A].ways, "a process that is stopped for days has no dead address asked"
    after.registers("n", **{A: 3})
    after.now += UNUSED + 1
    after.addresses.forget_unused(after.upstreams[A])
    assert B not in after.addresses.by_key


def test_an_address_of_the_snapshot_that_nobody_names_again_is_forgotten() -> None:
    """Else it would be known for ever, from restart to restart, and who comes to it years later would not be kept from
    opening there what the server has room for to which it led."""
    before = Registry()
    for tag, key in (("m", A), ("n", B)):
        before.registers(tag)
        before.says(before.comes(tag, key), "x")
    after = Registry(recovery.restored(recovery.save(before.ledger, 100.0), 100.0, alive=lambda _: True))
    after.restore()
    upstream = after.upstreams[A]
    after.registers("m")
    after.comes("m", A)
    after.addresses.forget_unused(upstream)
    assert after.addresses.by_key[B] is upstream, (
        "n had nothing open, so the snapshot does not name it: it may be about to come"
    )
    after.now += UNUSED + 1
    after.addresses.forget_unused(upstream)
    assert B not in after.addresses.by_key
    assert B not in after.ledger.servers[A].aliases
    assert after.addresses.by_key[A] is upstream
    assert "tcp://h:1" in after.ledger.servers[A].aliases
    for address in (A, B):
        after.comes("m", address)
    for began in (1.0, 2.0):
        upstream.sameness.asked({A: "x", B: "y"}, began, {})
        after.addresses.forget_unused(upstream)
    assert upstream.sameness.apart(A) == [[B]], "where nothing is forgotten, what its addresses say is not either"
