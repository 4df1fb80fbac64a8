"""gunicorn in front of pools: ``from poolmgr.gunicorn import install; install(globals())`` in its configuration file.

Importing this package loads nothing; :func:`install` does.

- ``hooks``: what runs in master and workers; ``master_link``: the master's connection to the supervisor
- ``checks``: what is wrong before a master serves; ``interrupts``: Ctrl-C until then, ``quick_shutdown``: in a worker
- ``workers_user``: whose supervisor it is; ``logger``: gunicorn's lines look like ours
- ``worker``, ``connection``, ``intake``, ``callers``: threads get whole requests, however slow callers are
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any


def install(namespace: MutableMapping[str, Any]) -> None:
    """Wrap the hooks in a configuration module's namespace; see :func:`poolmgr.gunicorn.hooks.install`."""
    from poolmgr.gunicorn import hooks

    hooks.install(namespace)
