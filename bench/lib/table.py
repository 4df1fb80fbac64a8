"""A fleet's table of any size in a real server: what the script costs that server, by its own count."""

from __future__ import annotations

import random
from typing import Any

import redis

from poolmgr.fleet import script, source
from poolmgr.fleet.script import Refused, Renewal, Renewed
from tests.helpers import RedisServer

LATER = 10**15
"""A time of the server's clock that does not come, in milliseconds."""

DUE = 10
"""The field of the table's head that says when the next pass over all records is due."""


class Filled:
    """A table with this many hosts. Each has all the permits that it wants."""

    def __init__(self, server: RedisServer, client: redis.Redis, hosts: int) -> None:
        self._client = client
        self._fleet = f"of-{hosts}"
        self._key = script.key(self._fleet)
        self._sha = client.script_load(source.text(server.kind.version[0]))
        self._run = str(client.info("server")["run_id"])
        self._rng = random.Random(hosts)
        self._names = [script.new_name(self._fleet) for _ in range(hosts)]
        self._seq = 0
        self._words = dict.fromkeys(self._names, 0)
        self._terms: dict[str, Any] = {
            "run": self._run, "floor": 1, "budget": 8 * hosts, "slack": 2, "lease": 3_600_000, "until": 0,
            "able": False, "host": "pod-7f9c6d5b8-x2x4z",
        }  # fmt: skip
        self._table = ""
        first = self._ask(self._names[:1])
        self._table = first[0].table
        client.evalsha(self._sha, 1, self._key, *script.census(self._run, self._table, self._names[:1]))
        table, self._table = self._table, ""
        self._ask(self._names[1:])
        self._table = table
        for _ in range(2):
            self._ask(self._names)

    def _ask(self, names: list[str]) -> list[Renewed]:
        """One question for each, in one go."""
        found: list[Renewed] = []
        for start in range(0, len(names), 500):
            some = names[start : start + 500]
            pipeline = self._client.pipeline(transaction=False)
            for name in some:
                self._seq += 1
                asked = Renewal(
                    table=self._table, name=name, seq=self._seq, word=self._words[name],
                    demand=self._rng.randrange(5), **self._terms,
                )  # fmt: skip
                pipeline.evalsha(self._sha, 1, self._key, *asked.arguments())
            for name, reply in zip(some, pipeline.execute(), strict=True):
                answer = script.answer(reply)
                assert not isinstance(answer, Refused), answer
                self._words[name] = answer.grant
                found.append(answer)
        return found

    def renewal(self, times: int) -> float:
        """Microseconds for one renewal, without a pass over all records; of four batches the quickest, which the server
        has spent least of waiting for a processor."""
        self._due(LATER)
        return min(self._cost(self._rng.choices(self._names, k=times // 4)) for _ in range(4))

    def tick(self) -> float:
        """Milliseconds by which a renewal takes longer that passes over all records."""
        with_it = []
        for _ in range(3):
            self._due(0)
            with_it.append(self._cost(self._rng.choices(self._names, k=1)))
        return max(0.0, min(with_it) - self.renewal(80)) / 1e3

    def _due(self, when: int) -> None:
        head = str(self._client.hget(self._key, "!")).split(" ")
        head[DUE] = str(when)
        self._client.hset(self._key, "!", " ".join(head))

    def _cost(self, names: list[str]) -> float:
        self._client.config_resetstat()
        self._ask(names)
        return float(self._client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])
