"""``python -m tests.agents AGENT ORDER PORT PATH``: what the agent records with redis-py's pools and with ours; JSON.

ORDER is ``before`` or ``after``: whether the agent is installed before poolmgr is imported. PORT and PATH are those of
a server.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

from tests.agents.recorders import RECORDERS


def work_on(client: Any) -> None:
    """What an application does: commands, errors, pipelines, a transaction that watches, a script, a subscription."""
    import redis

    client.set("agent:text", "x" * 20)
    client.get("agent:text")
    client.execute_command("CLIENT", "GETNAME")
    client.config_get("maxclients")
    try:
        client.incr("agent:text")
    except redis.ResponseError:
        pass
    with client.pipeline(transaction=False) as pipe:
        pipe.set("agent:a", 1).incr("agent:a").execute()
    with client.pipeline() as pipe:
        pipe.watch("agent:a")
        pipe.get("agent:a")
        pipe.multi()
        pipe.incr("agent:a").execute()
    client.eval("return redis.call('get', KEYS[1])", 1, "agent:a")
    with client.pubsub() as listener:
        listener.subscribe("agent:channel")
        client.publish("agent:channel", "hello")
    client.delete("agent:text", "agent:a")


def main() -> None:
    agent, order, port, path = sys.argv[1:]
    recorder = RECORDERS[agent]()
    if order == "before":
        recorder.install()
    import poolmgr

    if order == "after":
        recorder.install()
    import redis

    found: dict[str, Any] = {}
    for way, url in (("tcp", f"redis://127.0.0.1:{port}/1"), ("unix", f"unix://{path}?db=1")):
        for which, pool_class in (("theirs", redis.ConnectionPool), ("ours", poolmgr.ConnectionPool)):
            pool = pool_class.from_url(url)
            client = redis.Redis(connection_pool=pool)
            work = functools.partial(work_on, client)
            found[f"{way} {which} at first"] = recorder.record(work)
            found[f"{way} {which}"] = recorder.record(work)
            pool.disconnect()
    json.dump(found, sys.stdout, default=str)
    sys.stdout.flush()


main()
