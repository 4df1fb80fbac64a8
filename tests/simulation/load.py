"""What the callers of one pool do all day: think, check out, use, release."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """See the module's docstring.

    Attributes:
        threads: how many there are.
        think, service: mean seconds without and with a connection.
        on, off: seconds of work and of rest in turn; 0 off: no rest.
        phase: seconds by which that is shifted.
        kept: how many threads keep a connection for long.
        keep: mean seconds of that.
    """

    threads: int
    service: float
    think: float
    on: float = 1.0
    off: float = 0.0
    phase: float = 0.0
    kept: int = 0
    keep: float = 1.0

    def rests_for(self, now: float) -> float:
        """Seconds until there is work again; 0: now."""
        if not self.off:
            return 0.0
        at = (now + self.phase) % (self.on + self.off)
        return 0.0 if at < self.on else self.on + self.off - at
