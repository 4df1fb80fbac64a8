"""The supervisor's own permits: whoever waits for one gets it or leaves it, whatever comes at the same moment."""

from __future__ import annotations

import asyncio
import time

import pytest

from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.upstreams.own_permits import OwnPermits


class Upstream:
    def __init__(self) -> None:
        self.clock = asyncio.get_running_loop().time
        self.ledger = Ledger()
        self.ledger.server("s", run_id="r")
        self.ledger.hold_raises("s", False)
        self.ledger.set_budget("s", 3, 0.0)
        self.permits = OwnPermits(self.ledger, "s", lambda: None, self.clock)

    def turn(self) -> None:
        for _ in self.ledger.settle(self.clock()).own:
            self.permits.granted()


@pytest.mark.parametrize("ends", ["in time", "by the timeout", "by a cancellation"])
def test_a_permit_that_is_granted_at_the_last_moment_is_not_lost(ends: str) -> None:
    async def scene() -> None:
        upstream = Upstream()
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(upstream.permits.acquire(0.02 if ends == "by the timeout" else 10))
        await asyncio.sleep(0)

        def late() -> None:
            loop.call_soon(upstream.turn)
            if ends == "by the timeout":
                time.sleep(0.03)  # so that the grant and the timeout come in one turn of the loop, in this order
            elif ends == "by a cancellation":
                loop.call_soon(task.cancel)

        loop.call_soon(late)
        if ends == "by a cancellation":
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert await task
            upstream.permits.release()
        upstream.turn()
        assert (upstream.permits.used, upstream.ledger.own("s")) == (0, 0)
        assert upstream.ledger.idle

    asyncio.run(scene())
