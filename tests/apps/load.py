"""A user's application for tests of load: it says which worker answered.

``/get`` is one short command; ``/hold?ms=5`` keeps a connection for that long without work for anybody;
``/fork?seconds=1`` leaves a child behind that keeps for that long what it inherited; ``/pid`` does not
touch Redis, nor does ``/clock``, which tells the time; ``/collect`` looks for garbage, and says how much memory of the
worker's own that has taken; ``/busy`` has one worker, if it is the one that is asked, work by itself. Whatever fails
is a 503 with the error's text.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import poolmgr


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    status = "200 OK"
    answer: dict[str, Any] = {"pid": os.getpid()}
    try:
        _serve(environ["PATH_INFO"], parse_qs(environ.get("QUERY_STRING", "")), answer)
    except Exception as error:
        status = "503 Service Unavailable"
        answer["error"] = f"{type(error).__name__}: {error}"
    body = json.dumps(answer).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _serve(path: str, query: dict[str, list[str]], answer: dict[str, Any]) -> None:
    if path == "/get":
        client = poolmgr.get_client()
        client.set("key", "value")
        value = client.get("key")
        assert isinstance(value, bytes)
        answer["value"] = value.decode()
    elif path == "/hold":
        milliseconds = float(query.get("ms", ["5"])[0])
        assert poolmgr.get_client().blpop(["nothing is ever pushed here"], timeout=milliseconds / 1000) is None
    elif path == "/clock":
        answer["clock"] = time.time()
    elif path == "/collect":
        before = _own_memory()
        gc.collect()
        answer["copied"] = _own_memory() - before
    elif path == "/fork":
        seconds = float(query.get("seconds", ["1"])[0])
        child = os.fork()
        if child == 0:
            time.sleep(seconds)
            os._exit(0)
        threading.Thread(target=os.waitpid, args=(child, 0), daemon=True).start()
        answer["child"] = child
    elif path == "/busy":
        answer["started"] = int(query["pid"][0]) == os.getpid()
        if answer["started"]:
            begin, threads = float(query["at"][0]), int(query["threads"][0])
            for _ in range(threads):
                threading.Thread(target=_busy, args=(begin, begin + float(query["seconds"][0])), daemon=True).start()


def _own_memory() -> int:
    """Bytes that this process shares with none, as a page is that it has written to since the fork."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) * 1024


def _busy(begin: float, end: float) -> None:
    """Hold a connection five milliseconds at a time, between these moments of ``time.time()``.

    Not with BLPOP: a server that has nothing else to do looks at its time limits only every 100 ms.
    """
    pool = poolmgr.get_pool()
    time.sleep(max(0.0, begin - time.time()))
    while time.time() < end:
        with contextlib.suppress(poolmgr.ConnectionPoolTimeoutError), pool.connection() as connection:
            connection.send_command("PING")
            connection.read_response()
            time.sleep(0.005)
