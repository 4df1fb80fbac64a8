"""What a new connection asks before it is used, in a fleet: whether its host's lease still stands (rule F5).

It has its name first, so that every search for the lease's connections sees it; then it reads its lease's record and
the server's clock, on the same connection and in the handshake's last packet. If the gate is shut, the connection is
closed unused, the supervisor asks the table why, and the caller waits as it does at a limit.

Here are the questions, and what follows from the answers; each flavour sends and reads in its way.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from poolmgr.exceptions import FleetRightsError, GateShutError
from poolmgr.lazy import load
from poolmgr.native import monotonic

Words = tuple[Any, ...]

ATTEMPTS = 8
"""Connections of one caller that may find the gate shut, one after the other. In between it waits for a limit."""


class Question:
    """One connection at its gate.

    Args:
        connection: whose permit says which gate it is.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._permit = connection._permit
        self._gate = self._permit.gate
        self._answers: list[Any] = []
        rules: Any = load("poolmgr.fleet.gate")
        self._rules = rules
        self._sent = monotonic()
        self.commands: tuple[Words, ...] = rules.commands(self._gate.key, self._gate.lease)

    @property
    def alone(self) -> tuple[Words, ...]:
        """The commands for a connection that may not have sent its name yet."""
        return (("CLIENT", "SETNAME", self._connection.client_name), *self.commands)

    def take(self, words: Words, reply: Any) -> None:
        """The reply to one of the commands, or its error.

        Raises:
            FleetRightsError: the user may not ask.
            redis.exceptions.ResponseError: the server cannot answer just now.
        """
        if isinstance(reply, NoPermissionError) or (isinstance(reply, ResponseError) and words[0] == "CLIENT"):
            raise FleetRightsError(self._lacks(words[0], str(reply)))
        if isinstance(reply, ResponseError):
            raise reply
        if words[0] != "CLIENT":
            self._answers.append(reply)

    def pass_through(self, nameless: str = "") -> None:
        """All replies are there.

        Args:
            nameless: why the server has refused the connection's name; empty: it has not.

        Raises:
            GateShutError: the connection must not be used.
            FleetRightsError: it has no name.
        """
        if nameless:
            raise FleetRightsError(self._lacks("CLIENT SETNAME", nameless))
        self._connection._passed = True
        records, clock = self._answers
        why = self._rules.shut(records, clock, self._gate.table)
        if not why:
            self._permit.permits.let_in(self._gate, self._sent + self._rules.left(records, clock))
        else:
            self._permit.permits.shut_out(self._gate, why)
            raise GateShutError(f"{self._permit.permits.endpoint} does not let this host's connections in: {why}")

    def _lacks(self, command: str, words: str) -> str:
        line: str = load("poolmgr.fleet.rights").line(getattr(self._connection, "username", None))
        return (
            f"in a fleet every new connection has its host's name and looks for its lease, and the server refused "
            f"{command}: {words}. Allow it: {line}"
        )


def shut_for_good(attempt: int, error: GateShutError) -> None:
    """A connection found its gate shut; the next attempt waits for a limit.

    Raises:
        GateShutError: this was the last attempt.
    """
    if attempt >= ATTEMPTS:
        raise error


def question(connection: Any) -> Question | None:
    """What this connection has to ask; None: nothing, or it has asked."""
    permit = connection._permit
    if permit is None or getattr(permit, "gate", None) is None or connection._passed:
        return None
    return Question(connection)
