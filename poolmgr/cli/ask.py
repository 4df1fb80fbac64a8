"""One question to the supervisor, and its answer."""

from __future__ import annotations

import contextlib
import time

from poolmgr import launch, wire
from poolmgr.errors import SupervisorError
from poolmgr.kernel.lockfile import holder
from poolmgr.launch import remedies
from poolmgr.settings import Settings, unenforced


def ask(settings: Settings, question: wire.Query | wire.SetBudget, timeout: float = 5.0) -> wire.Answer:
    """Send ``question`` to the running supervisor. This does not start one.

    Args:
        timeout: seconds for everything together.

    Raises:
        SupervisorError: none runs, it refuses, it does not answer in time, or is of another version.
    """
    try:
        sock = launch.connect(settings, start=False, timeout=timeout)
    except SupervisorError as error:
        reason = unenforced()
        raise (SupervisorError(f"no budget is enforced here ({reason}), and {error}") if reason else error) from None
    decoder = wire.Decoder(wire.FromSupervisor)
    deadline = time.monotonic() + timeout
    with sock:
        try:
            sock.settimeout(timeout)
            with contextlib.suppress(BrokenPipeError):  # a supervisor that closed at once may have said why
                sock.sendall(wire.encode(question))
            while data := sock.recv(1 << 16):
                for message in decoder.feed(data):
                    if isinstance(message, wire.Answer):
                        return message
                    if isinstance(message, wire.Refused):
                        raise SupervisorError(message.reason)
                sock.settimeout(max(0.001, deadline - time.monotonic()))
        except TimeoutError:
            raise SupervisorError(
                f"the supervisor at {settings.socket} has not answered for {timeout:g} s: it is busy or hangs; "
                f"try again, or {remedies.restart(holder(settings.socket + '.lock'))}"
            ) from None
        except OSError as error:
            raise SupervisorError(f"the supervisor at {settings.socket} went away: {error.strerror}") from None
        except wire.WireError as error:
            raise SupervisorError(
                f"what listens at {settings.socket} does not speak our protocol ({error}): is it of another version?"
            ) from None
    raise SupervisorError(f"the supervisor at {settings.socket} closed the connection without an answer")
