"""Every rule of the permit protocol, switched off: the simulation must notice each one.

A mutant replaces a few small methods of the real code, or of the shells that the simulation puts
around it where the rule is the shell's. ``breaks`` says what its absence leads to.

``python -m tests.simulation.mutants`` shows for each how many seeds it took. More than 400 lines, as one table by rule.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from poolmgr.budget import recovery
from poolmgr.budget.accounts import Account, Identity, Quarantine, Saved, SavedMember, Server
from poolmgr.budget.effects import Turn
from poolmgr.budget.ledger import Ledger
from poolmgr.member.core.account import Account as MemberAccount
from poolmgr.member.core.process import MemberCore
from poolmgr.supervisor.upstreams.proof import Verdict, judge
from tests.simulation import inspection
from tests.simulation.__main__ import legible
from tests.simulation.inspection import Inspection
from tests.simulation.link import Link
from tests.simulation.process import Process
from tests.simulation.scenario import draw
from tests.simulation.shrink import failure
from tests.simulation.supervisor import Supervisor

Patch = tuple[Any, str, Any]


class Mutant(msgspec.Struct, frozen=True):
    """A rule switched off.

    Attributes:
        breaks: what that leads to.
    """

    name: str
    breaks: str
    patches: tuple[Patch, ...]

    @property
    def seed(self) -> int:
        return SEEDS.get(self.name, 0)


# ---- the member's rules --------------------------------------------------------------------------


def _open_without_closing(self: MemberAccount) -> int:
    return len(self.live) + len(self.lost)


def _open_only_idle(self: MemberAccount) -> int:
    return sum(attachment.demand.usage.idle for attachment in set(self.live.values()))


def _always_available(self: MemberAccount) -> int:
    return max(1, self.limit - self.open) if self._answered() else 0


def _yes(*_: Any, **__: Any) -> bool:
    return True


def _inheriting(self: MemberCore, tag: str) -> MemberCore:
    child = MemberCore(tag, rng=self.directory._rng)
    for dispatcher in self.dispatchers():
        if dispatcher.account.server:
            heir = child.directory.dispatcher(dispatcher.account.server)
            heir.account.limit, heir.account.seq = dispatcher.account.limit, dispatcher.account.seq
            for attachment in dispatcher.attachments:
                child.directory.resolved[attachment.endpoint.key] = heir
    return child


def _only_open(self: MemberAccount) -> int:
    return self._counts_as_open()


# ---- the ledger's rules --------------------------------------------------------------------------


def _not_held(self: Ledger, server: Server, more: int) -> bool:
    return not server.held


def _without_quarantine(self: Server) -> int:
    return self.charged + self.own


def _without_own(self: Server) -> int:
    return self.charged + self.quarantined


def _releases_when_told(self: Ledger, server: Server, tag: str, account: Account, limit: int, turn: Turn) -> None:
    _tell(self, server, tag, account, limit, turn)
    server.charged += limit - account.charge
    account.told = account.told[-1:]


def _releases_at_end_of_file(self: Ledger, tag: str, link: int, now: float) -> None:
    member = self.members.get(tag)
    _unlink(self, tag, link, now)
    if member is not None and link == member.link:
        for server in self.servers.values():
            account = server.accounts.get(tag)
            if account is not None:
                server.charged -= account.charge
                account.told = [(account.seq, 0)]


def _exits_without_quarantine(self: Ledger, tag: str, now: float) -> None:
    _exited(self, tag, now)
    for server in self.servers.values():
        server.quarantine.pop(tag, None)


def _newest_acknowledged(self: Ledger, server: Server, account: Account, seq: int, now: float) -> None:
    _ack(self, server, account, account.seq, now)


def _answers_in_full(self: Ledger, server: Server, tag: str, account: Account, now: float, turn: Turn) -> None:
    self._tell(server, tag, account, account.limit, turn)


def _answers_what_fits(self: Ledger, server: Server, tag: str, account: Account, now: float, turn: Turn) -> None:
    partial, self.partial = self.partial, False
    _answer(self, server, tag, account, now, turn)
    self.partial = partial


def _waits_for_nobody(self: Ledger) -> None:
    self._unsaved = True


def _searches_no_more(self: Ledger) -> None:
    self.partial = False
    self._unsaved = True
    for server in self.servers:
        self.hold_raises(server, False)


def _obeys_any_registration(self: Ledger, tag: str, link: int) -> bool:
    return self.is_departed(tag)


def _obeys_the_dead(self: Ledger, tag: str, link: int) -> bool:
    member = self.members.get(tag)
    return member is not None and link <= member.link


# ---- the snapshot --------------------------------------------------------------------------------


def _saving(**changes: Any) -> Callable[..., Any]:
    def save(server: Server, now: float) -> Any:
        return msgspec.structs.replace(_save_server(server, now), **changes)

    return save


def _saving_first_budget() -> Callable[..., Any]:
    def save(server: Server, now: float) -> Any:
        first = getattr(_saving_first_budget, "budgets", {}).get(id(server), (server, server.budget))
        _saving_first_budget.__dict__.setdefault("budgets", {})[id(server)] = first
        return msgspec.structs.replace(_save_server(server, now), budget=max(first[1], server.budget))

    return save


def _saves_as_if_whole(ledger: Ledger, now: float) -> Saved:
    return msgspec.structs.replace(_save(ledger, now), partial=False)


def _saves_newest_limits(ledger: Ledger, now: float) -> Saved:
    saved = _save(ledger, now)
    members = tuple(
        SavedMember(m.identity, {id: ledger.servers[id].accounts[m.identity.tag].limit for id in m.charges})
        for m in saved.members
    )
    return msgspec.structs.replace(saved, members=members)


def _restores_only_living(ledger: Ledger, listed: SavedMember, now: float, lives: bool) -> None:
    if lives:
        _restore_member(ledger, listed, now, lives)
    else:
        ledger.forget(listed.identity.tag)


def _restores_only_dead(ledger: Ledger, listed: SavedMember, now: float, lives: bool) -> None:
    if lives:
        ledger.remember(listed.identity)
    else:
        _restore_member(ledger, listed, now, lives)


def _restores_nothing(ledger: Ledger, saved: Saved, now: float, alive: Callable[[Identity], bool]) -> None:
    for old in saved.servers:
        server = ledger.server(old.id, aliases=old.aliases, run_id=old.run_id)
        server.budget = old.budget


# ---- the shells' rules ---------------------------------------------------------------------------


def _tells_first(self: Supervisor, turn: Turn) -> None:
    self._send_all(turn.tells)
    if turn.persist and not self._persist():
        self.ledger.abandon(turn, self.world.clock.now)
        return
    for server in turn.own:
        self._effect()
        self.inspections[server].granted()


def _ignores_a_full_disk(self: Supervisor, turn: Turn) -> None:
    if turn.persist:
        self._persist()
    self._send_all(turn.tells)
    for server in turn.own:
        self._effect()
        self.inspections[server].granted()


def _lists_at_once(self: Inspection) -> None:
    _open(self)
    self._state = "listing"
    self._lists = 0
    self.supervisor.after(self.world.delay(0.0001), self._list)


def _gives_back(self: Inspection) -> None:
    self._return()
    self._rest(max(0.0, self._rest_until - self.world.clock.now))


def _proves_by_an_older_list(self: Inspection, rows: Any) -> None:
    self._targets = self._todo()
    _listed(self, rows)


def _blind_to_unnamed(rows: Any, targets: Any, **how: Any) -> Verdict:
    return judge([row for row in rows if row.name], targets, **how)


def _spares_leftovers(rows: Any, targets: Any, **how: Any) -> Verdict:
    return msgspec.structs.replace(judge(rows, targets, **how), leftovers=())


def _kills_without_registration(rows: Any, targets: Any, **how: Any) -> Verdict:
    return judge(rows, targets, **{**how, "spare": ()})


def _kills_from_any_address(rows: Any, targets: Any, **how: Any) -> Verdict:
    return judge(rows, targets, **{**how, "ours": {row.host for row in rows}})


def _only_the_dead(self: Quarantine, now: float) -> bool:
    return self.exited


def _believes_at_once(rows: Any, targets: Any, **how: Any) -> Verdict:
    return Verdict(frozenset(targets), (), ())


_answer = Ledger._answer
_tell, _unlink, _exited, _ack = Ledger._tell, Ledger.unlink, Ledger.exited, Ledger._ack
_save, _save_server, _restore_member = recovery.save, recovery._server, recovery.restore_member
_open, _listed = Inspection._open, Inspection._listed

SEEDS = {
    "M3 counts gone at the bound": 39,
    "M4 opens unanswered": 193,
    "M4 states its limit only": 4,
    "M4 states what is open only": 193,
    "M4 reads the old link after registering": 21,
    "M4 opens on a link that is cut": 1201,
    "M5 child inherits the limit": 31,
    "S1 no sum check": 3,
    "S1 quarantine not counted": 1,
    "S1 tells before the snapshot": 26,
    "S1 raises on a full disk": 26,
    "S2 ack across links": 455,
    "S3 releases at the link's end": 3,
    "S3 nothing is kept to look with": 0,
    "S3 what is kept goes with its connection": 141,
    "S3 exec is not looked for": 13,
    "S3 what comes back is another": 13,
    "S3 what comes back replaces the last only": 165,
    "S3 no quarantine": 1,
    "S3 no list": 18,
    "S3 list before the fresh connection is answered": 28,
    "S3 list sent before the exit": 772,
    "S3 unnamed not suspected": 38,
    "S3 leftovers not killed": 81,
    "S3 kills without registration": 187,
    "S3 kills from any address": 117,
    "S3 charges a stranger for ever": 27,
    "S4 restarts without the snapshot": 6,
    "S4 drops the listed that died": 196,
    "S4 drops the unregistered": 6,
    "S4 obeys an older registration": 62,
    "S4 answers in full after a lost snapshot": 193,
    "S4 answers what fits while others may come": 193,
    "S4 waits for nobody after a lost snapshot": 80,
    "S4 searches no more after having waited": 1056,
    "snapshot as if nobody were waited for": 521,
    "snapshot without quarantine": 242,
    "snapshot without own": 18,
    "snapshot without a lowered budget": 1,
    "snapshot of the newest limits": 54,
    "S5 own opened although it does not fit": 1,
    "exits while something is charged": 224,
    "registration of the dead": 243,
}
"""A seed that is known to find it, by name, and in few steps; 0 for the others. The tests look for another one if
scenarios have changed."""

MUTANTS = (
    Mutant(
        "M1 ignores closing",
        "the server still counts them",
        ((MemberAccount, "_counts_as_open", _open_without_closing),),
    ),
    Mutant(
        "M1 counts only idle",
        "those in use are connections too",
        ((MemberAccount, "_counts_as_open", _open_only_idle),),
    ),
    Mutant(
        "M1 no limit check",
        "everybody opens as many as it likes",
        (
            (MemberAccount, "_may_open", MemberAccount._answered),
            (MemberAccount, "available", property(_always_available)),
        ),
    ),
    Mutant("M2 acks early", "the permit is used twice", ((MemberAccount, "_obeyed", _yes),)),
    Mutant(
        "M3 counts gone at the bound",
        "a half-open connection is still counted",
        ((MemberCore, "lost", MemberCore.gone),),
    ),
    Mutant("M4 opens unanswered", "the new supervisor does not know of it", ((MemberAccount, "_answered", _yes),)),
    Mutant(
        "M4 states its limit only",
        "what is above a lowered limit is forgotten",
        ((MemberAccount, "_stated", lambda self: self.limit),),
    ),
    Mutant(
        "M4 states what is open only",
        "no effect alone: nothing is opened before the answer, which is what was stated; so with that rule off too",
        ((MemberAccount, "_stated", _only_open), (MemberAccount, "_answered", _yes)),
    ),
    Mutant(
        "M4 reads the old link after registering",
        "a limit is obeyed that is not charged any more",
        ((MemberCore, "_listens_to", _yes), (Link, "_read_after_close", _yes)),
    ),
    Mutant(
        "M4 opens on a link that is cut",
        "a process that was stopped opens what is another's by now",
        ((Process, "notice_a_cut", lambda self: None),),
    ),
    Mutant("M5 child inherits the limit", "nobody has charged the child", ((MemberCore, "forked", _inheriting),)),
    Mutant("S1 no sum check", "more is told than there is", ((Ledger, "_fits", _not_held),)),
    Mutant(
        "S1 quarantine not counted",
        "what the dead left is still counted",
        ((Server, "outstanding", property(_without_quarantine)),),
    ),
    Mutant("S1 tells before the snapshot", "the successor does not know", ((Supervisor, "_act", _tells_first),)),
    Mutant("S1 raises on a full disk", "the successor does not know", ((Supervisor, "_act", _ignores_a_full_disk),)),
    Mutant("S2 releases when told", "the member may still have them open", ((Ledger, "_tell", _releases_when_told),)),
    Mutant("S2 ack without sequence", "an older ack frees a newer recall", ((Ledger, "_ack", _newest_acknowledged),)),
    Mutant(
        "S2 ack across links",
        "an ack of the old link frees what is told on the new one",
        ((Ledger, "_same_link", _yes), (Supervisor, "_supersede", lambda self, older: None)),
    ),
    Mutant("S3 releases at the link's end", "the process lives", ((Ledger, "unlink", _releases_at_end_of_file),)),
    Mutant(
        "S3 nothing is kept to look with",
        "deaths without a goodbye leave nothing to prove them with",
        ((inspection, "KEPT_BACK_FROM", 1 << 30), (inspection, "KEEPS_FROM", 1 << 30)),
    ),
    Mutant(
        "S3 what is kept goes with its connection",
        "members have got it before it is asked for again",
        ((Inspection, "_keep_permit", _gives_back),),
    ),
    Mutant("S3 exec is not looked for", "nobody ever says so", ((Supervisor, "_look_at", lambda self, tag: None),)),
    Mutant(
        "S3 what comes back is another",
        "its goodbye was not read, or it could say none, and the process lives",
        ((Supervisor, "_replaced", lambda self, tag: None),),
    ),
    Mutant(
        "S3 what comes back replaces the last only",
        "that one was never heard of",
        ((MemberCore, "replaced_by_next", lambda self: (self.tag,)),),
    ),
    Mutant("S3 no quarantine", "the server has not noticed yet", ((Ledger, "exited", _exits_without_quarantine),)),
    Mutant("S3 no list", "the server has not noticed yet", ((inspection, "judge", _believes_at_once),)),
    Mutant(
        "S3 list before the fresh connection is answered",
        "a queued connection is accepted later",
        ((Inspection, "_open", _lists_at_once),),
    ),
    Mutant(
        "S3 list sent before the exit",
        "a connection queued later is not on it",
        ((Inspection, "_listed", _proves_by_an_older_list),),
    ),
    Mutant("S3 unnamed not suspected", "it was just being named", ((inspection, "judge", _blind_to_unnamed),)),
    Mutant("S3 leftovers not killed", "half-open ones stay for ever", ((inspection, "judge", _spares_leftovers),)),
    Mutant(
        "S3 kills without registration",
        "anybody may bear a name of that form",
        ((inspection, "judge", _kills_without_registration),),
    ),
    Mutant(
        "S3 kills from any address",
        "a clone's process with its memory bears the same name",
        ((inspection, "judge", _kills_from_any_address),),
    ),
    Mutant(
        "S3 charges a stranger for ever",
        "he lives, and never registers",
        ((Quarantine, "due", _only_the_dead),),
    ),
    Mutant("S4 restarts without the snapshot", "nothing is known", ((recovery, "restore", _restores_nothing),)),
    Mutant(
        "S4 drops the listed that died", "nobody fences them", ((recovery, "restore_member", _restores_only_living),)
    ),
    Mutant(
        "S4 drops the unregistered",
        "they live and have connections",
        ((recovery, "restore_member", _restores_only_dead),),
    ),
    Mutant(
        "S4 obeys an older registration",
        "it states less than is told since",
        ((Ledger, "_outdated", _obeys_any_registration),),
    ),
    Mutant(
        "S4 answers in full after a lost snapshot", "others have been raised", ((Ledger, "_answer", _answers_in_full),)
    ),
    Mutant(
        "S4 answers what fits while others may come",
        "they have what it is given",
        ((Ledger, "_answer", _answers_what_fits),),
    ),
    Mutant(
        "S4 waits for nobody after a lost snapshot",
        "those that come have what others are given",
        ((Ledger, "mark_partial", _waits_for_nobody),),
    ),
    Mutant(
        "S4 searches no more after having waited",
        "who died meanwhile has left connections",
        ((Ledger, "whole", _searches_no_more),),
    ),
    Mutant(
        "snapshot as if nobody were waited for",
        "the successor waits for nobody",
        ((recovery, "save", _saves_as_if_whole),),
    ),
    Mutant(
        "snapshot without quarantine", "the successor hands it out", ((recovery, "_server", _saving(quarantine=())),)
    ),
    Mutant("snapshot without own", "the old connection is still counted", ((recovery, "_server", _saving(own=0)),)),
    Mutant(
        "snapshot without a lowered budget",
        "the successor raises up to the old one",
        ((recovery, "_server", _saving_first_budget()),),
    ),
    Mutant(
        "snapshot of the newest limits",
        "what is recalled may still be open",
        ((recovery, "save", _saves_newest_limits),),
    ),
    Mutant("S5 own not counted", "one connection too many", ((Server, "outstanding", property(_without_own)),)),
    Mutant("S5 own opened although it does not fit", "one connection too many", ((Ledger, "_own_fits", _yes),)),
    Mutant("exits while something is charged", "the successor knows of nothing", ((Ledger, "_settled", _yes),)),
    Mutant(
        "registration of the dead",
        "what was proven gone, and is somebody else's by now, is charged once more",
        ((Ledger, "_outdated", _obeys_the_dead),),
    ),
)


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The code with the rule switched off."""
    stack = [patch.object(*change) for change in mutant.patches]
    for change in stack:
        change.start()
    try:
        yield
    finally:
        for change in reversed(stack):
            change.stop()


def hunt(mutant: Mutant, seeds: int, first: int = 0) -> tuple[int, str] | None:
    """The first seed, of so many, that finds it, and what it says; None if none does.

    A seed that fails without the mutant too does not count.
    """
    for seed in range(first, first + seeds):
        scenario = draw(seed)
        if len(scenario.workers) > 20:
            continue  # slow, and no better at finding
        with applied(mutant):
            found = failure(scenario)
        if found and not failure(scenario):
            return seed, found
    return None


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.isdecimal()]
    seeds = next((int(word) for word in sys.argv[1:] if word.isdecimal()), 1000)
    for mutant in MUTANTS:
        if words and not any(word in mutant.name for word in words):
            continue
        began = time.monotonic()
        found = hunt(mutant, seeds)
        verdict = f"seed {found[0]}: {legible(found[1])[:70]}" if found else "NOT FOUND"
        print(f"{mutant.name:50s} {time.monotonic() - began:6.1f} s  {verdict}", flush=True)


if __name__ == "__main__":
    main()
