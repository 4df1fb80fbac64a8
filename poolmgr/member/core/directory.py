"""Which endpoint of this process leads to which server, and for how long that is remembered.

Pure, like everything under :mod:`poolmgr.member.core.process`. A pool names an endpoint, and the supervisor answers
with its server. Until then the endpoint has a dispatcher of its own, with limit 0. Endpoints that turn out to be one
server move to one dispatcher, with their sockets. An answer holds for one link: the process asks the next supervisor
again. An endpoint or a server that nothing uses for :data:`FORGET_AFTER` seconds is forgotten, and the supervisor
hears of it.

A mistake here can charge a socket to the wrong server: so the limit never moves along (:meth:`Directory._take_along`).
"""

from __future__ import annotations

import random
from collections import deque

from poolmgr import wire
from poolmgr.member.core.dispatcher import NEVER, Attachment, Dispatcher

FORGET_AFTER = 5.0
"""Seconds for which an unused endpoint or server is kept: another pool may be about to use it."""

_MARK = "?"


class Directory:
    """The dispatchers of one process, and which endpoint belongs to which.

    Args:
        out: messages to send on the present link.
        rng: for the dispatchers' jitter after an outage.

    Attributes:
        linked: whether there is a link to a supervisor.
        parts: that supervisor accepts goodbyes to single servers.
        dispatchers: by server; for an unresolved endpoint, under a marker and the endpoint's key.
        endpoints: what pools and sockets need, by key.
        resolved: dispatchers by endpoint key, as resolved on the present link.
    """

    def __init__(self, out: deque[wire.Message], rng: random.Random) -> None:
        self.linked = self.parts = False
        self.dispatchers: dict[str, Dispatcher] = {}
        self.endpoints: dict[str, wire.Endpoint] = {}
        self.resolved: dict[str, Dispatcher] = {}
        self._out = out
        self._rng = rng
        self._questions = 0
        self._asked: dict[str, int] = {}
        """By endpoint: the number of the last question about it on this link. Absent: the registration asked."""
        self._unused: dict[str, float] = {}
        """Endpoints that a pool has left, and when they are forgotten if no other pool uses them."""

    # ---- the link --------------------------------------------------------------------------------

    def register(self) -> None:
        """A link begins: what nothing uses any more is not stated on it, and nothing is resolved."""
        used = self._used()
        for key in [key for key, d in self.dispatchers.items() if not (d.attachments or d.account.open)]:
            del self.dispatchers[key]
        for key in self._unused.keys() - used:
            self.endpoints.pop(key, None)
        self._unused.clear()
        self.linked, self.parts = True, False
        self.resolved.clear()
        self._asked.clear()
        self._questions = 0

    def unlinked(self) -> None:
        """The link is lost."""
        self.linked = False
        for dispatcher in self.dispatchers.values():
            dispatcher.unlinked()

    # ---- pools come and go -----------------------------------------------------------------------

    def attach(self, attachment: Attachment) -> None:
        """A pool names its endpoint; the supervisor is asked about a new one, or one with other credentials."""
        key = attachment.endpoint.key
        if self.endpoints.get(key) != attachment.endpoint:
            self.endpoints[key] = attachment.endpoint
            if self.linked:
                self._ask(attachment.endpoint)
        dispatcher = self.resolved.get(key) or self.dispatcher(unresolved(key))
        attachment.dispatcher = dispatcher
        attachment.untried = dispatcher.outage is not None and not any(
            other.endpoint == attachment.endpoint for other in dispatcher.attachments
        )
        dispatcher.attachments.append(attachment)
        dispatcher.publish()
        dispatcher.dirty = True

    def renew(self, attachment: Attachment, endpoint: wire.Endpoint) -> None:
        """Its pool now has other credentials."""
        attachment.endpoint = endpoint
        self.endpoints[endpoint.key] = endpoint
        if self.linked:
            self._ask(endpoint)

    def detach(self, attachment: Attachment) -> None:
        """The pool is gone. Sockets taken through it stay counted until their end."""
        dispatcher, key = attachment.dispatcher, attachment.endpoint.key
        dispatcher.attachments = [a for a in dispatcher.attachments if a is not attachment]
        dispatcher.dirty = True
        self._unused[key] = NEVER
        unknown = self.dispatchers.get(unresolved(key))
        if (
            unknown is dispatcher
            and not dispatcher.attachments
            and not dispatcher.waiters
            and not dispatcher.account.open
        ):
            # Nothing depends on it: without a known server, nothing was ever opened there.
            del self.dispatchers[unresolved(key)]
            self.endpoints.pop(key, None)
            self._asked.pop(key, None)
            self._unused.pop(key, None)
            if self.linked:
                self._out.append(wire.Detach(key))

    def spares(self, key: str) -> bool:
        """Whether it is one of several addresses of a name, and has not been reached yet."""
        endpoint = self.endpoints.get(key)
        return endpoint is not None and endpoint.among and key not in self.resolved

    def is_placed(self, attachment: Attachment) -> bool:
        """Whether this link's supervisor has said to which server its address leads. An earlier supervisor's answer may
        be out of date, and a limit at that server says nothing of another one."""
        return attachment.endpoint.key in self.resolved

    def dispatcher(self, server: str) -> Dispatcher:
        """The dispatcher of that name, made if it is new."""
        dispatcher = self.dispatchers.get(server)
        if dispatcher is None:
            name = "" if server.startswith(_MARK) else server
            dispatcher = self.dispatchers[server] = Dispatcher(name, self._rng, linked=self.linked)
        return dispatcher

    # ---- questions and answers -------------------------------------------------------------------

    def _ask(self, endpoint: wire.Endpoint) -> None:
        self._questions += 1
        self._asked[endpoint.key] = self._questions
        self._out.append(wire.Attach(endpoint, self._questions))

    def answered(self, key: str, server: str, number: int) -> None:
        """The supervisor says which server an endpoint is."""
        if self._answers_the_last(key, number):
            self.resolve(key, server)

    def _answers_the_last(self, key: str, number: int) -> bool:
        """Whether an answer is to the last question about this endpoint, and the endpoint is still wanted. A 0.1.0
        supervisor does not number its answers."""
        return key in self.endpoints and (not self.parts or number == self._asked.get(key, 0))

    def resolve(self, key: str, server: str) -> None:
        """An endpoint is that server: its users, and their sockets, move to the server's dispatcher.

        The limit stays behind: it was for another name, and its charge is acknowledged there.
        """
        there = self.dispatcher(server)
        for dispatcher in [d for d in self.dispatchers.values() if d is not there]:
            moving = [a for a in owners(dispatcher) if a.endpoint.key == key]
            before = dispatcher.account.open
            for states, into in (
                (dispatcher.account.live, there.account.live),
                (dispatcher.account.closing, there.account.closing),
                (dispatcher.account.lost, there.account.lost),
            ):
                for serial in [s for s, owner in states.items() if owner.endpoint.key == key]:
                    into[serial] = states.pop(serial)
                    if serial in dispatcher.account.leases:
                        there.account.leases[serial] = dispatcher.account.leases.pop(serial)
            self._take_along(dispatcher, before - dispatcher.account.open)
            for attachment in moving:
                attachment.dispatcher = there
            there.attachments += [a for a in dispatcher.attachments if a.endpoint.key == key]
            dispatcher.attachments = [a for a in dispatcher.attachments if a.endpoint.key != key]
            for waiter in [w for w, owner in dispatcher.waiters.items() if owner.endpoint.key == key]:
                there.waiters[waiter] = dispatcher.waiters.pop(waiter)
            if moving:
                there.tell_lost = bool(there.account.lost)
                dispatcher.touched()
        self.dispatchers.pop(unresolved(key), None)
        self.resolved[key] = there
        there.touched()

    @staticmethod
    def _take_along(dispatcher: Dispatcher, sockets: int) -> None:
        """Sockets that moved to another dispatcher leave no room here: their charge moved along."""
        dispatcher.account.limit = max(0, dispatcher.account.limit - sockets)

    # ---- forgetting ------------------------------------------------------------------------------

    def tidy(self, now: float) -> float:
        """Forget endpoints unused for a while, and servers with nothing open, and send the supervisor a goodbye for
        each. Returns when the next may be forgotten."""
        if not (self.parts and self.linked):
            return NEVER
        wake = NEVER
        dispatchers = list(self.dispatchers.values())
        if self._unused:
            used = self._used()
            attached = {a.endpoint.key for dispatcher in dispatchers for a in dispatcher.attachments}
            for key, at in sorted(self._unused.items()):
                if key in attached:
                    del self._unused[key]
                elif key in used or key not in self.resolved:
                    self._unused[key] = NEVER
                elif at == NEVER or now < at:
                    self._unused[key] = at = now + FORGET_AFTER if at == NEVER else at
                    wake = min(wake, at)
                else:
                    self._forget(key)
        for dispatcher in dispatchers:
            account = dispatcher.account
            if dispatcher.attachments or not account.server or not account.seq or not self._may_forget(dispatcher):
                dispatcher.forget_at = NEVER
            elif dispatcher.forget_at == NEVER or now < dispatcher.forget_at:
                dispatcher.forget_at = now + FORGET_AFTER if dispatcher.forget_at == NEVER else dispatcher.forget_at
                wake = min(wake, dispatcher.forget_at)
            else:
                for key in [key for key, known in self.resolved.items() if known is dispatcher]:
                    self._forget(key)
                del self.dispatchers[account.server]
                self._out.append(wire.Detach("", account.server, account.seq))
        return wake

    def _forget(self, key: str) -> None:
        """Nothing uses this endpoint: its next user asks again where it leads."""
        self._unused.pop(key, None)
        del self.resolved[key]
        self.endpoints.pop(key, None)
        self._asked.pop(key, None)
        self._out.append(wire.Detach(key))

    def _used(self) -> set[str]:
        """Endpoints with a place, a socket or a waiting caller."""
        dispatchers = self.dispatchers.values()
        users = [owner for dispatcher in dispatchers for owner in (*owners(dispatcher), *dispatcher.waiters.values())]
        return {owner.endpoint.key for owner in users}

    def _may_forget(self, dispatcher: Dispatcher) -> bool:
        """Whether nothing is open there, and every endpoint in use has been resolved."""
        if dispatcher.account.open or dispatcher.waiters:
            return False
        return all(
            owner.endpoint.key in self.resolved for other in self.dispatchers.values() for owner in owners(other)
        )


def unresolved(key: str) -> str:
    """The name of the dispatcher of an endpoint whose server is not known."""
    return _MARK + key


def owners(dispatcher: Dispatcher) -> list[Attachment]:
    """All attachments with a place or a socket at the dispatcher."""
    account = dispatcher.account
    found = {id(a): a for a in dispatcher.attachments}
    for states in (account.live, account.closing, account.lost):
        found.update((id(a), a) for a in states.values())
    return list(found.values())
