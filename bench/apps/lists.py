"""A supervisor that makes lists all the time, for :mod:`bench.parts.lag`: nothing else about it is another one's.

As it comes, lists take a hundredth of a server's time, so a run of some seconds would hold one or two, and any
percentile would be that of a quiet supervisor.
"""

from __future__ import annotations

import sys

from poolmgr.supervisor.__main__ import main
from poolmgr.supervisor.upstreams import schedule, throttle
from poolmgr.supervisor.views import audit

EVERY = 0.25
"""Seconds between two lists, and between two audits."""

if __name__ == "__main__":
    throttle.SHARE = schedule.LISTED_SHARE = 1.0
    schedule.LIST_EVERY = schedule.LIST_AGAIN = audit.EVERY = EVERY
    sys.exit(main(sys.argv[1:]))
