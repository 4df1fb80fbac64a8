"""A supervisor that only listens and answers: what launching needs of one.

Run as ``python -m tests.fake_supervisor``. ``FAKE`` in its environment says how it misbehaves:
``refuse`` (says why and ends), ``crash`` (ends without a word), ``killed`` (is killed, the first one only), ``deaf``
(never listens), ``stuck`` (not even the lock is taken).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path

from poolmgr import settings, spawn, wire


def starts(values: settings.Settings) -> list[int]:
    """The pids of all that were started."""
    try:
        return [int(line) for line in Path(values.socket + ".starts").read_text().split()]
    except FileNotFoundError:
        return []


def pings(sock: socket.socket) -> bool:
    """Whether what it is connected to answers."""
    sock.settimeout(5)
    sock.sendall(wire.encode(wire.Ping(7)))
    return list(wire.Decoder(wire.FromSupervisor).feed(sock.recv(100))) == [wire.Pong(7)]


def serve(path: str) -> None:
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(4)
    spawn.report_start()
    answer_all(listener)


def answer_all(listener: socket.socket, answers: dict[str, wire.Message] | None = None) -> None:
    """Answer pings, and questions by ``answers``, until the listener is shut down."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    decoders: dict[int, wire.Decoder] = {}
    while True:
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                decoders[client.fileno()] = wire.Decoder(wire.FromMember)
                selector.register(client, selectors.EVENT_READ)
                continue
            try:
                data = sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                selector.unregister(sock)
                sock.close()
                continue
            for message in decoders[sock.fileno()].feed(data):
                if isinstance(message, wire.Ping):
                    sock.sendall(wire.encode(wire.Pong(message.nonce)))
                else:
                    what = message.what if isinstance(message, wire.Query) else type(message).__name__
                    reply = (answers or {}).get(what)
                    if reply is not None:
                        sock.sendall(wire.encode(reply))


@contextlib.contextmanager
def in_thread(path: str, **answers: wire.Message):
    """One in a thread of this process; ``answers`` by the question's ``what`` or the message's class."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(4)
    thread = threading.Thread(target=answer_all, args=(listener, answers), daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        listener.close()
        Path(path).unlink()


def main() -> None:
    path = os.environ["POOLMGR_SOCKET"]
    misbehave = os.environ.get("FAKE", "")
    if misbehave == "refuse":
        spawn.report_start("the snapshot is another's")
        sys.exit(1)
    if misbehave == "crash":
        sys.exit(1)
    if misbehave == "stuck":
        Path(path + ".stuck").write_text(str(os.getpid()))
        signal.pause()
    with Path(path + ".starts").open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    lock = os.open(path + ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if misbehave == "killed" and len(Path(path + ".starts").read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if misbehave == "deaf":
        signal.pause()
    serve(path)


if __name__ == "__main__":
    main()
