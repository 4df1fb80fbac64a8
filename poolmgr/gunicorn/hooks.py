"""Server hooks for gunicorn: the supervisor and the embedded server live as long as the service.

Put this at the end of your own ``gunicorn.conf.py``; hooks that you defined above it run too::

    from poolmgr.gunicorn import install
    install(globals())

``install`` configures nothing: settings come from the environment (:mod:`poolmgr.settings`), and each worker makes
its own pool on first use, after the fork.

What these hooks must never do, since gunicorn would not survive it: raise (in ``post_fork`` the whole
server halts, in ``child_exit`` or ``pre_fork`` the master dies), wait in ``post_fork`` (the worker loses
SIGTERM there and is never timed out), or depend on ``worker_exit`` or ``on_exit`` being run (SIGKILL
runs neither). Only ``on_starting`` may refuse, with ``SystemExit`` and one line, and it never runs on a
reload. gunicorn executes a configuration file again on every HUP, so state is here, not there.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import logging
import os
import queue
import signal
import sys
import warnings
from collections.abc import Callable, MutableMapping
from typing import Any

import gunicorn as real_gunicorn
from gunicorn.config import validate_callable

from poolmgr import embedded, settings, spawn
from poolmgr.errors import PoolmgrError, SupervisorError
from poolmgr.gunicorn import checks, interrupts, master_link, workers_user
from poolmgr.gunicorn.workers_user import as_workers
from poolmgr.logs.redaction import printable

log = logging.getLogger("poolmgr.gunicorn")

_ONLY_ASYNCIO = (
    r"(?s)Monkey-patching ssl after ssl .*\(NOT patched\): \['redis\.asyncio\.connection \([^,]*\)'\]\.?\s*$"
)

_inherited: queue.SimpleQueue[int] | None = None
"""In a worker: its copy of the master's queue of signals."""


def _hold_on() -> None:
    """From a running master: renew what was lost. This is quick, and does not start a supervisor (workers do)."""
    found = settings.load()
    if found.redis_url is None:
        embedded.ensure(found)
    with contextlib.suppress(SupervisorError):
        master_link.connect(found, start=False, timeout=0.5)


# ---- the hooks ---------------------------------------------------------------------------------


def on_starting(server: Any) -> None:
    """Check the configuration, and start the supervisor and, without ``REDIS_URL``, a server.

    Raises:
        SystemExit: with one line, if the service cannot start as it is configured; with a status, if interrupted.
    """
    _mend_path()
    spawn.show_output()
    atexit.register(
        master_link.leave, master_link.PARTING
    )  # gunicorn ends without on_exit as long as it does not serve
    try:
        with interrupts.held_back():
            found = settings.load()
            _have_events_seen(found)
            for name, meant in settings.misspelt(os.environ).items():
                log.warning("setting.unknown", extra={"variable": name, "remedy": f"did you mean {meant}?"})
            checks.check_worker_class(found.worker_class)
            checks.check_workers(server.cfg.workers)
            with as_workers(server.cfg):
                checks.check_temporary(server.cfg.worker_tmp_dir)
            if _binds(server):
                with interrupts.let_through():
                    checks.check_addresses(server.cfg.address)
            with as_workers(server.cfg):
                found = settings.load()  # its default directory is the user's
                if found.redis_url is None:
                    embedded.ensure(found)
                interrupts.check()
                master_link.connect_at_start(found)
                interrupts.check()
                if found.redis_url is not None:
                    checks.check_server(found.redis_url)
    except (PoolmgrError, checks.StartError) as error:
        master_link.leave(master_link.LAST_WORDS)
        raise SystemExit(f"Error: {printable(str(error))}") from None


def _have_events_seen(found: settings.Settings) -> None:
    """Without any set-up of logging, Python prints warnings without their fields. Then the library's events get
    their own handler. A set-up that exists stays, :mod:`poolmgr.logs.structured` included."""
    events = logging.getLogger("poolmgr")
    if not events.hasHandlers():
        from poolmgr.logs.structured import formatter

        handler = logging.StreamHandler()
        handler.setFormatter(formatter(found.log_format, sys.stderr))
        handler.addFilter(lambda _: not logging.root.handlers)  # an application may set up its own later
        events.addHandler(handler)
        events.setLevel(found.log_level.upper())


def _mend_path() -> None:
    """Take gunicorn's own directory off the path. On USR2 ``python -m gunicorn`` runs itself again as a script.
    Python then puts that directory first, where its ``http`` hides the standard library's."""
    own = os.path.dirname(real_gunicorn.__file__ or "")
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != own]


def _binds(server: Any) -> bool:
    """Whether this master opens its listeners itself, and not an earlier master or systemd."""
    inherited = "GUNICORN_FD" in os.environ or os.environ.get("LISTEN_PID") == str(os.getpid())
    return not (server.LISTENERS or inherited or server.cfg.reuse_port)


@workers_user.hook
def on_reload(server: Any) -> None:
    _hold_on()


@workers_user.hook
def pre_fork(server: Any, worker: Any) -> None:
    _hold_on()


def post_fork(server: Any, worker: Any) -> None:
    from poolmgr.member.member import set_title  # a master needs none

    set_title("gunicorn worker")
    # gevent patches after this. It also patches the modules of redis-py that the master has loaded, except one, which
    # binds a class of ssl's by name and is for asyncio only. gevent still warns about every other module.
    warnings.filterwarnings("ignore", message=_ONLY_ASYNCIO, category=RuntimeWarning)
    global _inherited
    _inherited = getattr(server, "SIG_QUEUE", None)


def post_worker_init(worker: Any) -> None:
    """Obey a signal to end that came too early.

    Until a worker sets its own handlers it has the master's. They only put the number into a queue that the
    worker does not read. The master would wait for this worker until the graceful timeout.
    """
    missed = set()
    with contextlib.suppress(queue.Empty):
        while _inherited is not None:
            missed.add(_inherited.get_nowait())
    for number in (signal.SIGQUIT, signal.SIGINT, signal.SIGTERM):
        if number in missed:
            os.kill(os.getpid(), number)
            break


@workers_user.hook
def child_exit(server: Any, worker: Any) -> None:
    _hold_on()


def on_exit(server: Any) -> None:
    master_link.leave(master_link.PARTING)


Hook = Callable[..., Any]

_BEFORE: dict[str, tuple[int, Hook]] = {
    "on_starting": (1, on_starting),
    "on_reload": (1, on_reload),
    "pre_fork": (2, pre_fork),
    "post_fork": (2, post_fork),
}
"""Hooks that run before the application's own, with their number of arguments."""

_AFTER: dict[str, tuple[int, Hook]] = {
    "post_worker_init": (1, post_worker_init),
    "child_exit": (2, child_exit),
    "on_exit": (1, on_exit),
}
"""Hooks that run after the application's own."""


def install(namespace: MutableMapping[str, Any]) -> None:
    """Add the hooks to a gunicorn configuration: ``install(globals())`` as its last line.

    A hook that you defined there runs as well: after ours when something begins, before ours when something ends. Its
    exceptions are raised as without us. A second call changes nothing.
    """
    for name, (arity, ours) in _BEFORE.items():
        _wrap(namespace, name, arity, ours, first=True)
    for name, (arity, ours) in _AFTER.items():
        _wrap(namespace, name, arity, ours, first=False)


def _wrap(namespace: MutableMapping[str, Any], name: str, arity: int, ours: Hook, *, first: bool) -> None:
    theirs = namespace.get(name)
    if getattr(theirs, "_poolmgr", False):
        return
    if theirs is not None:
        try:
            theirs = validate_callable(arity)(theirs)
        except TypeError:
            return  # gunicorn itself reports what is wrong with it

    safe = _safe(name, ours)

    def run(*arguments: Any) -> None:
        if first:
            safe(*arguments)
        if theirs is not None:
            theirs(*arguments)
        if not first:
            safe(*arguments)
        if name == "on_starting":
            # What is loaded stays. A worker's collector would look at all of it, in the end too, and it writes to what
            # it looks at: each worker would get a copy of these pages. Once only: garbage of a running master is to be
            # collected.
            gc.freeze()

    # gunicorn counts a hook's parameters, so a wrapper must have as many.
    hook: Hook = (lambda server: run(server)) if arity == 1 else (lambda server, worker: run(server, worker))  # noqa: PLW0108
    hook.__name__ = hook.__qualname__ = name
    hook._poolmgr = True  # type: ignore[attr-defined]
    namespace[name] = hook


def _safe(name: str, ours: Hook) -> Hook:
    """Our hook, which logs every unexpected error instead of raising it. ``SystemExit`` passes from on_starting and
    post_worker_init only."""

    @functools.wraps(ours)
    def run(*arguments: Any) -> None:
        try:
            ours(*arguments)
        except SystemExit:
            if name in ("on_starting", "post_worker_init"):  # the latter's is the answer to a signal
                raise
            log.exception("hook.failed", extra={"hook": name})
        except Exception as error:
            unexpected = not isinstance(error, PoolmgrError)
            log.error("hook.failed", extra={"hook": name, "error": str(error)}, exc_info=unexpected)

    return run
