"""The registrar of members: it receives client messages and acts on them.

Members are known by their tags. A tag is believed only if it names the very process that the kernel reports at the
other end (pid and start time), in this boot and for this socket. Everything that concerns permits goes to the ledger;
everything that concerns reaching a server goes to the registry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from poolmgr import tags, wire
from poolmgr.budget.accounts import Identity
from poolmgr.kernel import processes
from poolmgr.supervisor.clients.link import Link, limited
from poolmgr.supervisor.clients.roster import Member
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.pictures import Pictures
from poolmgr.supervisor.upstreams.registry import Registry

SILENT_STRANGER = 10.0
"""Seconds after which a silent client is dropped."""

AFTER_CLOSE = (0.05, 0.5)
"""Seconds after a link's end at which its process is checked again: ``exec`` closes the link halfway, when the new
program cannot be distinguished from the old one yet."""

UNLINKED = 50
"""How many processes without a link one tick checks."""

TOO_MANY = "too many servers are known here: does a program make up an address for each connection?"


class Registrar:
    """Receives the messages of links.

    Args:
        boot: as in tags.
        lock: device and inode of this supervisor's lock file.
        budget: the budget in the supervisor's own environment, as text.
        closed: a link has closed.
    """

    def __init__(
        self,
        context: Context,
        registry: Registry,
        pictures: Pictures,
        *,
        boot: str,
        lock: tuple[int, int],
        budget: str,
        closed: Callable[[Link], None],
    ) -> None:
        self._ledger = context.ledger
        self._committer = context.committer
        self._watch = context.watch
        self._roster = context.roster
        self._registry = registry
        self._pictures = pictures
        self._boot = boot
        self._lock = lock
        self._budget = budget
        self.answer: Callable[[wire.Query | wire.SetBudget], wire.Answer] = _no_answer
        """Answers a tool's question. Set once."""
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._pid = context.ledger.owner.pid
        self._began = context.committer.clock()
        self.left = False
        """The last member to go said goodbye."""
        self.service_left = False
        """A service's master has said goodbye, and no process has come since."""

    # ---- from clients -----------------------------------------------------------------------------

    def received(self, link: Link, message: wire.Message) -> None:
        """Handle a client's message (see :class:`poolmgr.supervisor.clients.link.Receiver`).

        Raises:
            WireError: it makes no sense; the client is dropped.
        """
        link.known = True
        wrong = wire.objection(message)
        if wrong:
            raise wire.WireError(wrong)
        match message:
            case wire.Ping():
                link.send(wire.Pong(message.nonce))
            case wire.Hello():
                self._hello(link, message)
            case wire.Query() | wire.SetBudget():
                self._ask(link, message)
            case wire.Bye() if not link.tag:  # from a gunicorn master, which is not a member
                self.left, self.service_left = self.left or not self._roster.known, True
                link.close()
            case _ if not link.tag:
                link.refuse("say hello first")
            case _:
                self._from_member(link, message)

    def _ask(self, link: Link, question: wire.Query | wire.SetBudget) -> None:
        answer = self.answer(question)
        try:
            link.send(answer)
        except wire.WireError as error:
            link.send(wire.Answer(f"the answer is too long: {error}", ok=False))

    def _from_member(self, link: Link, message: wire.Message) -> None:
        member = self._roster.known.get(link.tag)
        if member is None or member.link is not link:
            link.drop()  # an older link, or the process is gone
            return
        now = self._committer.clock()
        match message:
            case wire.Report():
                self._ledger.report(link.tag, link.number, message, now)
                if message.waiting:
                    self._pictures.asks(link.tag, message.server)
                self._registry.heard(message.server, link.tag, message.replied)
                self._committer.touch()
            case wire.Attach():
                self._registry.addresses.asked(link.tag, message.endpoint.key, message.number)
                if not self._attach(link.tag, message.endpoint):
                    link.refuse(TOO_MANY)
            case wire.Detach():
                self._detach(link, message, now)
            case wire.Lost():
                self._registry.lost(message.server, link.tag, message.serials)
            case wire.Trouble():
                self._registry.trouble(link.tag, message)
            case wire.Stats():
                self._roster.totals.report(link.tag, message, inherited=link.number > 1 and message.since < self._began)
            case wire.Bye():
                self._ledger.leave(link.tag, link.number, now)
                self._forget(link.tag)
                self.left = True
                log.info("member.left", extra={"member": link.peer.pid, "title": member.identity.title})
                self._committer.touch()
                link.close()

    def _detach(self, link: Link, message: wire.Detach, now: float) -> None:
        """It no longer uses an address; with a server's last address it says goodbye to that server."""
        if message.endpoint:
            self._registry.detached(link.tag, message.endpoint)
        if not message.server:
            return
        self._ledger.leave_one(link.tag, link.number, message.server, message.seq, now)
        if self._registry.goes_to(link.tag, message.server):  # it has come back meanwhile
            self._ledger.attach(link.tag, message.server, now)
        self._committer.touch()

    # ---- registration -----------------------------------------------------------------------------

    def _hello(self, link: Link, hello: wire.Hello) -> None:
        if not processes.start_time(link.peer.pid):
            link.drop()  # it has ended since
            return
        reason = self._objection(link, hello)
        if reason:
            link.refuse(reason)
            return
        pid = link.peer.pid
        tag = tags.find(hello.tag)
        assert tag is not None
        known = self._roster.known.get(hello.tag)
        start, program = tag.start, processes.program(pid)
        mark = hello.mark if hello.mark and processes.bears(pid, hello.mark) else 0
        process = Identity(hello.tag, pid, start, program, hello.title[:80], mark)
        for other in self._roster.by_pid.get(pid, set()) - {hello.tag}:
            self._watch.check(other)  # the process may have become another program
        for before in hello.replaces:
            if _is_another_of(before, tag) and not self._ledger.is_departed(before):
                self.gone(before)
                self._ledger.persist()
        pidfd, link.pidfd = link.pidfd, -1
        if not self._watch.add(process, pidfd):
            link.drop()
            return
        now = self._committer.clock()
        holds: dict[str, int] = {}
        opened: dict[str, int] = {}
        leases: dict[str, list[str]] = {}
        dropped = 0
        for hold in hello.holds:
            upstreams = self._registry.held(hold)
            dropped += not upstreams
            for upstream, (stated, of_that) in upstreams.items():
                holds[upstream.id] = holds.get(upstream.id, 0) + stated
                opened[upstream.id] = opened.get(upstream.id, 0) + of_that
                leases.setdefault(upstream.id, []).extend(hold.leases)
                holder = self._registry.probes[upstream.id].holder
                if holder is not None:
                    holder.adopt(list(hold.leases))
        if dropped:
            limited("member.holds_too_much", member=pid, dropped=dropped)
        if not self._ledger.register(
            process, hello.link, holds, now, opened=opened, ceiling=hello.descriptors, leases=leases
        ):
            limited("member.outdated", member=pid, link=hello.link)
            link.drop()
            return
        self._registry.addresses.asks_again(hello.tag)
        self._registry.latecomers.registered(hello.tag)
        if known is not None and known.link is not None and known.link is not link:
            known.link.tag = ""  # its end says nothing about the member
            known.link.drop()
        link.tag, link.number = hello.tag, hello.link
        version = min(wire.VERSION, hello.versions[1])
        self._roster.add(hello.tag, Member(process, link, max(0, hello.descriptors), version, since=now))
        self.left = self.service_left = False
        self._ledger.adopt(hello.scope)
        scope = next(iter(self._ledger.scopes), "")
        link.send(wire.Welcome(version, self._pid, self._budget, scope, self._lock, parts=True))
        self._pictures.came(link)
        log.info(
            "member.joined",
            extra={
                "member": pid,
                "title": process.title,
                "link": hello.link,
                "holds": sum(holds.values()),
                "version": version,
            },
        )
        if hello.budget and hello.budget != self._budget:
            limited("member.other_budget", member=pid, theirs=hello.budget[:40], ours=self._budget)
        if not all(self._attach(hello.tag, endpoint) for endpoint in hello.endpoints):
            link.refuse(TOO_MANY)
        self._registry.registered(hello.tag, holds)
        self._committer.touch()

    def _objection(self, link: Link, hello: wire.Hello) -> str:
        """Why this registration is not believed; empty: it is."""
        if link.tag:
            return "you have registered already on this connection"
        if hello.versions[0] > wire.VERSION or hello.versions[1] < wire.OLDEST:
            return (
                f"you speak protocol versions {hello.versions[0]} to {hello.versions[1]}, this supervisor "
                f"{wire.OLDEST} to {wire.VERSION}: run one version of redis-poolmgr on this host"
            )
        if self._ledger.fleet and hello.versions[1] < wire.GATES:
            return (
                f"you speak protocol versions {hello.versions[0]} to {hello.versions[1]}, and this host is in a fleet "
                f"(REDIS_FLEET), which needs {wire.GATES}: run one version of redis-poolmgr on this host"
            )
        tag = tags.find(hello.tag)
        if tag is None or tag.process != hello.tag:
            return "your tag is malformed"
        if tag.boot != self._boot:
            return "your tag was made in another boot"
        if tag.pid != link.peer.pid:
            return f"your tag says process {tag.pid} and the kernel says {link.peer.pid}"
        if tag.start != processes.start_time(link.peer.pid):
            return (
                f"your tag's start time is not that of process {tag.pid}: it is another process's, or you run in "
                "another time namespace; then run a supervisor inside it with a POOLMGR_SOCKET of its own"
            )
        return ""

    def _attach(self, tag: str, endpoint: wire.Endpoint) -> bool:
        """Whether there is room for the endpoint."""
        upstream = self._registry.upstream_for(endpoint, tag)
        if upstream is None:
            return False
        if upstream.resolved:
            self._registry.resolved(upstream, tag, endpoint.key)
        else:
            upstream.waiting.append((tag, endpoint.key))
            self._registry.probes[upstream.id].outages.waits(tag)
        return True

    # ---- ends -------------------------------------------------------------------------------------

    def closed(self, link: Link) -> None:
        """A link has closed. That proves nothing, but is a reason to check the process."""
        self._closed(link)
        member = self._roster.known.get(link.tag) if link.tag else None
        if member is not None and member.link is link:
            member.link = None
            self._ledger.unlink(link.tag, link.number, self._committer.clock())
            self._committer.touch()
            self._watch.check(link.tag)
            for later in AFTER_CLOSE:
                self._loop.call_later(later, self._watch.check, link.tag)

    def gone(self, tag: str) -> None:
        """The process has ended or become another program (rule S3). Its end can be seen before its last messages are
        read: after a goodbye nothing is left to prove."""
        member = self._roster.known.get(tag)
        if member is not None and member.link is not None:
            member.link.read_to_the_end()
            if self._ledger.is_departed(tag):
                return
        self._ledger.exited(tag, self._committer.clock())
        if member is not None:
            log.info("member.gone", extra={"member": member.identity.pid, "title": member.identity.title})
            if member.link is not None:
                link, member.link = member.link, None
                link.tag = ""
                link.drop()
        self._forget(tag)
        self._registry.exited(tag)
        self._committer.touch()

    def _forget(self, tag: str) -> None:
        self._pictures.forget(tag)
        self._watch.remove(tag)
        if self._roster.remove(tag) is not None:
            self._registry.departed(tag)

    def tick(self, links: set[Link]) -> None:
        """Called a few times a second."""
        now = self._committer.clock()
        for link in list(links):
            if not link.known and now - link.since > SILENT_STRANGER and not link.has_spoken():
                limited("client.silent", member=link.peer.pid)
                link.drop()
        for tag in [tag for tag, member in self._ledger.members.items() if not member.linked][:UNLINKED]:
            self._watch.check(tag)  # a program that has ended sends nothing more, and neither does its successor


def _no_answer(question: wire.Query | wire.SetBudget) -> wire.Answer:
    return wire.Answer("the supervisor is starting", ok=False)


def _is_another_of(other: str, tag: tags.Tag) -> bool:
    """Whether ``other`` is another tag of the same process."""
    found = tags.find(other)
    if found is None or found.process != other or other == tag.process:
        return False
    return (found.boot, found.pid, found.start) == (tag.boot, tag.pid, tag.start)
