"""The supervisor with one rule of the fleet's protocol switched off (``OFF``), for the proof that a test would notice.

``proof``: what is marked is freed without a look at the server. ``learning``: a new table grants at once.
"""

from __future__ import annotations

import os
import sys

from poolmgr.fleet import duty, script, source
from poolmgr.supervisor.__main__ import main

OFF = os.environ["OFF"]

if OFF == "proof":
    judge = duty.judge

    def blind(survey: script.Survey, fresh: int, clients: object) -> duty.Verdict:
        return duty.Verdict(frozenset(), survey.marked, True, 0)

    duty.judge = blind
    duty.leftovers = lambda condemned, clients: []
elif OFF == "learning":
    text = source.text

    def hasty(major: int) -> str:
        found = text(major)
        assert found.count("learning = true") == 1
        return found.replace("learning = true", "learning = false")

    source.text = hasty  # type: ignore[assignment]
else:
    assert OFF == "gate", OFF

sys.exit(main([]))
