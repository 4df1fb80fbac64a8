"""gunicorn for the peer: what ``deploy/conf.py`` sets, without anything of poolmgr in it."""

from __future__ import annotations

import os

wsgi_app = "bench.apps.get:app"
worker_class = "gthread"
threads = int(os.environ["WORKER_THREADS"])
control_socket_disable = True
limit_request_line = 8190
