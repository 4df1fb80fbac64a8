"""A process that calls a server by its name, in several threads; a test asks it what came of it.

``python -m tests.apps.named URL THREADS [OPTION=NUMBER ...]``. Each thread asks the server who it is (the key ``who``)
in a closed loop. A line on standard input is answered with JSON: how many answers there were, by server, and the errors
of the calls so far, with the time of the last.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from typing import Any

import redis

import poolmgr
from tests import names


def main(url: str, threads: str, *options: str) -> None:
    names.install()
    chosen: dict[str, Any] = {name: float(value) for name, _, value in (option.partition("=") for option in options)}
    pool = poolmgr.ConnectionPool.from_url(url, socket_connect_timeout=2, socket_timeout=2, **chosen)
    client = redis.Redis(connection_pool=pool)
    answers: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    failed = 0.0

    def call() -> None:
        nonlocal failed
        while True:
            try:
                with pool.connection() as connection:
                    connection.send_command("GET", "who")
                    who = str(connection.read_response().decode())
                    time.sleep(0.005)  # all are needed
            except Exception as error:
                errors[f"{type(error).__name__}: {error}"[:160]] += 1
                failed = time.time()
                time.sleep(0.01)
            else:
                answers[who] += 1
                time.sleep(0.002)  # so that its age is looked at

    for _ in range(int(threads)):
        threading.Thread(target=call, daemon=True).start()
    for _ in sys.stdin:
        found = {"answers": answers, "errors": errors, "failed": failed}
        print(json.dumps(found), flush=True)
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
