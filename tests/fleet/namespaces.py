"""Hosts of a fleet and their server in namespaces of their own; nothing of the machine's own network is touched.

A host is a network, a process and a UTS namespace with a supervisor and two workers, one of threads and one of tasks.
Each host's network is joined to a bridge in a namespace where the server listens, which has room for exactly the budget
and the observers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from tests.fleet.hosts import Host
from tests.helpers import RedisServer

BUDGET = 24
OBSERVERS = 2
PORT = 6379
SERVER = "10.77.0.1"


class Namespace:
    """A network, process, mount and UTS namespace of its own; its first process ends all others with it."""

    def __init__(self, name: str) -> None:
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--pid", "--uts", "--mount", "--fork", "--kill-child", "--mount-proc",
             "sh", "-c", f"hostname {name} && ip link set lo up && echo ready && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"
        self.pid = int(Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()[0])
        self._space = os.readlink(f"/proc/{self.pid}/ns/pid")

    @property
    def enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "--net", "--pid", "--uts", "--mount"]

    def run(self, *words: str) -> None:
        """In its network. Process numbers are those of outside."""
        subprocess.run(["nsenter", "-t", str(self.pid), "--net", *words], check=True)

    def pids(self) -> list[int]:
        """Its processes, but for the first, as this namespace numbers them."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and int(entry) != self.pid:
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{entry}/ns/pid") == self._space:
                        found.append(int(entry))
        return found

    def signal(self, number: signal.Signals, *, only: str = "") -> None:
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if only.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, number)

    def end(self) -> None:
        self.holder.kill()
        self.holder.wait()
        assert self.holder.stdout is not None
        self.holder.stdout.close()


def bridge() -> Namespace:
    """A namespace to which the networks of others are joined."""
    hub = Namespace("hub")
    # Without an address of its own it takes the lowest of its ports'. That one changes as hosts come and go, and for
    # some seconds the others send to the address that they know.
    hub.run("ip", "link", "add", "br0", "address", "02:00:00:4d:00:01", "type", "bridge")
    hub.run("ip", "addr", "add", f"{SERVER}/24", "dev", "br0")
    hub.run("ip", "link", "set", "br0", "up")
    return hub


def join(hub: Namespace, pid: int, link: str, number: int) -> None:
    """Join the network of that process to the bridge, as host ``number`` of the net."""
    inside = ["nsenter", "-t", str(pid), "--net", "ip"]
    hub.run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    hub.run("ip", "link", "set", link, "master", "br0", "up")
    subprocess.run([*inside, "addr", "add", f"{SERVER.removesuffix('1')}{number}/24", "dev", "eth0"], check=True)
    subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)


class Member:
    """A host of the fleet in its namespace.

    Attributes:
        blamed: until when its requests may fail, by a fault of its own (seconds of the epoch).
        stopped: its processes are stopped, and answer nothing.
    """

    def __init__(self, number: int, hub: Namespace, base: Path, url: str, off: str) -> None:
        self.number = number
        self.hub = hub
        self.base = base
        self.url = url
        self.off = off
        self.space: Namespace | None = None
        self.host: Host | None = None
        self.blamed = 0.0
        self.stopped = False
        self.starts = 0

    def start(self, callers: int) -> None:
        self.starts += 1
        self.space = Namespace(f"host-{self.number}")
        self.link = f"h{self.number}x{self.starts}"
        join(self.hub, self.space.pid, self.link, 10 + self.number)
        environ = {"REDIS_FLEET_BUDGET": str(BUDGET), **({"OFF": self.off} if self.off else {})}
        self.host = Host(self.base / f"{self.number}-{self.starts}", self.url, before=self.space.enter, **environ)
        self.host.start(("sync", "asyncio"))
        self.host.callers(callers)

    @property
    def up(self) -> bool:
        return self.space is not None

    def kill(self) -> None:
        assert self.space is not None and self.host is not None
        self.space.end()
        self.hub.run("sh", "-c", f"ip link set {self.link} down 2>/dev/null || :")  # it goes with the namespace, later
        self.host.reap()
        self.space = self.host = None
        self.stopped = False

    def tend(self) -> bool:
        """Start its supervisor again if that has ended, as a service manager does: where a machine is so busy that a
        supervisor does not answer for seconds, its members end it."""
        if self.host is None or self.stopped:
            return False
        supervisor = self.host.supervisor
        if supervisor.process is None or supervisor.process.poll() is None:
            return False
        supervisor.start()
        return True

    def signal(self, number: signal.Signals, only: str = "") -> None:
        assert self.space is not None and self.host is not None
        self.space.signal(number, only=only)
        self.stopped = number == signal.SIGSTOP
        if number == signal.SIGCONT:  # nsenter stops itself when its child is stopped
            self.host.signal(number)


class InNamespace(RedisServer):
    """A server that listens in a namespace; its Unix socket is seen from everywhere."""

    def __init__(self, space: Namespace, base: Path, maxclients: int = BUDGET + OBSERVERS) -> None:
        super().__init__(base, port=PORT, maxclients=maxclients, bind=SERVER, protected_mode="no")
        self.before = ["nsenter", "-t", str(space.pid), "--net"]
        self.counted = 0

    def start(self) -> RedisServer:
        self.counted = 0
        return super().start()
