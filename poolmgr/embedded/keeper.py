"""The process that keeps the embedded server: it starts it, and ends it with the service.

Run as a script, ``python -I -S keeper.py LIFELINE SOCKET SERVER MAXCLIENTS``; it is never imported by
the library and imports only the standard library, so that it stays small for as long as a service
lives. :mod:`poolmgr.embedded` starts it.

How the keeper knows when to end the server: every process of the service holds a *shared* ``flock`` on the lifeline
file, inherited over fork or taken by itself. The kernel drops that lock when the last copy of the descriptor is closed,
however its process dies. The keeper waits for the *exclusive* lock. Once the keeper has it, no process uses the server
and none can begin to: the keeper ends the server, removes the files and exits. A process that waited for a shared lock
meanwhile finds the file replaced and starts again.

There is one keeper for each lifeline: it holds a POSIX record lock on the same file (Linux keeps the
two kinds apart). If the keeper is killed, the server lives on, and the next keeper adopts it: the
kernel says the server's pid by SO_PEERCRED. If the server dies, the keeper starts another.

The keeper must never connect after the start: the server's connections are the service's to count.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

START_TIMEOUT = 10.0
"""Seconds the server may take until it answers."""

STOP_TIMEOUT = 2.0
"""Seconds the server may take to end after SIGTERM; then it is killed. It has nothing to save."""


def server_arguments(binary: str, path: str, maxclients: int) -> list[str]:
    """The server's command line: a private Unix socket, no port, nothing on disk."""
    options = {
        "port": "0",
        "unixsocket": path,
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "dir": os.path.dirname(path),
        "loglevel": "warning",
        "maxclients": str(maxclients),
    }
    return [binary, *(word for key, value in options.items() for word in (f"--{key}", value))]


def who_answers(path: str) -> int:
    """The pid of the server of ours that answers on a Unix socket; 0 if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(path)
            sock.sendall(b"PING\r\n")
            if not sock.recv(64):
                return 0
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return 0
    pid, uid = (int.from_bytes(credentials[at : at + 4], sys.byteorder, signed=True) for at in (0, 4))
    return pid if uid == os.getuid() else 0


class Keeper:
    def __init__(self, lifeline: str, path: str, binary: str, maxclients: int) -> None:
        self.lifeline = lifeline
        self.path = path
        self.arguments = server_arguments(binary, path, maxclients)
        self.fd = os.open(lifeline, os.O_RDWR | os.O_CLOEXEC)
        self.child: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.last_words = b""
        self.told_to_stop = False

    def is_only_one(self) -> bool:
        """Whether this keeper now has the record lock. The keeper opens the file once and never closes it,
        since closing any descriptor of the file would drop the lock (fcntl(2))."""
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def adopt_or_start(self) -> str:
        """Have a server that answers; what went wrong, or an empty text."""
        pid = who_answers(self.path)
        if pid > 0:
            with contextlib.suppress(OSError):
                self.pidfd = os.pidfd_open(pid)
                return ""
        return self.start()

    def start(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # left by a server that was killed
        self.last_words = b""
        try:
            self.child = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                umask=0o077,
            )
        except OSError as error:
            return f"{self.arguments[0]} does not run: {error.strerror}"
        assert self.child.stdout is not None
        os.set_blocking(self.child.stdout.fileno(), False)
        self.pidfd = os.pidfd_open(self.child.pid)
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if who_answers(self.path) == self.child.pid:
                return ""
            if self.ended(0.005):
                self.listen()
                return self.why() or f"it ended with status {self.child.wait()}"
        self.stop()
        return f"it did not answer within {START_TIMEOUT:g} s"

    def listen(self) -> bool:
        """Read what the server says, keeping the end of it; False once it says no more."""
        if self.child is None or self.child.stdout is None:
            return False
        try:
            data = self.child.stdout.read()
        except OSError:
            return False
        if data:
            self.last_words = (self.last_words + data)[-2000:]
        return data != b""

    def why(self) -> str:
        lines = [line for line in self.last_words.decode(errors="replace").splitlines() if "#" in line]
        return lines[-1].partition("#")[2].strip() if lines else ""

    def ended(self, timeout: float) -> bool:
        """Whether the server's process is gone, waiting up to ``timeout`` seconds for it."""
        if self.pidfd < 0:
            return True
        ready, _, _ = select.select([self.pidfd], [], [], timeout)
        return bool(ready)

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.pidfd >= 0 and not self.ended(0):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.pidfd, number)
                self.ended(STOP_TIMEOUT)
        self.bury()

    def bury(self) -> None:
        if self.child is not None:
            self.child.wait()
            if self.child.stdout is not None:
                self.child.stdout.close()
            self.child = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def watch(self) -> None:
        """Until the last process of the service is gone."""
        alone, tell = os.pipe()

        def wait_for_the_last() -> None:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            os.write(tell, b"x")

        threading.Thread(target=wait_for_the_last, daemon=True).start()
        pause = 0.1
        while True:
            poller = select.poll()
            poller.register(alone, select.POLLIN)
            if self.pidfd >= 0:
                poller.register(self.pidfd, select.POLLIN)
            output = self.child.stdout if self.child is not None else None
            if output is not None and output.closed:  # its end came a turn before its process's
                output = None
            if output is not None:
                poller.register(output, select.POLLIN)
            wait = None if self.pidfd >= 0 or self.told_to_stop else pause * 1000
            ready = {fd for fd, _ in poller.poll(wait)}
            if alone in ready:
                self.stop()
                return
            if output is not None and output.fileno() in ready and not self.listen():
                output.close()
            if self.pidfd in ready:
                self.bury()
                if self.told_to_stop:
                    continue
                why = self.why()
                say(f"poolmgr: the embedded server has ended{f' ({why})' if why else ''}: starting another")
            elif self.pidfd < 0 and not self.told_to_stop:
                problem = self.start()
                pause = min(pause * 2, 5.0) if problem else 0.1
                if problem:
                    self.bury()

    def leave(self) -> None:
        """Remove the files, the lifeline last; the exclusive lock is still held. Remove the default directory too if
        it is empty: the next process that needs it makes it again."""
        for path in (self.path, self.lifeline):
            with contextlib.suppress(OSError):
                os.unlink(path)
        directory = os.path.dirname(self.path)
        if os.path.basename(directory) == f"redis-poolmgr-{os.getuid()}":
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def main(lifeline: str, path: str, binary: str, maxclients: str) -> int:
    if os.fork():  # the caller waits for this one; the keeper is then a child of init
        os._exit(0)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    keeper = Keeper(lifeline, path, binary, int(maxclients))

    def stop_with_the_server(_number: int, _frame: object) -> None:
        keeper.told_to_stop = True

    signal.signal(signal.SIGTERM, stop_with_the_server)
    deadline = time.monotonic() + START_TIMEOUT
    while not keeper.is_only_one():
        if who_answers(path):
            answer("found")
            return 0
        if time.monotonic() > deadline:
            answer("failed another keeper has started it, and it does not answer")
            return 1
        time.sleep(0.01)
    adopted = who_answers(path) > 0
    problem = keeper.adopt_or_start()
    if problem:
        keeper.bury()
        answer(f"failed {problem}")
        return 1
    answer("found" if adopted else "started")
    keeper.watch()
    keeper.leave()
    return 0


def answer(text: str) -> None:
    """Answer the process that started this one, once; it reads our standard output to its end."""
    with contextlib.suppress(OSError):
        os.write(1, text.encode())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
