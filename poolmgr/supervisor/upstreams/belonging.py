"""Who owns the connections that a list shows with names of our form.

*Known* ones belong to a process that has registered here: they are ours alone. *Possible* ones may come from an earlier
supervisor's member: they bear a scope of ours, or this very place in this boot. They are counted and never killed,
since a name can be copied. *Neighbours* are of this boot, and neither: another supervisor of this host uses the server
as well. All others are strangers, clones of this machine among them.
"""

from __future__ import annotations

from poolmgr import tags
from poolmgr.budget.ledger import Ledger
from poolmgr.kernel import processes


class Belonging:
    """See the module's docstring.

    Args:
        place, boot: as in the supervisor's own tag.
        path: of its socket.
    """

    def __init__(self, ledger: Ledger, place: str, boot: str, path: str) -> None:
        self._ledger = ledger
        self._place = place
        self._path = path
        self.boot = boot

    def known(self, tag: tags.Tag) -> bool:
        """Whether its process has registered here."""
        return self._ledger.knows(tag.process)

    def possible(self, tag: tags.Tag) -> bool:
        """Whether it may come from an earlier supervisor at this place."""
        if tag.scope and tag.scope in self._ledger.scopes:
            return True
        return (tag.place, tag.boot) == (self._place, self.boot) and not self._elsewhere(tag)

    def neighbour(self, tag: tags.Tag) -> bool:
        """Whether it comes from another supervisor of this host."""
        return tag.boot == self.boot and not self.known(tag) and not self.possible(tag)

    def _elsewhere(self, tag: tags.Tag) -> bool:
        """Whether our socket's path leads its process elsewhere (systemd's PrivateTmp=): it is not ours and never will
        be. A process we cannot inspect may be ours."""
        return processes.finds(tag.pid, self._path) is False and processes.start_time(tag.pid) == tag.start
