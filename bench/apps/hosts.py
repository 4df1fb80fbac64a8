"""Hosts of a fleet in a process of their own: ``python -m bench.apps.hosts PORT FLEET BUDGET DEMAND``.

It reads what to do from lines, and answers each with one:

- ``start N``: so many more hosts start at once. The answer is when the last of them served, by the machine's monotonic
  clock.
- ``want N``: the next one of its hosts could use so many, until it has them. The answer is how many seconds that took,
  and how many renewals.
- ``used``: seconds of processor time that this process has used.
"""

from __future__ import annotations

import asyncio
import sys
import time

from bench.lib.fleet import Fleet, granted


async def main(port: str, name: str, budget: str, demand: str) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    async with Fleet(int(port), name, int(budget), int(demand)) as fleet:
        print("ready", flush=True)
        while line := await lines.get():
            print(await answer(fleet, *line.split()), flush=True)


async def answer(fleet: Fleet, word: str, count: str = "0") -> str:
    match word:
        case "start":
            new = fleet.start(int(count))
            await fleet.until(lambda: all(each.served for each in new), 90, "all serve")
            return str(max(each.served for each in new))
        case "want":
            hot = fleet.members[0]
            fleet.members.append(fleet.members.pop(0))
            asked, usual, began = hot.renewals, hot.demand, time.monotonic()
            hot.want(int(count))
            await fleet.until(lambda: granted(hot) >= hot.demand, 60, "it has what it wants", every=0.0002)
            took, asked = time.monotonic() - began, hot.renewals - asked
            hot.want(usual)
            return f"{took} {asked}"
        case "used":
            return str(time.process_time())
    raise ValueError(word)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
