"""Talking to what listens in a pod: a socket that was made in the pod's network works everywhere (setns(2))."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import socket
import threading
from typing import Any

from tests.service import Answer

CLONE_NEWNET = 0x40000000


def connect(pid: int, port: int, timeout: float = 15.0) -> socket.socket:
    """A connection to 127.0.0.1 in the network of that process. A thread goes there, and ends with its errand.

    Raises:
        OSError: nothing listens there.
    """
    found: list[socket.socket | OSError] = []

    def go() -> None:
        try:
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(fd)
            found.append(socket.create_connection(("127.0.0.1", port), timeout))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    (one,) = found
    if isinstance(one, OSError):
        raise one
    return one


def request(
    pid: int, method: str, path: str, body: Any = None, *, token: str = "", port: int = 8000, timeout: float = 15.0
) -> Answer:
    """One request to the service in that network.

    Raises:
        OSError: it cannot be had.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    connection.sock = connect(pid, port, timeout)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()
