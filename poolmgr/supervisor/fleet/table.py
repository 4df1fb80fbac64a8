"""The fleet's table at one server, asked over the supervisor's own connection. It blocks: for a probe's thread.

The script is sent once to each server process, and called by its hash from then on
(https://redis.io/docs/latest/develop/programmability/eval-intro/#script-cache). It is no function library: that would
be data of the user's, which is replicated and listed.
"""

from __future__ import annotations

import hashlib

import msgspec

from poolmgr.fleet import rights, script, source
from poolmgr.fleet.script import Reply
from poolmgr.supervisor.upstreams.admin import Admin, fields
from poolmgr.supervisor.upstreams.resp import ReplyError


class TableError(Exception):
    """The table could not be asked.

    Attributes:
        passing: the server cannot answer just now; else something has to be changed, and the text says what.
    """

    def __init__(self, text: str, *, passing: bool) -> None:
        super().__init__(text)
        self.passing = passing


class Table:
    """See the module's docstring.

    Args:
        fleet: its name.
    """

    def __init__(self, fleet: str) -> None:
        self.key = script.key(fleet)

    def about(self, admin: Admin) -> dict[str, str]:
        """What the server process at the other end of this connection says of itself; asked once for each connection,
        in its handshake where that could be.

        Raises:
            TableError: it does not.
            AdminError: there was no answer.
        """
        if not admin.about:
            try:
                reply = admin.call("INFO", "server")
            except ReplyError as error:
                raise self._refused(admin, "INFO", error) from None
            admin.about = fields(reply) if isinstance(reply, bytes) else {}
        if not admin.about.get("run_id"):
            raise TableError(
                "the server's INFO shows no run_id: a fleet cannot tell its processes apart", passing=False
            )
        return admin.about

    def ask(self, admin: Admin, *arguments: str | int) -> Reply:
        """The script's answer to one question.

        Raises:
            TableError: the server does not run the script.
            AdminError: there was no answer.
        """
        version = self.about(admin).get("redis_version", "")
        text = source.text(int(version.partition(".")[0] or 0) if version[:1].isdecimal() else 0)
        try:
            try:
                return self._called(admin, "EVALSHA", _hash(text), arguments)
            except ReplyError as error:
                if not str(error).startswith("NOSCRIPT"):
                    raise
            return self._called(admin, "EVAL", text, arguments)
        except ReplyError as error:
            raise self._refused(admin, "EVALSHA", error) from None

    def _called(self, admin: Admin, command: str, what: str, arguments: tuple[str | int, ...]) -> Reply:
        reply: Reply = admin.call(command, what, 1, self.key, *arguments)
        return reply

    def _refused(self, admin: Admin, command: str, error: ReplyError) -> TableError:
        if error.passing:
            return TableError(f"the server does not renew this host's lease now: {error}", passing=True)
        if "WRONGTYPE" in str(error):
            text = f"the key {self.key} holds something other than a fleet's table: rename it, or remove it ({error})"
            return TableError(text, passing=False)
        return TableError(rights.refusal(command, str(error), admin.endpoint.username), passing=False)

    def renew(self, admin: Admin, renewal: script.Renewal) -> script.Renewed | script.Refused:
        """Renew, join or claim, and name this connection after the lease.

        Raises:
            TableError: it could not be asked.
            AdminError: there was no answer; the request may be executed later.
        """
        run = self.about(admin)["run_id"]
        if admin.nameless:
            raise self._refused(admin, "CLIENT SETNAME", ReplyError(admin.nameless))
        try:
            answer = script.answer(self.ask(admin, *msgspec.structs.replace(renewal, run=run).arguments()))
        except script.UnreadableError as error:
            raise TableError(f"{error}: another version of redis-poolmgr made it", passing=False) from None
        if isinstance(answer, script.Renewed) and admin.lease != renewal.name:
            admin.rename(renewal.name)
        return answer

    def leave(self, admin: Admin, table: str, name: str) -> None:
        """The lease ends: nothing of its name is open but this connection.

        Raises:
            TableError: it could not be asked.
            AdminError: there was no answer.
        """
        self.ask(admin, *script.leave(self.about(admin)["run_id"], table, name))


def _hash(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
