"""The duty that one host of a fleet has at a time: prove what is marked, kill what must not be there, count (rule F6).

:mod:`poolmgr.fleet.duty` says what a list means. The order here makes it a proof: the survey marks; then a fresh
connection is opened and answered; then it lists. It blocks: for a probe's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from poolmgr.fleet import duty, script
from poolmgr.fleet.duty import Seen
from poolmgr.supervisor.fleet.table import Table
from poolmgr.supervisor.upstreams.admin import Admin
from poolmgr.supervisor.upstreams.proof import HANDSHAKE, Row
from poolmgr.supervisor.upstreams.resp import ReplyError

PAUSES = (0.0, 0.001, 0.004, 0.016)
"""Seconds before each look at the list in one go; what is left then is tried again with the next renewal."""


class Done(msgspec.Struct):
    """What came of it.

    Attributes:
        proven: leases that are free now. killed: connections. counted: a new table's census is complete.
        suspects: connections without a name held a proof up.
        error: what the server refused; empty: nothing.
    """

    proven: tuple[str, ...] = ()
    killed: int = 0
    counted: bool = False
    suspects: bool = False
    error: str = ""


def perform(
    table: Table,
    fleet: str,
    kept: Admin,
    fresh: Callable[[], Admin | None],
    listed: Callable[[Sequence[int]], Sequence[Row] | None],
    lease: float,
    handshake: float,
) -> Done:
    """See the module's docstring.

    Args:
        fleet: its leases' names begin so.
        kept: the connection that is open.
        fresh: closes it and opens another one; None: not now.
        listed: the list over that one, or its rows for these connections; None: not now.
        lease: seconds that a lease lasts.
        handshake: seconds after which every connection of the fleet has its name, or has ended.

    Raises:
        TableError, AdminError: the server does not answer.
    """
    done = Done()
    run = table.about(kept)["run_id"]
    survey = script.surveyed(table.ask(kept, *script.survey(run)))
    if survey is None:
        return done
    admin = fresh()
    if admin is None or table.about(admin)["run_id"] != run:
        return done
    rows: Sequence[Row] | None = None
    for pause in PAUSES:
        time.sleep(pause)
        rows = listed(())
        if rows is None:
            return done
        clients = [_seen(row, fleet, admin.id, handshake) for row in rows]
        names = {client.lease for client in clients if client.lease}
        asked = script.condemned(run, survey.table, round(lease * 1000), sorted(names))
        condemned = script.named(table.ask(admin, *asked))
        if condemned is None:
            return done
        left = duty.leftovers(condemned, clients)
        if not left:
            break
        done.killed += _kill(admin, left, done)
    assert rows is not None
    verdict = duty.judge(survey, admin.id, clients)
    done.suspects = not verdict.complete
    if verdict.gone:
        table.ask(admin, *script.proven(run, survey.table, sorted(verdict.gone)))
        done.proven = tuple(sorted(verdict.gone))
    if survey.learning and verdict.complete:
        done.counted = table.ask(admin, *script.census(run, survey.table, sorted(verdict.shown))) == [b"ok", 1]
    table.ask(admin, *script.audited(run, survey.table, verdict.others))
    return done


def _seen(row: Row, fleet: str, own: int, handshake: float) -> Seen:
    lease = row.tag.lease if row.tag is not None and row.tag.lease.startswith(fleet) else ""
    unnamed = not row.name and not row.library and row.id != own
    early = row.age <= handshake and row.command.partition("|")[0] in HANDSHAKE
    return Seen(row.id, lease, unnamed and early)


def _kill(admin: Admin, ids: Iterable[int], done: Done) -> int:
    killed = 0
    for reply in admin.pipeline(*(("CLIENT", "KILL", "ID", number) for number in ids)):
        if isinstance(reply, ReplyError):
            done.error = f"CLIENT KILL: {reply}"
        else:
            killed += reply if isinstance(reply, int) else 1
    return killed
