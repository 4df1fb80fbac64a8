"""gunicorn's configuration of the worker service: ``gunicorn -c python:poolmgr.conf``.

``deploy/conf.py`` is the same for a checkout. Without an application this serves the worker service; with one
(``gunicorn -c python:poolmgr.conf yourapp:app``) it serves that application, with the same pools, hooks and
logs. ``PORT``, ``WEB_CONCURRENCY``, ``GUNICORN_CMD_ARGS`` and the command line override the values
here, with gunicorn's meaning: ``PORT`` alone binds to all addresses, and the default is 127.0.0.1:8000.

Nothing here may raise: on a reload that would end the master. A wrong value in the environment falls
back to its default here, and ``on_starting`` refuses to start with it.
"""

from __future__ import annotations

from poolmgr.gunicorn import interrupts

interrupts.end_at_once()  # before anything that takes time

import contextlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from poolmgr.errors import SettingsError
from poolmgr.gunicorn import callers, install, workers_user
from poolmgr.gunicorn.checks import StartError, check_worker_class
from poolmgr.gunicorn.quick_shutdown import bound_quick_shutdown
from poolmgr.gunicorn.workers_user import as_workers
from poolmgr.settings import Settings, load


def _settings() -> Settings:
    try:
        found = load()
        check_worker_class(found.worker_class)
    except (SettingsError, StartError):
        return load({})
    return found


_found = _settings()

wsgi_app = callers.SERVICE

# For the supervisor, which inherits the environment of this service's processes.
if not os.environ.get("POOLMGR_METRICS") and find_spec("prometheus_client"):
    os.environ["POOLMGR_METRICS"] = "127.0.0.1:9108"

if not os.environ.get("WEB_CONCURRENCY"):
    workers = max(2, os.cpu_count() or 1)

# gunicorn's own lets slow callers hold its threads.
worker_class = "poolmgr.gunicorn.worker.ThreadWorker" if _found.worker_class == "gthread" else _found.worker_class
# gunicorn turns a sync worker with more than one thread into a gthread one.
threads = 1 if worker_class == "sync" else _found.worker_threads

logger_class = "poolmgr.gunicorn.logger.GunicornLogger"
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
            with interrupts.held_back(), as_workers(server.cfg):
                token.hold(load())
        except (OSError, SettingsError) as error:
            raise SystemExit(
                f"Error: WORKER_TOKEN is not set and none can be kept: {error}; set WORKER_TOKEN"
            ) from None
        callers.warn_of_exposure(server)
        callers.load_once(server)


def post_worker_init(worker: Any) -> None:
    bound_quick_shutdown()


def pre_request(worker: Any, req: Any) -> None:
    if worker.app.app_uri == wsgi_app:
        callers.check_prefix(req)
        callers.bound_body(worker, req, _found.worker_request_timeout)


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    if worker.app.app_uri == wsgi_app:
        callers.unbound_body(req)


@workers_user.hook
def _renew_token(server: Any) -> None:
    """New workers, and a new master, must get the same token."""
    if server.app.app_uri == wsgi_app:
        from worker import token

        token.renew()


def on_reload(server: Any) -> None:
    _renew_token(server)


def pre_fork(server: Any, worker: Any) -> None:
    _renew_token(server)


def pre_exec(server: Any) -> None:
    _renew_token(server)


@workers_user.hook
def on_exit(server: Any) -> None:
    if server.app.app_uri == wsgi_app:
        from worker import token

        token.release()


def _reads_token_files_first(start: Callable[[Any], None]) -> Callable[[Any], None]:
    """Nothing is started for a service whose callers could not be told apart. What else is wrong, ``start`` says."""

    def on_starting(server: Any) -> None:
        if server.app.app_uri == wsgi_app and (_found.worker_token_file or _found.worker_readonly_token_file):
            with contextlib.suppress(ImportError):
                from worker import token_files

                try:
                    with as_workers(server.cfg):
                        token_files.check(_found)
                except SettingsError as error:
                    raise SystemExit(f"Error: {error}") from None
        start(server)

    return on_starting


install(globals())
globals()["on_starting"] = _reads_token_files_first(on_starting)
interrupts.raise_exit()
