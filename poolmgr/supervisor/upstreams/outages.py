"""Outages: every member learns when one begins and ends; while it lasts, one member at a time tries to connect.

:mod:`poolmgr.supervisor.upstreams.verdict` gives the verdict; this module chooses whom to ask and whom to inform.
Before an outage begins, all members with connections are asked for their last reply, so that warm pools contradict at
once. If no permit of the server is handed out, or all are lost, only the supervisor can look, and its own look decides.

Looks are spaced by exponential backoff with full jitter, so that many hosts do not come back in one herd. The code is
our own: loading redis-py's would stop the event loop for longer than any pause.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import msgspec

from poolmgr import wire
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.upstreams.ports import RegistryPort
from poolmgr.supervisor.upstreams.upstream import Health, Upstream
from poolmgr.supervisor.upstreams.verdict import ALONE, Failure, Verdict

LONGEST = 1.0
"""Seconds between two looks at a server that is down, at most."""

FIRST = 0.02

ASKED = 0.25
"""Seconds for members to report their last reply. It takes a millisecond; a stopped process does not answer."""

TRIAL = 8.0
"""Seconds for a member to report the result of its attempt to connect; then another one tries."""


class Outages:
    """One upstream's health. Used in the event loop."""

    def __init__(self, upstream: Upstream, context: Context, registry: RegistryPort) -> None:
        self._upstream = upstream
        self._context = context
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._verdict = Verdict()
        self._failures = 0
        self._asked: Failure | None = None
        """The failure that members were last asked about."""
        self._owing: set[str] = set()
        """Members that were asked and have not answered."""
        self._tries = "", 0.0
        """The member that is to connect, and how long it is waited for."""
        self._tried: dict[str, float] = {}
        """When each member was last asked to connect."""
        self._told: set[str] = set()
        """Members that wait for the server's identity and know of the outage."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def blind(self) -> bool:
        """The supervisor cannot reach the server, but members have had replies since."""
        return self._verdict.blind

    @property
    def replied(self) -> float:
        """When a member or the supervisor last had a reply, in monotonic seconds."""
        return self._verdict.replied

    # ---- what happens ----------------------------------------------------------------------------

    def seen(self, at: float, now: float, error: str = "") -> bool:
        """A look was answered then, which says nothing of a connect that began later and failed; ``error``: the server
        did not let us in. Returns whether the server was unreached or down before."""
        is_back = not self._upstream.reached or not self._upstream.health.up
        self._failures = self._failures + 1 if error else 0
        self._upstream.reached = True
        self._verdict.seen(at)
        self._unseen(error)
        self.judge(now)
        return is_back

    def not_seen(self, error: str, began: float, now: float, *, ours: bool = False) -> None:
        """A look that began then was not answered, or could not be made for reasons of our own."""
        self._failures += 1
        self._upstream.reached = False
        self._verdict.not_seen(began, ours=ours)
        self._unseen(error)
        if not self._upstream.health.up and not self._verdict.down:
            self._upstream.health.error = error
        self.judge(now)
        if not self._upstream.health.up:
            self._tell_waiting()

    def waits(self, tag: str) -> None:
        """A member waits for the server's identity from now on."""
        self._told.discard(tag)
        if not self._upstream.health.up:
            self._tell_waiting()

    def _unseen(self, error: str) -> None:
        health = self._upstream.health
        before, health.unseen = health.unseen, error
        if error and not before:
            health.unseen_since = time.time()
            if not self._one_of_several:
                log.warning("server.unseen", extra={"server": self._upstream.id, "error": error})
        elif before and not error:
            seconds = round(time.time() - health.unseen_since, 3)
            health.unseen_since = 0.0
            if not self._one_of_several:
                log.info("server.seen", extra={"server": self._upstream.id, "seconds": seconds})

    def failed(self, tag: str, trouble: wire.Trouble, now: float) -> None:
        """A member could not connect."""
        if tag == self._tries[0]:
            self._tries = "", 0.0
        began = min(trouble.began or now, now)
        self._verdict.failed(tag, Failure(began, now, trouble.way, trouble.detail[:300]))
        if trouble.replied:
            self._verdict.heard(min(trouble.replied, now))
        self.judge(now)

    def heard(self, tag: str, at: float, now: float) -> None:
        """A member has reported when it last had a reply; 0: it knows of none."""
        self._owing.discard(tag)
        if at > self._verdict.replied:
            self._verdict.heard(min(at, now))
            if tag == self._tries[0]:
                self._tries = "", 0.0
        elif self._asked is None:
            return
        self.judge(now)

    def gone(self, tag: str) -> None:
        """A member has left."""
        self._verdict.gone(tag)
        self._tried.pop(tag, None)
        self._told.discard(tag)
        self._owing.discard(tag)
        if tag == self._tries[0]:
            self._tries = "", 0.0

    # ---- what follows ----------------------------------------------------------------------------

    def judge(self, now: float) -> None:
        """Whether an outage begins or ends now."""
        verdict = self._verdict
        if not self._upstream.health.up and not verdict.down:  # only we could look
            if verdict.unseen_since is None or self._others():
                self._end()
        elif verdict.down:
            if verdict.over:
                self._end()
            else:
                self._let_try(now)
        elif not self._others():
            if verdict.unseen_since is not None and not self._upstream.own:
                self._none_can_look(now)
        else:
            self._accuse(now)

    def _none_can_look(self, now: float) -> None:
        """No member has a permit to try with, so our own look decides. If members had permits and lost them all, this
        is an outage like any other: the first member with a permit tries."""
        if self.helpless:
            if self._verdict.blind or self._verdict.ours:
                return
            self._verdict.begin(Failure(now, now, "", self._upstream.health.unseen), now)
        self._begin(self._upstream.health.unseen)

    def _accuse(self, now: float) -> None:
        verdict, others = self._verdict, self._others()
        failure, borne_out = verdict.accused(others, now)
        if failure is None:
            self._asked = None
            return
        if self._asked is None or failure.at > self._asked.at + ASKED:
            self._asked = failure
            accounts = self._context.ledger.servers[self._upstream.id].accounts
            self._owing = {tag for tag in others if accounts[tag].report and accounts[tag].report.open}  # type: ignore[union-attr]
            for tag in self._owing:
                self._context.roster.send(tag, wire.Ask(self._upstream.id))
        if self._owing and now < self._asked.at + ASKED:
            self._later(self._asked.at + ASKED - now)
        elif borne_out:
            self._asked = None
            verdict.begin(failure, now)
            self._begin(failure.error)
            self._let_try(now)
        else:
            self._let_try(now)
            self._later(ALONE)

    def _others(self) -> list[str]:
        """Members that could connect, or have done so. A member whose connections are all lost cannot."""
        server = self._context.ledger.servers.get(self._upstream.id)
        if server is None:
            return []
        lost = Counter(name.rpartition("-")[0] for name in self._upstream.lost)
        return [tag for tag, a in server.accounts.items() if a.linked and a.charge > lost[tag]]

    @property
    def helpless(self) -> bool:
        """Members have lost all their connections and permits, so none of them can find out anything."""
        return bool(self._upstream.lost) and not self._others()

    def _let_try(self, now: float) -> None:
        """Let one member at a time connect: among members without a fresh failure, the one asked longest ago."""
        if now < self._tries[1]:
            self._later(self._tries[1] - now)
            return
        verdict = self._verdict
        failed = {} if verdict.down else verdict.witnesses
        others = [tag for tag in self._others() if tag not in failed]
        if not others:
            return
        if verdict.down and now < max(self._tried.values(), default=0.0) + self.pause():
            self._later(LONGEST / 4)
            return
        tag = min(others, key=lambda other: self._tried.get(other, 0.0))
        self._tried[tag] = now
        self._tries = tag, now + TRIAL
        self._context.roster.send(tag, msgspec.structs.replace(self._registry.health_of(self._upstream), trial=True))
        self._later(TRIAL)

    def _later(self, seconds: float) -> None:
        """Judge again after so many seconds, unless something happens before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._again)

    def _again(self) -> None:
        self._timer = None
        if self._upstream.id in self._registry.upstreams:
            self.judge(self._loop.time())

    @property
    def _one_of_several(self) -> bool:
        """It is one address of a name with several, and was never reached."""
        return self._upstream.among and not self._upstream.resolved

    def _begin(self, error: str) -> None:
        health = self._upstream.health
        health.up, health.since, health.error = False, time.time(), error
        if self._one_of_several:
            log.info("address.unreached", extra={"server": self._upstream.id, "error": error})
        else:
            self._upstream.outages += 1
            log.warning("outage.began", extra={"server": self._upstream.id, "error": error})
        self._tell()

    def _end(self) -> None:
        health = self._upstream.health
        seconds = round(time.time() - health.since, 3)
        log.warning("outage.ended", extra={"server": self._upstream.id, "seconds": seconds})
        self._upstream.health = Health(unseen=health.unseen, unseen_since=health.unseen_since)
        self._verdict.end()
        self._tries = "", 0.0
        self._tell()

    def _tell(self) -> None:
        """Tell every member that uses the server, and those that wait to use it."""
        users = set(self._context.ledger.servers[self._upstream.id].accounts)
        self._context.roster.broadcast(users, self._registry.health_of(self._upstream))
        self._told = users
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        """Tell the members that wait. Of an outage each learns when its own ways have failed too, and their error: a
        way that was not tried may work."""
        upstream = self._upstream
        health = self._registry.health_of(upstream)
        for tag in dict.fromkeys(tag for tag, _ in upstream.waiting):
            if tag not in self._told and (health.up or upstream.ways.hopeless(tag)):
                self._told.add(tag)
                error = "" if health.up else upstream.ways.error_of(tag) or health.error
                self._context.roster.send(tag, msgspec.structs.replace(health, error=error))

    def pause(self) -> float:
        """Seconds until the next look."""
        return max(0.005, random.uniform(0, min(LONGEST, FIRST * 2 ** min(self._failures, 20))))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
