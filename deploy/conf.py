"""gunicorn's configuration for a checkout: ``gunicorn -c deploy/conf.py [yourapp:app]``.

It finds the package beside it; everything else is in :mod:`poolmgr.conf`. gunicorn runs this file
again on every HUP, so it keeps no state.
"""

import sys
from pathlib import Path

_root = str(Path(__file__).resolve().parents[1])
sys.path.insert(0, _root)

from poolmgr.gunicorn import interrupts  # noqa: E402 (the path comes first)

interrupts.end_at_once()

from poolmgr.conf import *  # noqa: E402, F403 (every name is a setting)

# The package is found; an application's own modules, whatever their names, precede the rest of this path.
sys.path.remove(_root)
if _root not in sys.path:
    sys.path.append(_root)
