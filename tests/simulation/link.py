"""One connection of a member to a supervisor: two streams in order, each with its own delay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolmgr import wire

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.supervisor import Supervisor
    from tests.simulation.world import World


class Link:
    """Messages that a side has not read when it closes are lost; what the other side had sent before can
    still be read by the one that has not closed. A dead supervisor's last bytes may be cut short."""

    __slots__ = (
        "_down_at", "_down_count", "_under_way", "_up_at", "deaf", "lag", "lag_down", "lossy",
        "member", "member_open", "number", "supervisor", "supervisor_open", "world",
    )  # fmt: skip

    def __init__(self, world: World, member: Process, supervisor: Supervisor, number: int) -> None:
        self.world = world
        self.member = member
        self.supervisor = supervisor
        self.number = number
        self.member_open = True
        self.supervisor_open = True
        self.lossy = False
        """What was under way to the member when the supervisor died is lost."""
        self.lag = world.lag
        self.lag_down = 0.0
        """Seconds that each message to the member takes at least."""
        self.deaf = 0.0
        """Seconds for which the member does not notice that the supervisor has closed."""
        self._down_count = 0
        self._under_way: list[wire.Message | None] = []
        self._up_at = 0.0
        self._down_at = 0.0

    # ---- upwards ---------------------------------------------------------------------------------

    def to_supervisor(self, message: wire.Message | None) -> None:
        """None: end-of-file."""
        world = self.world
        self._up_at = max(self._up_at, world.clock.now + self.lag + world.delay(0.0001))
        self._under_way.append(message)
        world.clock.at(self._up_at, self._up, message)
        if isinstance(message, wire.Report) and world.repeats():
            world.clock.at(self._up_at, self._up, message)

    def _up(self, message: wire.Message | None) -> None:
        if message in self._under_way:
            self._under_way.remove(message)
        if self.supervisor_open and self.supervisor.alive:
            self.supervisor.arrived(self, message)

    def drain(self) -> None:
        """The supervisor reads all that the member, which is dead, has ever sent."""
        for message in self._under_way:
            if message is not None and self.supervisor_open:
                self.supervisor.hear(self, message)

    # ---- downwards -------------------------------------------------------------------------------

    def to_member(self, message: wire.Message | None) -> None:
        if not self.supervisor_open and message is not None:
            return
        world = self.world
        self._down_at = max(self._down_at, world.clock.now + self.lag_down + world.delay(0.0001))
        self._down_count += 1
        world.clock.at(self._down_at, self.member.run, self._down, message)
        if isinstance(message, wire.Limit) and world.repeats():
            self._down_count += 1
            world.clock.at(self._down_at, self.member.run, self._down, message)

    @property
    def busy(self) -> bool:
        """Something is under way."""
        return bool(self._under_way) or self._down_count > 0

    @property
    def acking(self) -> bool:
        """An acknowledgement of one of the first limits is under way."""
        return any(isinstance(message, wire.Report) and 0 < message.acked < 4 for message in self._under_way)

    def _down(self, message: wire.Message | None) -> None:
        self._down_count -= 1
        if not (self.member_open or self._read_after_close()):
            return
        if message is None:
            self.member_open = False
            self.member.unlinked(self)
        elif not self.lossy:
            self.member.heard(self, message)

    def _read_after_close(self) -> bool:
        """Rule M4: an old link is closed unread."""
        return False

    # ---- ends ------------------------------------------------------------------------------------

    def close_member(self) -> None:
        """The member closes (or has died)."""
        if self.member_open:
            self.member_open = False
            self.to_supervisor(None)

    def close_supervisor(self, *, lossy: bool = False) -> None:
        """The supervisor closes (or has died): it reads nothing more."""
        if self.supervisor_open:
            self.supervisor_open = False
            self.lossy = lossy
            self._down_at = max(self._down_at, self.world.clock.now + self.deaf)
            self.to_member(None)
