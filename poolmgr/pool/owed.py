"""What a connection owes: replies not read yet, and session state that the next holder must not inherit.

Every command sent adds one to :attr:`Counts._owed` before its first byte leaves; every reply read
takes one off. A connection is clean when the number is 0: known at any time, without a look at the
socket, whether the reply has arrived or not, whatever exception struck in between. State that a reply
does not end (WATCH, MULTI, a subscription, another database) is kept in high bits of the same number,
so that the pool's release asks one question.

``CLIENT REPLY OFF`` and ``SKIP`` need no rule of their own: the replies that they suppress stay owed.

redis-py asks the socket instead ("is there data?"), which misses a reply still on its way, and
under RESP3, where pushes are legitimate, it does not ask at all.

A new socket is a new session: every disconnect calls :meth:`Counts._settle`. Unknown state counts as owed: a
connection closed in vain costs a connect, one reused wrongly costs a caller a wrong answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from poolmgr.pool.session_state import IDENTITY, PLAIN, STRANGE, effect, kind, unpack

if TYPE_CHECKING:
    _Base: Any  # the connection class that it is mixed into; redis-py's have few types
else:
    _Base = object


class Packed(list[bytes]):
    """Packed commands that remember what they are."""

    __slots__ = ("commands",)

    def __init__(self, chunks: Iterable[bytes], commands: list[Any]) -> None:
        super().__init__(chunks)
        self.commands = commands
        """The commands' arguments, packed ones in order."""


class Counts(_Base):  # type: ignore[misc]
    """Mixed into a connection class of redis-py, or a user's: replies owed, and the state of the session."""

    _owed: int = 0
    """Replies to come, plus the flags above. 0: clean."""

    def _settle(self) -> None:
        """The session is over: nothing is owed, nothing is left open."""
        self._owed = 0

    def _authenticated(self) -> None:
        """AUTH and HELLO were ours."""
        self._owed &= ~IDENTITY

    def _record(self, commands: Iterable[Any]) -> None:
        """Count commands about to be sent."""
        owed, database = self._owed, self.db
        for args in commands:
            if kind(args[0]) == PLAIN:
                owed += 1
            else:
                owed, replies = effect(owed, args, database)
                owed += replies
        self._owed = owed

    def _record_packed(self, command: Any) -> None:
        """Count the commands in packed bytes about to be sent."""
        commands = command.commands if isinstance(command, Packed) else unpack(command)
        if commands is None:
            self._owed |= STRANGE
        else:
            self._record(commands)
