"""One connection of the supervisor's own to a server, in blocking calls for a worker thread.

It is a member of the ledger like any other (rule S5). The caller must hold a permit for it before :meth:`Admin.open`,
and may return that permit only when :meth:`Admin.close` says that the server has confirmed the end (rule M3). Its name
bears the supervisor's tag. It must never be used in the event loop's thread, and never log an endpoint but by its key.

It does not go through redis-py: a supervisor must be there within some hundred milliseconds, and importing redis alone
takes that long; and each step of its handshake and close must be its own. For TLS it asks redis-py to wrap the socket,
so that a pool's ``ssl_*`` arguments mean the same here.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from typing import Any

from poolmgr.kernel.peer import peer
from poolmgr.supervisor.upstreams.resp import NotRedisError, Reader, ReplyError, packed
from poolmgr.wire import Endpoint

CLOSE_BOUND = 1.0
"""Seconds to wait for the server's end-of-file (rule M3)."""

SWALLOWED = 20_000
"""Milliseconds until unacknowledged data ends a connection (TCP_USER_TIMEOUT, tcp(7)), in a network that swallows
all."""

REFUSAL = "max number of clients"

Place = tuple[int, Any]
"""Family and address, as the kernel takes them."""


def locate(endpoint: Endpoint) -> tuple[Place, ...]:
    """Where an endpoint's name leads. Blocks for as long as the name server takes.

    Raises:
        OSError: nowhere.
    """
    if endpoint.path:
        return ((socket.AF_UNIX, endpoint.path),)
    try:
        found = socket.getaddrinfo(endpoint.address or endpoint.host, endpoint.port, 0, socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is too long
        raise OSError(f"{endpoint.host}: {error}") from None
    return tuple((family, address) for family, _, _, _, address in found)


class AdminError(Exception):
    """The exchange with the server failed.

    Attributes:
        kind: ``unreachable``, ``refused`` (maxclients), ``auth`` or ``way`` (TLS cannot be set up like that).
        deserted: the kernel says that no process listens there.
    """

    def __init__(self, kind: str, text: str, *, deserted: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.deserted = deserted


class Admin:
    """See the module's docstring.

    Args:
        name: goes into the client name and ``LIB-NAME``, with the scope and the lease behind it.
        places: where to connect, the first that answers; empty: where the endpoint's name leads then.
        connect_timeout, timeout: seconds to connect, and for each reply.
        describes: ask what the server is in the handshake's packet (:attr:`about`).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        connect_timeout: float,
        timeout: float,
        places: tuple[Place, ...] = (),
        scope: str = "",
        lease: str = "",
        *,
        describes: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self._places = places
        self.name = name
        self._scope = scope
        self.lease = lease
        """The lease of a fleet that its name bears; empty: none."""
        self.about: dict[str, str] = {}
        """What the server has said of itself on this connection (``INFO server``), if it was asked."""
        self._describes = describes
        self.id = 0
        """The server's number for this connection; 0 where it does not say."""
        self.nameless = ""
        """Why the server has refused its name; empty: it has not."""
        self.server_pid = 0
        """The server's process, over a Unix socket; 0 elsewhere."""
        self.address: tuple[str, int] | None = None
        """The server's address and port, over TCP."""
        self.mute = ""
        """Why the server is asked nothing: it closes the connection at CLIENT, as a proxy that does not know CLIENT
        may."""
        self.busy = ""
        """The server's words when it could not take our name just now."""
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self.took = 0.0
        """Seconds from the last request to the first byte of its reply: the round trip, and the server's time. The
        transfer of the rest of a long reply is not included."""
        self._said = 0.0
        self._sock: socket.socket | None = None
        self._reader = Reader(self._fill)
        self._ended = False
        self.dialled = self._connected = False
        """The kernel has a connection; it can be used, TLS included."""
        self.stalled = False
        """The server has not answered in time. The connection is kept: whenever an answer comes, the server is back,
        and waiting for it takes no second permit."""

    @property
    def shown(self) -> str:
        """Its name, as the server shows it."""
        if not self._scope:
            return self.name
        return f"{self.name}.{self._scope}.{self.lease}" if self.lease else f"{self.name}.{self._scope}"

    def rename(self, lease: str) -> None:
        """Let its name bear this lease.

        Raises:
            AdminError: there was no answer.
        """
        self.lease = lease
        self.pipeline(("CLIENT", "SETNAME", self.shown), ("CLIENT", "SETINFO", "LIB-NAME", self.shown))

    def open(self) -> None:
        """Connect, authenticate and send our name, in one round trip.

        Raises:
            AdminError: ``close`` must be called all the same: a socket may be open.
        """
        try:
            self._sock = self._connect()
            self._connected = True
            self._sock.settimeout(self._timeout)
            try:
                self._handshake()
            except AdminError as error:
                if error.kind != "unreachable" or not self._ended:
                    raise
                self._again(str(error))
        except OSError as error:
            raise self._failed(error) from None
        except (ValueError, OverflowError) as error:  # no such address can exist
            raise AdminError("unreachable", str(error)) from None

    def _failed(self, error: OSError) -> AdminError:
        self.stalled = isinstance(error, TimeoutError) and self._connected
        self._ended = self._ended or (isinstance(error, ConnectionResetError) and self._connected)
        deserted = not self._connected and error.errno in (errno.ENOENT, errno.ECONNREFUSED)
        return AdminError("unreachable", _text(error), deserted=deserted)

    @property
    def reached(self) -> bool:
        """The connection was accepted, and no answer is pending: another way to that address may do better."""
        return self.dialled and not self.stalled

    def answers(self) -> bool:
        """Whether an answer or an end has come since it stalled."""
        return self._sock is None or _readable(self._sock)

    def _connect(self) -> socket.socket:
        endpoint = self.endpoint
        sock = self._dial(self._places or locate(endpoint))
        if endpoint.path:
            who = peer(sock)
            self.server_pid = who.pid if who is not None else 0
            self.dialled = True
            return sock
        self.address = sock.getpeername()[:2]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SWALLOWED)
        self.dialled = True
        if endpoint.tls is None:
            return sock
        spare = sock.dup()  # a failed handshake closes the other one, and its end would not be proven
        try:
            wrapped = _wrap(sock, endpoint)
        except BaseException:
            self._sock = spare
            raise
        spare.close()
        return wrapped

    def _dial(self, places: tuple[Place, ...]) -> socket.socket:
        failure: OSError | None = None
        for family, address in places:
            self._sock = sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(self._connect_timeout)
                sock.connect(address)
                return sock
            except OSError as error:
                sock.close()
                failure = error
        raise failure or OSError(errno.EADDRNOTAVAIL, "the name leads nowhere")

    def _handshake(self) -> None:
        replies = self._greet(
            ("CLIENT", "SETNAME", self.shown),
            ("CLIENT", "SETINFO", "LIB-NAME", self.shown),
            ("CLIENT", "ID"),
            *([("INFO", "server")] if self._describes else []),
        )
        if self._describes:
            said = replies.pop()
            self.about = fields(said) if isinstance(said, bytes) else {}
        self.id = replies[-1] if isinstance(replies[-1], int) else 0
        self.nameless = str(replies[-3]) if isinstance(replies[-3], ReplyError) else ""

    def _greet(self, *commands: tuple[str | int, ...]) -> list[Any]:
        """Log in, and send these commands.

        Raises:
            AdminError: the server does not let us in, or has not answered.
        """
        endpoint = self.endpoint
        if endpoint.password is not None or endpoint.username:
            password = endpoint.password or ""
            login = ("AUTH", endpoint.username, password) if endpoint.username else ("AUTH", password)
            commands = (login, *commands)
        replies = self.pipeline(*commands)
        for reply in replies:
            text = str(reply) if isinstance(reply, ReplyError) else ""
            if REFUSAL in text:
                raise AdminError("refused", text)
            if text.startswith(("NOAUTH", "WRONGPASS")) or "invalid password" in text or "invalid username" in text:
                raise AdminError("auth", text)
            if isinstance(reply, ReplyError) and reply.passing:
                self.busy = text
        return replies

    def _again(self, why: str) -> None:
        """The server closed the connection at our first words. It may do so at CLIENT and still serve members."""
        if self._sock is not None:
            self._sock.close()
        self._reader = Reader(self._fill)
        self._ended = self._connected = self.dialled = False
        self._sock = self._connect()
        self._connected = True
        self._sock.settimeout(self._timeout)
        self.mute = f"it closes the connection at CLIENT ({why})"
        self._greet(("PING",))

    # ---- commands ---------------------------------------------------------------------------------

    def call(self, *command: str | int) -> Any:
        """One command's reply: bytes, int, None or a list.

        Raises:
            ReplyError: the server's answer is an error.
            AdminError: there was no answer.
        """
        (reply,) = self.pipeline(command)
        if isinstance(reply, ReplyError):
            if REFUSAL in str(reply):
                raise AdminError("refused", str(reply))
            raise reply
        return reply

    def pipeline(self, *commands: tuple[str | int, ...]) -> list[Any]:
        """Several replies; an error among them is returned as a :class:`ReplyError`."""
        if self._sock is None:
            raise AdminError("unreachable", "not connected")
        try:
            self._said = time.perf_counter()
            refusal = self._say(packed(*commands))
            if refusal is not None:
                return [refusal]
            replies = []
            for _ in commands:
                reply = self._reader.read()
                replies.append(reply)
                if isinstance(reply, ReplyError) and REFUSAL in str(reply):
                    # The server sends this instead of accepting us, and closes.
                    return [reply]
            return replies
        except OSError as error:
            raise self._failed(error) from None
        except NotRedisError as error:
            raise AdminError("unreachable", f"not a Redis server: {error}") from None

    def _say(self, words: bytes) -> ReplyError | None:
        """Send it. A full server says so and closes, maybe before it has read anything: then that reply is returned."""
        assert self._sock is not None
        try:
            self._sock.sendall(words)
        except (BrokenPipeError, ConnectionResetError):
            try:
                reply = self._reader.read()
            except (OSError, AdminError, NotRedisError):
                reply = None
            if isinstance(reply, ReplyError) and REFUSAL in str(reply):
                return reply
            raise
        return None

    def _fill(self) -> bytes:
        assert self._sock is not None
        data = self._sock.recv(1 << 18)
        if self._said:
            self.took, self._said = time.perf_counter() - self._said, 0.0
        if not data:
            self._ended = True
            raise AdminError("unreachable", "the server closed the connection")
        return data

    # ---- the end ----------------------------------------------------------------------------------

    def fileno(self) -> int:
        """For the event loop, which watches for the server's close; -1 if it is not open."""
        return -1 if self._sock is None else self._sock.fileno()

    def close(self) -> bool:
        """Rule M3: end our side, read to the server's end-of-file, close.

        Returns:
            Whether the connection is known to be gone. False: its permit stays charged until a
            ``CLIENT LIST`` proves it gone.
        """
        sock, self._sock = self._sock, None
        if sock is None:
            return True
        try:
            if self._ended:
                return True
            try:
                sock.settimeout(CLOSE_BOUND)
                sock.shutdown(socket.SHUT_WR)  # an SSLSocket reads raw after this
                while sock.recv(1 << 16):
                    pass
                return True
            except OSError as error:
                # Reset by the server, or never connected: nothing is there. Silence proves nothing.
                return error.errno not in (None, errno.ETIMEDOUT) and not isinstance(error, TimeoutError)
        finally:
            sock.close()


def fields(text: bytes) -> dict[str, str]:
    """What INFO answers."""
    lines = text.decode("utf-8", "replace").splitlines()
    return {key: value for key, mark, value in (line.partition(":") for line in lines) if mark}


def _readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _text(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or str(error) or type(error).__name__


def _wrap(sock: socket.socket, endpoint: Endpoint) -> socket.socket:
    """TLS exactly as redis-py's ``SSLConnection`` would."""
    import ssl

    from redis.connection import SSLConnection
    from redis.exceptions import RedisError

    from poolmgr import certificates

    tls = endpoint.tls or {}
    arguments: dict[str, Any] = {"ssl_" + k.removeprefix("ssl_"): v for k, v in tls.items()}
    for flags in ("ssl_include_verify_flags", "ssl_exclude_verify_flags"):
        if isinstance(arguments.get(flags), int):
            arguments[flags] = [arguments[flags]]
    try:
        template = SSLConnection(host=endpoint.host, port=endpoint.port, **arguments)
        wrapped: socket.socket = template._wrap_socket_with_ssl(sock)
        return wrapped
    except (TimeoutError, ConnectionError, ssl.SSLEOFError) as error:
        raise AdminError("unreachable", f"TLS: {error}") from None
    except (OSError, RedisError, TypeError, ValueError) as error:
        files = certificates.meant(error, {name: tls[name] for name in certificates.FILES if tls.get(name)})
        raise AdminError("way", f"TLS: {error}" + (f" ({files})" if files else "")) from None
