"""How often footprints are read, and of how many processes at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from poolmgr.supervisor.clients import footprint
from poolmgr.supervisor.clients.footprint import EVERY, MOST, Footprint, Footprints


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    found: list[list[int]] = []

    def read(pids: Sequence[int]) -> dict[int, Footprint]:
        found.append(list(pids))
        return {pid: Footprint(1.0, 1, 1, 1) for pid in pids}

    monkeypatch.setattr(footprint, "read", read)
    return found


def run(*steps: tuple[set[int], float], began: float = 0.0) -> dict[int, Footprint]:
    async def main() -> dict[int, Footprint]:
        figures = Footprints(began)
        for pids, now in steps:
            figures.tick(pids, now)
            if figures._reading is not None:
                await figures._reading
        figures.close()
        return figures.of

    return asyncio.run(main())


def test_a_round_is_made_every_few_seconds_and_not_at_each_tick(rounds: list[list[int]]) -> None:
    assert set(run(({1, 2}, 10.0), ({1, 2}, 10.5), ({1, 2}, 10.0 + EVERY))) == {1, 2}
    assert rounds == [[1, 2], [1, 2]]


def test_many_are_read_in_turn(rounds: list[list[int]]) -> None:
    pids = set(range(1, 2 * MOST + 6))
    found = run(*((pids, 10.0 + n * EVERY) for n in range(3)))
    assert [len(pids) for pids in rounds] == [MOST, MOST, 5]
    assert set(found) == pids


def test_who_has_gone_is_forgotten(rounds: list[list[int]]) -> None:
    assert set(run(({1, 2}, 10.0), ({2}, 10.0 + EVERY))) == {2}


def test_a_supervisor_of_a_moment_reads_none(rounds: list[list[int]]) -> None:
    assert not run(({1}, 10.5), ({1}, 9.9 + EVERY), began=10.0)
    assert run(({1}, 10.0 + EVERY), began=10.0)
