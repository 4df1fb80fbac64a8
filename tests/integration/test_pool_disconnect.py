"""A connection that another thread disconnects while it is being made has a permit, or is none."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

import pytest
import redis

from poolmgr.pool import connection as module
from tests.helpers import RedisServer
from tests.pools import direct_pool, nothing_is_missing, permits


@pytest.mark.parametrize("at", ["socket", "settimeout"])
def test_no_connection_is_made_without_a_permit(server: RedisServer, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder reconnects in a command; each system call gives the interpreter's lock away."""
    pool: Any = direct_pool(server)
    held = pool.get_connection()
    held.disconnect()  # as redis-py does after an error
    armed = [True]

    def other() -> None:
        if armed and threading.current_thread() is threading.main_thread():
            armed.clear()
            thread = threading.Thread(target=pool.disconnect)
            thread.start()
            thread.join()

    class Socket(socket.socket):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if at == "socket" and arguments:
                other()

        def settimeout(self, value: float | None) -> None:
            super().settimeout(value)
            if at == "settimeout":
                other()

    monkeypatch.setattr(module, "socket", type("socket", (), {**vars(socket), "socket": Socket}))
    with contextlib.suppress(redis.ConnectionError):
        held.connect()
    monkeypatch.undo()
    assert not armed
    if held._sock is not None and held._raw is not None:
        held.send_command("PING")
        assert held.read_response() in (b"PONG", "PONG")
    permits(pool).sweep()
    assert len(permits(pool).out) == (held._raw is not None), "what is open has a permit"
    pool.release(held)
    nothing_is_missing(pool)
    pool.close()
