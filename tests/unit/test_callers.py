"""Which of gunicorn's addresses other hosts can reach, and the deadline of a body."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace

import pytest

from poolmgr.gunicorn.callers import bound_body, exposed, unbound_body
from tests.stopwatch import Stopwatch


def test_loopback_and_unix_sockets_are_not_exposed():
    assert exposed([("127.0.0.1", 1), ("127.9.9.9", 1), ("::1", 1), ("localhost", 1), "/run/x", 3]) == []
    found = exposed([("0.0.0.0", 80), ("::", 80), ("10.1.2.3", 1), ("fe80::1%eth0", 1), ("example.org", 1)])
    assert found == ["0.0.0.0:80", "[::]:80", "10.1.2.3:1", "[fe80::1%eth0]:1", "example.org:1"]


def test_a_body_has_one_deadline_and_the_next_request_another():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = SimpleNamespace(unreader=SimpleNamespace(sock=ours))
        bound_body(SimpleNamespace(guarded=False), request, 0.3)
        watch = Stopwatch()
        with pytest.raises(TimeoutError):
            while True:
                theirs.send(b"x")
                request.unreader.sock.recv(1)
                time.sleep(0.05)
        assert watch.seconds() > 0.2 and watch.fair() < 3
        assert request.unreader.sock.fileno() == ours.fileno(), "the rest is the socket's own"
        unbound_body(request)
        assert request.unreader.sock is ours


def test_what_is_guarded_or_has_no_socket_is_left_alone():
    request = SimpleNamespace(unreader=SimpleNamespace(sock=object()))
    before = request.unreader.sock
    bound_body(SimpleNamespace(guarded=True), request, 1)
    bound_body(SimpleNamespace(), SimpleNamespace(), 1)
    unbound_body(SimpleNamespace())
    unbound_body(request)
    assert request.unreader.sock is before
