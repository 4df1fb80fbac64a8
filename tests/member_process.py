"""A fake member (:class:`tests.fake_member.FakeMember`) in a process of its own, so that it can be killed.

It obeys the rules by itself, and takes commands on standard input (see :func:`main`).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poolmgr import wire
from tests import warm
from tests.fake_member import FakeMember, endpoint_of
from tests.stopwatch import Stopwatch


class MemberProcess:
    """A fake member in a process of its own that obeys the rules and holds ``demand`` connections."""

    def __init__(self, socket_path: str, endpoint: wire.Endpoint, demand: int, *options: str) -> None:
        self.process: subprocess.Popen[str] = warm.Popen(
            [
                sys.executable, "-m", "tests.member_process", socket_path, endpoint.path, str(endpoint.port),
                str(demand), *options,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
        )  # fmt: skip
        self.state: dict[str, Any] = {}
        self._said = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def until(self, found: Callable[[dict[str, Any]], Any], timeout: float = 10.0) -> dict[str, Any]:
        """Read its states until one satisfies."""
        watch = Stopwatch()
        assert self.process.stdout is not None
        while not (self.state and found(self.state)):
            while b"\n" not in self._said:
                if watch.exceeds(timeout):
                    raise AssertionError(f"member {self.pid} did not get there: {self.state}")
                if not select.select([self.process.stdout], [], [], 0.1)[0]:
                    continue
                data = os.read(self.process.stdout.fileno(), 1 << 16)
                if not data:
                    raise AssertionError(f"member {self.pid} ended: {self.state}")
                self._said += data
            line, _, self._said = self._said.partition(b"\n")
            self.state = json.loads(line)
        return self.state

    def has(self, count: int, timeout: float = 10.0) -> MemberProcess:
        """Wait until it has so many connections."""
        self.until(lambda state: state["open"] == count, timeout)
        return self

    def take(self, count: int, timeout: float = 10.0) -> MemberProcess:
        """Want so many from now on, and wait until it has them."""
        self.tell(str(count))
        return self.has(count, timeout)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


Members = Callable[..., MemberProcess]
"""The fixture ``members``."""


def main(arguments: list[str]) -> None:
    """``SOCKET PATH PORT DEMAND [fork]``: hold DEMAND connections. Commands, a line each: a new demand as a
    number; ``exec`` (become another program that keeps the connections); ``exit``.

    With ``fork`` it has a child that inherits its connections and outlives it.
    """
    path, unix, port, demand, *options = arguments
    endpoint = endpoint_of(unix, int(port))
    wanted = int(demand)
    member = FakeMember(path, title="fake process")
    poll_stdin, buffer = True, ""
    said = None
    child = 0
    while True:
        if member.sock is None:
            member.connect().hello(endpoint)
        server = member.resolved.get(endpoint.key, "")
        before = member.limits.get(server)
        assert member.sock is not None
        sources: list[Any] = [member.sock, sys.stdin] if poll_stdin else [member.sock]
        ready = select.select(sources, [], [], 0.2)[0]
        if sys.stdin in ready:
            data = os.read(0, 4096).decode()
            if not data:
                os._exit(0)
            buffer += data
            while "\n" in buffer:
                word, _, buffer = buffer.partition("\n")
                if word.isdigit():
                    wanted = int(word)
                elif word == "exit":
                    os._exit(0)
                elif word == "exec":
                    for connection in member.open.get(server, []):
                        os.set_inheritable(connection.sock.fileno(), True)
                    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
                before = None
        if member.sock in ready:
            member.read()
            if member.ended:
                member.close()
                continue
        server = member.resolved.get(endpoint.key, "")
        if not server:
            continue
        mine = member.open.setdefault(server, [])
        changed = member.limits.get(server) != before
        while len(mine) > min(wanted, member.limit(server)):
            mine.pop().close()
            changed = True
        while len(mine) < min(wanted, member.limit(server)):
            answer = member.dial(endpoint).answer
            if answer != b"+OK\r\n":
                sys.stdout.write(json.dumps({"error": answer.decode()}) + "\n")
                sys.stdout.flush()
                os._exit(3)
            changed = True
            if "fork" in options and len(mine) == wanted and (child := os.fork()) == 0:
                member.close()
                for fd in (0, 1):
                    os.close(fd)
                time.sleep(60)
                os._exit(0)
        if changed:
            member.report(server, in_use=len(mine), waiting=wanted - len(mine))
        state = {
            "limit": member.limit(server),
            "open": len(mine),
            "tag": member.tag,
            "link": member.link,
            "child": child,
        }
        if state != said:
            said = state
            sys.stdout.write(json.dumps(state) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
