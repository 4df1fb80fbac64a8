"""gunicorn for ours: ``deploy/conf.py`` without its access log, since the peer writes none."""

from __future__ import annotations

import runpy
from pathlib import Path

_conf = Path(__file__).resolve().parents[2] / "deploy" / "conf.py"
globals().update({name: value for name, value in runpy.run_path(str(_conf)).items() if not name.startswith("_")})

accesslog = None
