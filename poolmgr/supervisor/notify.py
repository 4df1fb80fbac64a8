"""Messages to systemd (sd_notify(3)): ready, alive, current status. Nothing is sent without a listener."""

from __future__ import annotations

import os
import socket


class Notify:
    """Sends to ``NOTIFY_SOCKET``, which it takes out of the environment."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        interval = os.environ.pop("WATCHDOG_USEC", "0")
        pid = os.environ.pop("WATCHDOG_PID", "")
        ours = self._address and pid in ("", str(os.getpid())) and interval.isdigit()
        self.watchdog = int(interval) / 1e6 / 4 if ours else 0.0
        """Seconds between two signs of life; 0: none are wanted. A quarter of what systemd allows, so that a host short
        of processor time for a second does not make the supervisor look hung."""

    def __call__(self, **words: str) -> None:
        """``notify(READY="1", STATUS="...")``"""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in words.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as sock:
                sock.sendto(text.encode(), self._address)
        except OSError:
            pass
