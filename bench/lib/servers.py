"""Servers and supervisors of a benchmark's own: nothing that runs on the machine is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from poolmgr import launch, settings, status, wire
from poolmgr.kernel.lockfile import holder
from tests.helpers import ROOT, RedisServer, alive, debian_redis_binary, free_port, kill, wait_for


@contextlib.contextmanager
def server(directory: Path, *, maxclients: int = 1000) -> Iterator[RedisServer]:
    """The Valkey that comes with the service, on a port and a Unix socket."""
    started = RedisServer(directory, port=free_port(), maxclients=maxclients)
    try:
        yield started.start()
    finally:
        started.stop()


@contextlib.contextmanager
def supervisor(socket: Path, **environ: str) -> Iterator[Path]:
    """This process's supervisor socket. The end of the block ends every supervisor there.

    ``environ`` is set for this process and inherited by all it starts, the supervisor included.
    """
    wanted = {"POOLMGR_SOCKET": str(socket), "POOLMGR_LOG_LEVEL": "warning", "POOLMGR_METRICS": "off"}
    wanted |= {"POOLMGR_LINGER": "0", **environ}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield socket
    finally:
        end_supervisor(socket)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def end_supervisor(socket: Path, patience: float = 3.0) -> None:
    """A supervisor ends by itself when nothing is charged or in quarantine. Kill it if it has not ended in time."""
    pid = supervisor_pid(socket)
    if pid <= 1 or pid == os.getpid():
        return
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not alive(pid), patience)
        return
    kill(pid)
    wait_for(lambda: not alive(pid), 10)


def supervisor_pid(socket: Path) -> int:
    """0: there is none."""
    return holder(f"{socket}.lock")


class Observer:
    """A tool's connection to the supervisor: what ``poolmgr status`` asks."""

    def __init__(self) -> None:
        self._sock = launch.connect(settings.load(), start=True)
        self._decoder = wire.Decoder(wire.FromSupervisor)

    def status(self) -> status.Status:
        self._sock.sendall(wire.encode(wire.Query("status")))
        while data := self._sock.recv(1 << 20):
            for message in self._decoder.feed(data):
                if isinstance(message, wire.Answer):
                    return status.load_status(message.body)
        raise ConnectionError("the supervisor has closed the connection")

    def limit_of(self, pid: int) -> int:
        """What a process may hold at the only server."""
        return max((m.limit for s in self.status().servers for m in s.members if m.pid == pid), default=0)

    def close(self) -> None:
        self._sock.close()


class Usage(msgspec.Struct, frozen=True):
    """What a process has used so far: processor seconds, and resident bytes."""

    cpu: float
    memory: int


def usage(pid: int) -> Usage:
    """Processor time of all live threads in nanosecond steps (schedstat), where the kernel counts them."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    with contextlib.suppress(OSError):
        cpu = (
            sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9
        )
    return Usage(cpu, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))


# ---- TLS ---------------------------------------------------------------------------------------


class Tls(msgspec.Struct, frozen=True):
    """A server that speaks TLS: its port, its certificate's authority, and what it is."""

    port: int
    authority: str
    what: str


@contextlib.contextmanager
def tls(directory: Path, plain: RedisServer) -> Iterator[Tls]:
    """A TLS port: Debian's Redis if it is installed, otherwise our own terminator in front of ``plain``.

    The server that comes with the service is built without TLS.
    """
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    ca, cert, key = (str(directory / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(ca)
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    port = free_port()
    binary = debian_redis_binary()
    if binary is not None and b"libssl" in _libraries(binary):
        started = RedisServer(
            directory, binary=binary, tls_port=port, tls_cert_file=cert, tls_key_file=key,
            tls_ca_cert_file=ca, tls_auth_clients="no",
        )  # fmt: skip
        try:
            started.start()
            yield Tls(port, ca, f"{Path(binary).name} with TLS")
        finally:
            started.stop()
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.lib.terminator", str(port), cert, key, plain.path],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield Tls(port, ca, "a TLS terminator in Python before the server")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _libraries(binary: str) -> bytes:
    ldd = shutil.which("ldd")
    return subprocess.run([ldd, binary], capture_output=True, check=False).stdout if ldd else b""
