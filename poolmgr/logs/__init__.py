"""Log lines: how they are written (:mod:`~poolmgr.logs.structured`), what they must not hold, and by whom they are
written."""
