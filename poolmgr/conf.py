"""gunicorn's configuration of the worker service: ``gunicorn -c python:poolmgr.conf``.

``deploy/conf.py`` is the same for a checkout. Alone it serves the worker service; with an application
(``gunicorn -c python:poolmgr.conf yourapp:app``) it serves that one, with the same pools, hooks and
logs. ``PORT``, ``WEB_CONCURRENCY``, ``GUNICORN_CMD_ARGS`` and the command line go before what is set
here, as gunicorn means them; so ``PORT`` alone binds to all addresses, and the default is 127.0.0.1:8000.

Nothing here may raise: on a reload that would end the master. A wrong value in the environment falls
back to its default here, and ``on_starting`` refuses to start with it.
"""

from __future__ import annotations

from poolmgr import interrupts

interrupts.end_at_once()  # before anything that takes time

import os
from importlib.util import find_spec
from typing import Any

from poolmgr.errors import SettingsError
from poolmgr.gunicorn import bound_quick_shutdown, install
from poolmgr.settings import Settings, load
from poolmgr.startup import StartError, check_worker_class


def _settings() -> Settings:
    try:
        found = load()
        check_worker_class(found.worker_class)
    except (SettingsError, StartError):
        return load({})
    return found


_found = _settings()

wsgi_app = "worker.app:app"

# For the supervisor, which this service's processes start with their environment.
if not os.environ.get("POOLMGR_METRICS") and find_spec("prometheus_client"):
    os.environ["POOLMGR_METRICS"] = "127.0.0.1:9108"

if not os.environ.get("WEB_CONCURRENCY"):
    workers = max(2, os.cpu_count() or 1)

worker_class = _found.worker_class
# gunicorn turns a sync worker with more than one thread into a gthread one.
threads = 1 if worker_class == "sync" else _found.worker_threads

logger_class = "poolmgr.gunicorn_logs.GunicornLogger"
accesslog = "-"

# It leaves a file behind, and an old and a new master would share it.
control_socket_disable = True

# The path style puts a command's arguments into the request line.
limit_request_line = 8190


def on_starting(server: Any) -> None:
    if server.app.app_uri == wsgi_app:
        if find_spec("falcon") is None:
            raise SystemExit(
                "Error: the worker service needs packages that are not installed: pip install "
                "'redis-poolmgr[service]', or name an application of your own (gunicorn ... yourapp:app)"
            )
        try:
            from worker import token  # not before: an application may well have a module of that name
        except ImportError as error:
            raise SystemExit(
                f"Error: a module or package `worker` of your own hides the worker service's ({error}): start it in "
                "another directory, or rename yours"
            ) from None

        try:
            with interrupts.held_back():
                token.hold(_found)
        except (OSError, SettingsError) as error:
            raise SystemExit(
                f"Error: WORKER_TOKEN is not set and none can be kept: {error}; set WORKER_TOKEN"
            ) from None


def post_worker_init(worker: Any) -> None:
    bound_quick_shutdown()


def on_exit(server: Any) -> None:
    if server.app.app_uri == wsgi_app:
        from worker import token

        token.release(_found)


install(globals())
interrupts.raise_exit()
