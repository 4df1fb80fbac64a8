"""README's first minute, inside a system: ``make run`` in a fresh clone, its commands in a second terminal, Ctrl-C.

Uses the standard library only: nothing is installed yet. Its last line says how long the start took.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HOME = Path(f"/tmp/redis-poolmgr-{os.getuid()}")
SERVICE = "http://localhost:8000"


def ask(path: str, body: object = None, token: str = "") -> object:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(SERVICE + path, data, headers), timeout=10) as answer:
        return json.loads(answer.read())


def serves(running: subprocess.Popen[bytes]) -> bool:
    assert running.poll() is None, f"make run has ended with status {running.returncode}"
    try:
        return ask("/healthz") == {"status": "ok"}
    except (urllib.error.URLError, OSError):
        return False


def others() -> set[int]:
    """The processes here that run something and are not these."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (1, os.getpid()):
            try:
                if (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                pass
    return found


def main() -> None:
    before, began = others(), time.monotonic()
    running = subprocess.Popen(["make", "run", *sys.argv[1:]], start_new_session=True)
    while not serves(running):
        assert time.monotonic() < began + 900, "make run does not serve within 15 minutes"
        time.sleep(0.1)
    took = time.monotonic() - began
    token = (HOME / "token").read_text().strip()
    said = [ask("/", ["SET", "greeting", "hello"], token), ask("/get/greeting", token=token)]
    assert said == [{"result": "OK"}, {"result": "hello"}], said
    os.killpg(running.pid, signal.SIGINT)  # what Ctrl-C does
    status = running.wait(60)
    # make's own status after Ctrl-C says only that there was one; without a shell in between gunicorn has its place.
    assert status in (0, 2, -signal.SIGINT), f"make run has ended with status {status}"
    deadline = time.monotonic() + 60
    while others() - before or (HOME.exists() and list(HOME.iterdir())):
        files = sorted(path.name for path in HOME.iterdir()) if HOME.exists() else []
        assert time.monotonic() < deadline, f"left after Ctrl-C: processes {others() - before}, files {files}"
        time.sleep(0.05)
    print(f"served after {took:.0f} s")


if __name__ == "__main__":
    main()
