"""Whether another server is this one: a connection open to one is searched for at the other
(:mod:`poolmgr.supervisor.upstreams.likeness`)."""

from __future__ import annotations

import asyncio

from poolmgr.supervisor.upstreams.lender import Lender
from poolmgr.supervisor.upstreams.likeness import Seen
from poolmgr.supervisor.upstreams.session import AdminSession


async def alike(asking: AdminSession, other: Lender, patience: float, turn: asyncio.Lock) -> bool | None:
    """Whether the asked server is the other one. None: there was no answer. If no allowed question can tell, it counts
    as another one.

    Args:
        turn: one for each asked server.

    Raises:
        NoPermitError: the other server had no permit for a connection to search for.
    """
    async with other.showing(patience) as session:
        sign = session.sign if session is not None else None
        if session is None or sign is None:
            return None
        seen = await asking.sees(sign)
        if seen is Seen.UNTOLD:
            listening = await session.listen(sign)
            if listening is not None:
                seen = await asking.sees(listening)
            await session.shut()
        if seen is Seen.NUMBERED:
            async with turn:
                return await _alike_by_number(asking, other, session)
        return None if seen is None else seen is Seen.NAMED


async def _alike_by_number(asking: AdminSession, other: Lender, session: AdminSession) -> bool | None:
    """The same, after a connection with the right number was seen."""
    for _ in range(2):
        sign = session.sign
        if sign is None:
            return None
        before = await asking.sees(sign)
        if before is not Seen.NUMBERED:
            return None if before is None else before is Seen.NAMED
        await other.show_another()
        if session.in_doubt(sign.name):  # its end is not certain, so it may still be there
            return None
        after = await asking.sees(sign)
        if after is not Seen.MISSING:
            return None if after is None else False
    return True
