"""gunicorn in front of pools: ``from poolmgr.gunicorn import install; install(globals())`` in its configuration file.

Importing this package loads nothing; :func:`install` does.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any


def install(namespace: MutableMapping[str, Any]) -> None:
    """Wrap the hooks in a configuration module's namespace; see :func:`poolmgr.gunicorn.hooks.install`."""
    from poolmgr.gunicorn import hooks

    hooks.install(namespace)
