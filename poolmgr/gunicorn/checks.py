"""The checks before a gunicorn master serves: each configuration error becomes one line.

Everything here runs once, in ``on_starting``, before a worker exists. A problem is a
:class:`StartError`. Its text is complete for a reader who has never seen this project: the name, the
value, what to do. Nothing here may be called from any later hook: a reload must not end a master that
serves.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterable

import redis
from gunicorn import util

from poolmgr.errors import PoolmgrError
from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.gunicorn import interrupts
from poolmgr.member.member import get_member, set_title
from poolmgr.pool.sync.default import get_client
from poolmgr.settings.parsers import SOCKET_PATH_MAX, conceal, mask_url

DEFAULT = "127.0.0.1", 8000
"""Where gunicorn listens by default."""

PORT_PATIENCE = 1.0
"""Seconds to wait for a port that a process just ending may still hold."""


SERVER_PATIENCE = 1.0
"""Seconds after a first failure in which Redis may still come up."""


class StartError(Exception):
    """The service cannot start. One line."""


def check_worker_class(name: str) -> None:
    """Check that gunicorn can load its worker class.

    Raises:
        StartError: it cannot.
    """
    try:
        util.load_class(name)
    except Exception as error:  # gunicorn wraps any failure, with a traceback in its text
        shown = conceal(name)
        lines = [] if shown != name else [line.strip() for line in str(error).splitlines() if "Error: " in line]
        why = f" ({lines[-1]})" if lines else ""
        raise StartError(
            f"WORKER_CLASS={shown!r} cannot be loaded{why}; set it to gthread, sync, or a class whose "
            "package is installed (pip install 'gunicorn[gevent]')"
        ) from None


def check_workers(count: int) -> None:
    """Check that there will be a worker. Without one gunicorn listens and never answers.

    Raises:
        StartError: the number of workers is 0.
    """
    if count == 0:
        given = os.environ.get("WEB_CONCURRENCY", "").strip()
        if given.isdecimal() and int(given) == 0:
            raise StartError(f"WEB_CONCURRENCY={given} starts no workers; set it to 1 or more, or unset it")
        raise StartError("--workers 0 starts no workers; set it to 1 or more, or leave it out")


def check_temporary(directory: str | None) -> None:
    """Check that gunicorn can make a worker's heartbeat file. Its own error is a traceback.

    Args:
        directory: gunicorn's ``worker_tmp_dir``.

    Raises:
        StartError: no such file can be written.
    """
    why = _no_room(directory)
    if why:
        tried = directory or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 (what tempfile tries first)
        if directory is None:  # tempfile has tried many directories, and names no reason
            why = _no_room(tried) or why
        raise StartError(
            f"no temporary file can be written to {tried} ({why}), and each worker of gunicorn needs one: "
            "free space there, or set TMPDIR or --worker-tmp-dir"
        )


def _no_room(directory: str | None) -> str:
    """Why no temporary file can be written there; empty if one can. It has no name that another user could foresee."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
    except OSError as error:
        return str(error.strerror)
    return ""


def check_binds(binds: Iterable[str]) -> None:
    """Check that gunicorn can parse these addresses. Its own error is only "'' is not a valid port number".

    Raises:
        StartError: it cannot, or the port is not from 0 to 65535.
    """
    for bind in binds:
        try:
            address = util.parse_address(bind)
        except RuntimeError:
            wrong = True
        else:
            wrong = isinstance(address, tuple) and not 0 <= address[1] <= 65535
        if wrong:
            port = os.environ.get("PORT")
            if bind == f"0.0.0.0:{port}":
                raise StartError(f"PORT={port!r} is not a port; set it to a number from 1 to 65535 (PORT=8000)")
            raise StartError(
                f"--bind {bind!r} is not an address; give HOST:PORT or [IPV6]:PORT with a port from 1 to 65535, "
                "unix:PATH or fd://NUMBER (--bind 127.0.0.1:8000)"
            )


def check_addresses(addresses: Iterable[object]) -> None:
    """Check that gunicorn can listen there. Otherwise gunicorn tries for five seconds and reports that ten times.

    Raises:
        StartError: an address is taken, not ours, or forbidden.
    """
    seen = set()
    for address in addresses:
        if address in seen:
            raise StartError(f"--bind is {_written(address)} twice: leave one out")
        seen.add(address)
        match address:
            case (str(host), int(port)):
                check_binds([_written(address)])  # where gunicorn's logs are not ours
                _check_address(host, port)
            case int(descriptor):
                _check_descriptor(descriptor)
            case str(path):
                _check_path(path)


def _written(address: object) -> str:
    """An address as ``--bind`` takes it."""
    match address:
        case (host, port):
            return f"{f'[{host}]' if ':' in str(host) else host}:{port}"
        case int():
            return f"fd://{address}"
    return f"unix:{address}"


def _check_address(host: str, port: int) -> None:
    family = socket.AF_INET6 if util.is_ipv6(host) else socket.AF_INET
    deadline = time.monotonic() + PORT_PATIENCE
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
                return
            except OSError as error:
                if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                raise StartError(_why_not(host, port, error)) from None


def _why_not(host: str, port: int, error: OSError) -> str:
    name = "PORT" if os.environ.get("PORT") == str(port) else "--bind"
    if name == "--bind" and (host, port) == DEFAULT and not _is_typed():
        name = "the default address"
    where = f"{name} is {_written((host, port))}"
    if error.errno == errno.EADDRINUSE:
        beside = port + 1 if port < 65535 else port - 1
        other = f"PORT={8001 if port != 8001 else 8002}" if name == "PORT" else f"--bind {_written((host, beside))}"
        if name == "the default address":
            other = f"PORT={beside} for all addresses of this host, or {other}"
        return f"{where}, and that port is in use: end the process that listens there, or set another ({other})"
    if error.errno == errno.EADDRNOTAVAIL:
        others = "[::1] or [::]" if ":" in host else "127.0.0.1 or 0.0.0.0"
        return f"{where}, and this host has no such address: use {others}"
    if error.errno == errno.EACCES:
        return f"{where}, and ports below 1024 need privileges: set another (PORT=8000)"
    return f"{where}, where nothing can listen ({error.strerror or error}): set another address"


def _is_typed() -> bool:
    words = sys.argv[1:] + os.environ.get("GUNICORN_CMD_ARGS", "").split()
    return any(word.startswith(("-b", "--bind")) for word in words)


def _check_descriptor(descriptor: int) -> None:
    try:
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return
        why = "is not a socket"
    except (OSError, OverflowError):
        why = "is not open here"
    raise StartError(
        f"--bind is fd://{descriptor}, which {why}: have the starting process pass a socket under that number, or set "
        "an address (--bind 127.0.0.1:8000)"
    )


def _check_path(path: str) -> None:
    """gunicorn replaces a socket that is there already."""
    where = f"--bind is unix:{path}"
    try:
        if not path:
            raise StartError(f"{where}: the path is missing (--bind unix:/run/service.sock)")
        if os.path.lexists(path):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                return
            raise StartError(f"{where}, and what is there is not a socket: remove it, or set another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind(path)
        os.unlink(path)
    except OSError as error:
        raise StartError(
            f"{where}, where nothing can listen ({error.strerror or error}): set a path of at most {SOCKET_PATH_MAX} "
            "bytes in a directory that is there and that this user may write"
        ) from None


def check_server(url: str) -> None:
    """Check that Redis can be reached and takes our credentials: a child does what a worker will do.

    So the check costs a permit like any connection, and the server never sees an uncounted connection. If no permit
    is free within the pool's timeout, the service starts all the same.

    Raises:
        StartError: the URL is not valid, or the server cannot be used.
        SystemExit: interrupted.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            logging.disable()  # the master reports the problem, in one line
            set_title("gunicorn master")
            with contextlib.suppress(SystemExit):
                interrupts.in_child()
                os.write(writing, _try_it().encode(errors="replace"))
            get_member().leave()
        finally:
            os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe, interrupts.let_through():
            problem = pipe.read().decode(errors="replace")
    except SystemExit:
        os.kill(child, signal.SIGINT)  # we wait until it has left, so that no permit stays in quarantine
        raise
    finally:
        os.waitpid(child, 0)
    if problem:
        raise StartError(f"REDIS_URL is {mask_url(url)!r}, and that server cannot be used: {problem}")


def _try_it() -> str:
    """In the child: the problem and its remedy; empty if there is none."""
    deadline = time.monotonic() + SERVER_PATIENCE
    problem: Exception
    while True:
        try:
            get_client().ping()
            return ""
        except redis.AuthenticationError as error:
            if get_client().get_connection_kwargs().get("password") is None:
                return "it wants a password, and none is given: redis://USER:PASSWORD@HOST:PORT/DB (USER may be empty)"
            return f"it refuses our user or password ({_one_line(error)}); correct them"
        except ConnectionPoolTimeoutError as error:
            if error.reason != "server":
                return ""
            problem = error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            problem = error
        except redis.exceptions.NoPermissionError as error:
            return f"{_one_line(error)}; allow its user that, or set another REDIS_URL"
        except redis.ResponseError as error:
            return f"{_one_line(error)}; set another REDIS_URL"
        except (ValueError, TypeError, PoolmgrError) as error:
            return f"{_one_line(error)}; correct it"
        if time.monotonic() > deadline:
            return _unresolved() or f"{_one_line(problem)}; start it, or set another REDIS_URL"
        time.sleep(0.1)


def _unresolved() -> str:
    """The problem with the server's host name; empty if it resolves, or there is none."""
    host = get_client().get_connection_kwargs().get("host")
    try:
        if host is not None:
            socket.getaddrinfo(host, None)
    except OSError as error:
        return f"its name {host!r} does not resolve ({error.strerror or error}): correct it, or make the name known"
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
