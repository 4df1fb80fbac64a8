"""The supervisor with shorter waits, for tests of what takes seconds otherwise.

``HASTY`` in its environment: ``views.audit.EVERY=0.3 upstreams.unproven.WAIT=0.5``, names of constants in
:mod:`poolmgr.supervisor`. Everything else is the real program, but for
where names lead (:mod:`tests.names`).
"""

from __future__ import annotations

import importlib
import os
import sys

from poolmgr.supervisor.__main__ import main
from tests import names

for setting in os.environ.get("HASTY", "").split():
    name, _, value = setting.partition("=")
    module, _, constant = name.rpartition(".")
    found = importlib.import_module(f"poolmgr.supervisor.{module}")
    assert hasattr(found, constant), name
    setattr(found, constant, float(value))

if names.VARIABLE in os.environ:
    names.install()

sys.exit(main([]))
