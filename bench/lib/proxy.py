"""A TCP proxy that adds latency: it delays every reply of the server for a fixed time.

One thread, one process (``python -m bench.lib.proxy``), and ports that each have their own latency.
Requests pass at once, and replies are delayed by the whole round trip. A client in a closed
loop cannot tell that from half of it each way. The latency is constant, so the data that waits for one port
is in the order in which it is due, and a deque is the only timer that the proxy needs.

The proxy must never limit the measurement: it counts its own processor time, and a part of the benchmarks that
finds it busy for more than half of the time reports that. ``epoll_wait`` counts milliseconds, so the
proxy waits with ``select`` on the epoll descriptor, which counts microseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Side:
    """One end of a proxied connection."""

    __slots__ = ("dead", "delay", "line", "other", "sock")

    def __init__(self, sock: socket.socket, delay: float, line: deque[tuple[float, Side, bytes]]) -> None:
        self.sock = sock
        self.delay = delay
        """Of what is read here."""
        self.line = line
        self.other: Side = self
        self.dead = False


class Proxy:
    """The proxy's loop.

    Args:
        target: a Unix socket's path.
        latencies: seconds, one for each port.
    """

    def __init__(self, target: str, latencies: Sequence[float]) -> None:
        self._target = target
        self._epoll = select.epoll()
        self._sides: dict[int, Side] = {}
        self._listeners: dict[int, tuple[socket.socket, float, deque[tuple[float, Side, bytes]]]] = {}
        self.ports: list[int] = []
        for latency in latencies:
            sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
            sock.setblocking(False)
            self._listeners[sock.fileno()] = (sock, latency, deque())
            self._epoll.register(sock, select.EPOLLIN)
            self.ports.append(sock.getsockname()[1])
        self._lines = [line for _, _, line in self._listeners.values()]

    def run(self) -> None:
        epoll, sides, listeners, lines = self._epoll, self._sides, self._listeners, self._lines
        clock, wait, poll = time.monotonic, select.select, epoll.poll
        watched = [epoll.fileno()]
        while True:
            due = min((line[0][0] for line in lines if line), default=0.0)
            if due:
                pause = due - clock()
                if pause > 0:
                    wait(watched, (), (), pause)
            else:
                wait(watched, (), ())
            for fd, _ in poll(0):
                if fd in listeners:
                    self._accept(fd)
                    continue
                side = sides.get(fd)
                if side is None:
                    continue
                try:
                    data = side.sock.recv(65536)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    epoll.unregister(fd)
                if side.delay:
                    side.line.append((clock() + side.delay, side.other, data))
                else:
                    self._deliver(side.other, data)
            now = clock()
            for line in lines:
                while line and line[0][0] <= now:
                    _, side, data = line.popleft()
                    self._deliver(side, data)

    def _accept(self, fd: int) -> None:
        listener, delay, line = self._listeners[fd]
        while True:
            try:
                near, _ = listener.accept()
            except BlockingIOError:
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(self._target)
            except OSError:
                far.close()
                near.close()
                continue
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client, server = Side(near, 0.0, line), Side(far, delay, line)
            client.other, server.other = server, client
            for side in (client, server):
                side.sock.setblocking(False)
                self._sides[side.sock.fileno()] = side
                self._epoll.register(side.sock, select.EPOLLIN)

    def _deliver(self, side: Side, data: bytes) -> None:
        """Bytes to one end, or the end of the bytes: a half is closed as the other end closed it."""
        if side.dead:
            return
        try:
            if data:
                try:
                    sent = side.sock.send(data)
                except BlockingIOError:
                    sent = 0
                if sent < len(data):  # rare, and then one slow reader may hold up the rest
                    side.sock.setblocking(True)
                    side.sock.sendall(data[sent:])
                    side.sock.setblocking(False)
                return
            side.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        side.dead = True
        if side.other.dead:
            for one in (side, side.other):
                with contextlib.suppress(KeyError, OSError, ValueError):
                    del self._sides[one.sock.fileno()]
                    with contextlib.suppress(OSError):
                        self._epoll.unregister(one.sock)
                    one.sock.close()


class Running:
    """A proxy in a process of its own. ``ports`` maps latency in seconds to its port."""

    def __init__(self, process: subprocess.Popen[bytes], ports: dict[float, int]) -> None:
        self.process = process
        self.ports = ports

    def cpu(self) -> float:
        """Processor seconds that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(target: str, latencies: Sequence[float]) -> Iterator[Running]:
    """Start a proxy to a Unix socket; it ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.lib.proxy", target, *map(str, latencies)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        ports = [int(word) for word in process.stdout.readline().split()]
        yield Running(process, dict(zip(latencies, ports, strict=True)))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def main(target: str, *latencies: str) -> None:
    proxy = Proxy(target, [float(text) for text in latencies])
    print(*proxy.ports, flush=True)
    proxy.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
