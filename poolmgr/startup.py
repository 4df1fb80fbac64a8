"""What is checked before a gunicorn master serves: configuration errors, each told in one line.

Everything here runs once, in ``on_starting``, before a worker exists. A problem is a
:class:`StartError` whose text is complete for somebody who has never seen this project: the name, the
value, what to do. Nothing here may be called from any later hook: a reload must not end a master that
serves.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterable

import redis
from gunicorn import util

from poolmgr.exceptions import ConnectionPoolTimeoutError, PoolmgrError
from poolmgr.member.agent import get_member, set_title
from poolmgr.pool.default import get_client
from poolmgr.values import mask_url

PORT_PATIENCE = 1.0
"""Seconds to wait for a port that a process just ending may still hold."""


SERVER_PATIENCE = 1.0
"""Seconds after a first failure in which Redis may still come up."""


class StartError(Exception):
    """The service cannot start. One line."""


def check_worker_class(name: str) -> None:
    """That gunicorn can load its worker class.

    Raises:
        StartError: it cannot.
    """
    try:
        util.load_class(name)
    except Exception as error:  # gunicorn wraps any failure, with a traceback in its text
        lines = [line.strip() for line in str(error).splitlines() if "Error: " in line]
        why = f" ({lines[-1]})" if lines else ""
        raise StartError(
            f"WORKER_CLASS is {name!r}, which cannot be loaded{why}: allowed is gthread, sync, or a class whose "
            "package is installed (pip install gevent)"
        ) from None


def check_addresses(addresses: Iterable[object]) -> None:
    """That nobody else listens where gunicorn will: it would try for five seconds and say so ten times.

    Raises:
        StartError: an address is taken, not ours, or forbidden.
    """
    for address in addresses:
        if isinstance(address, tuple):
            _check_address(str(address[0]), int(address[1]))


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
    where = f"{name} is {f'[{host}]' if ':' in host else host}:{port}"
    if error.errno == errno.EADDRINUSE:
        other = "PORT=8001" if name == "PORT" else f"--bind {where.rpartition(':')[0].rpartition(' ')[2]}:{port + 1}"
        return f"{where}, and that port is in use: end the process that listens there, or set another ({other})"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}, and this host has no such address: use 127.0.0.1 or 0.0.0.0"
    if error.errno == errno.EACCES:
        return f"{where}, and ports below 1024 need privileges: set another (PORT=8000)"
    return f"{where}, where nothing can listen ({error.strerror or error}): set another address"


def check_server(url: str) -> None:
    """That Redis can be reached and takes our credentials: a child does what a worker will do.

    So it costs a permit like any connection, and the server never sees one that nobody counts. That
    no permit is free within the pool's timeout is no reason not to start.

    Raises:
        StartError: the URL is not valid, or the server cannot be used.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            logging.disable()  # the master tells, in one line
            set_title("gunicorn master")
            os.write(writing, _try_it().encode(errors="replace"))
            get_member().leave()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        problem = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    if problem:
        raise StartError(f"REDIS_URL is {mask_url(url)!r}, and that server cannot be used: {problem}")


def _try_it() -> str:
    """In the child: what is wrong, with its remedy; empty if nothing is."""
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
            return f"{_one_line(error)}; allow its user +ping, or set another REDIS_URL"
        except redis.ResponseError as error:
            return f"{_one_line(error)}; set another REDIS_URL"
        except (ValueError, TypeError, PoolmgrError) as error:
            return f"{_one_line(error)}; correct it"
        if time.monotonic() > deadline:
            return f"{_one_line(problem)}; start it, or set another REDIS_URL"
        time.sleep(0.1)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
