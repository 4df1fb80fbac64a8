"""The supervisor's own connection to a server: its permit comes back when its end is proven, whatever ends a look."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest

from poolmgr import settings
from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.upstreams.findings import Work
from poolmgr.supervisor.upstreams.own_permits import OwnPermits
from poolmgr.supervisor.upstreams.session import AdminSession
from poolmgr.supervisor.upstreams.upstream import Upstream
from poolmgr.wire import Endpoint

FRESH = Work(endpoints=((Endpoint("tcp://server:1", host="server", port=1),),), fresh=True)


class Stalled:
    """A connection whose server has not confirmed its end when the time for that is over."""

    name = "tag-1"
    stalled = False

    def __init__(self) -> None:
        self.closing, self.over = threading.Event(), threading.Event()

    def close(self) -> bool:
        self.closing.set()
        assert self.over.wait(5)
        return False


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_end_that_is_not_proven_keeps_its_permit_though_the_look_was_cancelled(cancelled: bool) -> None:
    async def scene() -> None:
        clock = asyncio.get_running_loop().time
        ledger, upstream = Ledger(), Upstream("s")
        ledger.server("s", run_id="r")
        ledger.hold_raises("s", False)
        ledger.set_budget("s", 3, 0.0)
        permits = OwnPermits(ledger, "s", lambda: None, clock)
        session = AdminSession(upstream, ledger, permits, settings.load({}), itertools.count(1), lambda: None)
        permit = asyncio.ensure_future(session.permit())
        await asyncio.sleep(0)
        for _ in ledger.settle(clock()).own:
            permits.granted()
        assert await permit
        session._inspector.kept = kept = Stalled()  # type: ignore[assignment]
        look = asyncio.ensure_future(session.look(FRESH))
        assert await asyncio.to_thread(kept.closing.wait, 5)
        if cancelled:
            look.cancel()
            await asyncio.wait([look])
        kept.over.set()
        await session.shut()
        session.stop()
        assert upstream.unclosed.keys() == {"tag-1"}
        assert not session.holding
        assert (permits.used, ledger.own("s")) == (1, 1), "it is counted until it is proven gone"

    asyncio.run(scene())
