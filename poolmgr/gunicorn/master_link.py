"""The master's link to the supervisor. It keeps the supervisor alive while no worker has a pool yet."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time

from poolmgr import launch, settings, wire
from poolmgr.errors import SupervisorError
from poolmgr.kernel.peer import peer
from poolmgr.launch import remedies

LINK_TIMEOUT = launch.STARTING
"""Seconds a master waits for a supervisor at its start."""

PONG_TIMEOUT = 5.0
"""Seconds a master waits for that supervisor's first word."""

ATTEMPTS = 3
"""How many supervisors a master tries. Each may hang or go away."""

LAST_WORDS = 5.0
"""Seconds that a failed start waits for the end of the supervisor that it started: longer than that supervisor tries
to reach a server."""

PARTING = 0.5
"""Seconds that a master waits for that at its own end. A supervisor that other processes use does not end."""

_link: socket.socket | None = None
"""Only a master has one; children close their copy right after the fork, exec closes it."""


def connect(found: settings.Settings, *, start: bool, timeout: float) -> None:
    """Keep an open link, or open one. Where no budget is enforced there is no supervisor.

    Raises:
        SupervisorError: there is no supervisor, or it does not speak our protocol.
    """
    global _link
    if settings.unenforced() or (_link is not None and _is_open(_link)):
        return
    _disconnect()
    sock = launch.connect(found, start=start, timeout=timeout)
    try:
        sock.settimeout(min(timeout, PONG_TIMEOUT))
        _ping(sock)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    _link = sock


class _GoneError(SupervisorError):
    """The supervisor ended, or was replaced, before it answered."""


def _ping(sock: socket.socket) -> None:
    """Wait for the supervisor's answer to a ping.

    Raises:
        SupervisorError: the supervisor refuses, does not answer in time or is not a supervisor.
    """
    decoder = wire.Decoder(wire.FromSupervisor)
    kind: type[SupervisorError] = _GoneError
    why = "it closed the connection"
    try:
        with contextlib.suppress(BrokenPipeError):  # a supervisor that closed at once may have said why
            sock.sendall(wire.encode(wire.Ping(nonce=1)))
        while data := sock.recv(65536):
            for message in decoder.feed(data):
                if isinstance(message, wire.Pong):
                    return
                if isinstance(message, wire.Refused):
                    raise SupervisorError(message.reason)
    except TimeoutError:
        kind, why = SupervisorError, "it is silent"
    except OSError as error:
        why = error.strerror or str(error)
    except wire.WireError as error:
        kind, why = SupervisorError, str(error)
    who = peer(sock)
    pid = who.pid if who is not None else 0
    raise kind(f"the supervisor (process {pid or '?'}) does not answer: {why}; {remedies.restart(pid)}")


def connect_at_start(found: settings.Settings) -> None:
    """Have a live link, to a new supervisor if need be: like a member, this replaces a supervisor that hangs.

    Raises:
        SupervisorError: no supervisor answers after all attempts.
    """
    for _ in range(ATTEMPTS - 1):
        began = time.monotonic()
        try:
            connect(found, start=True, timeout=LINK_TIMEOUT)
            return
        except _GoneError:
            pass  # the process that replaced it has started another, or else we do
        except SupervisorError:
            if time.monotonic() - began < PONG_TIMEOUT:
                raise  # it refuses, or cannot be started
            launch.replace_hung(found)
    connect(found, start=True, timeout=LINK_TIMEOUT)


def _is_open(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _disconnect() -> None:
    global _link
    if _link is not None:
        _link.close()
    _link = None


def leave(timeout: float) -> None:
    """Say goodbye, and wait for the end of a supervisor that logs where we do, so that nothing comes after our
    own last line. A supervisor that other processes use lives on."""
    if _link is not None:
        with contextlib.suppress(OSError):
            _link.send(wire.encode(wire.Bye()))
    who = peer(_link) if _link is not None else None
    pidfd = -1
    with contextlib.suppress(OSError):
        if who is not None and os.path.samestat(os.stat(f"/proc/{who.pid}/fd/2"), os.fstat(2)):
            pidfd = os.pidfd_open(who.pid)
    _disconnect()
    if pidfd >= 0:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)  # readable once the process has ended (pidfd_open(2))
        poll.poll(timeout * 1000)
        os.close(pidfd)


os.register_at_fork(after_in_child=_disconnect)
