"""Log lines: how they look (:mod:`~poolmgr.logs.structured`), what they must not hold, and which thread writes them."""
