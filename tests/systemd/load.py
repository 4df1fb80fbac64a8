"""Load for the machine: POSTs commands to the service until told to stop, and says what came of it.

    python3 load.py TOKEN THREADS STOP_FILE

Runs with the standard library only. Each request is a connection of its own, so that none is hit by the
end of a connection that is kept alive. Half of the commands hold their Redis connection for a while, so
that workers have to grow.
"""

import http.client
import json
import os
import sys
import threading
import time

TOKEN, THREADS, STOP = sys.argv[1], int(sys.argv[2]), sys.argv[3]

HOLD = 0.2
"""Seconds for which half of the requests hold their Redis connection, and between the others: a crowd at the permits
that leaves the processors to what is tested."""

lock = threading.Lock()
done = 0
slowest = 0.0
failed: list[str] = []


def ask(number: int) -> str:
    body = json.dumps(["BLPOP", f"nothing-{number}", str(HOLD)] if number % 2 else ["INCR", "count"])
    connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=15)
    try:
        connection.request("POST", "/", body, {"Authorization": f"Bearer {TOKEN}", "Connection": "close"})
        answer = connection.getresponse()
        text = answer.read().decode()
        return "" if answer.status == 200 and "result" in json.loads(text) else f"{answer.status} {text}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def run(number: int) -> None:
    global done, slowest
    while not os.path.exists(STOP):
        began = time.monotonic()
        problem = ask(number)
        took = time.monotonic() - began
        with lock:
            done += 1
            slowest = max(slowest, took)
            if problem:
                failed.append(f"after {took:.2f} s: {problem[:300]}")
        if not number % 2:
            time.sleep(HOLD)


threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"done": done, "failed": failed[:10], "failures": len(failed), "slowest": slowest}))
