"""A host with the duty: each part of it is a step of its own, and the host may be paused between any two."""

from __future__ import annotations

from collections.abc import Iterator

from poolmgr.fleet import duty, script
from tests.simulation.fleet.server import Server


def rounds(server: Server, lease: float) -> Iterator[str]:
    """What the shell does (:mod:`poolmgr.fleet.duty` says why in this order)."""
    survey = script.surveyed(server.table.call(*script.survey(server.run)))
    yield "survey"
    if survey is None:
        return
    fresh = server.fresh()
    yield "fresh"
    clients, coming = server.list(), server.coming(fresh)
    yield "list"
    shown = duty.judge(survey, fresh, clients).shown
    unwelcome = script.named(
        server.table.call(*script.condemned(server.run, survey.table, round(lease * 1000), sorted(shown)))
    )
    yield "condemned"
    if unwelcome:
        for id in duty.leftovers(unwelcome, clients):
            server.kill(id)
        yield "kill"
        clients, coming = server.list(), server.coming(fresh)
        yield "list again"
    verdict = duty.judge(survey, fresh, clients)
    assert not verdict.gone & coming, "a lease counts as gone, and the server had accepted a connection of it before"
    if verdict.gone:
        server.table.call(*script.proven(server.run, survey.table, sorted(verdict.gone)))
        yield "proven"
    if survey.learning and verdict.complete:
        server.table.call(*script.census(server.run, survey.table, sorted(verdict.shown)))
        yield "census"
    server.table.call(*script.audited(server.run, survey.table, verdict.others))
    yield "audited"
