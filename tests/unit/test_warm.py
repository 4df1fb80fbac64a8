"""A program from the warm Python finds what a started one finds, but for the packages that are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.helpers import ROOT, tool
from tests.warm.link import Warm

FACTS = """
import json, os, signal, sys, __main__
found = {
    "argv": sys.argv, "orig": sys.executable, "path": sys.path, "name": __name__, "file": globals().get("__file__"),
    "main": sorted(name for name in vars(__main__) if name not in ("found",)) if __name__ == "__main__" else None,
    "environ": dict(os.environ), "cwd": os.getcwd(), "parent": os.getppid(), "group": os.getpgid(0), "nice": os.nice(0),
    "umask": os.umask(0), "ours": sorted(name for name in sys.modules if name.startswith(("poolmgr", "worker"))),
    "command": open("/proc/self/cmdline").read(), "comm": open("/proc/self/comm").read(),
    "initially": sorted(open("/proc/self/environ").read().split("\\0")),
    "files": sorted(os.listdir("/proc/self/fd"))[:3], "more": len(os.listdir("/proc/self/fd")),
    "signals": {number: str(signal.getsignal(number)) for number in (1, 2, 13, 15, 17)},
    "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "streams": [[s.encoding, s.errors, s.line_buffering, s.write_through, s.name, s.mode, s.fileno(), s.newlines]
                for s in (sys.stdin, sys.stdout, sys.stderr)],
    "bytecode": sys.dont_write_bytecode, "faults": __import__("faulthandler").is_enabled(),
    "gc": __import__("gc").isenabled(), "threads": len(os.listdir("/proc/self/task")),
    "dev": sys.flags.dev_mode, "warnings": [str(one) for one in __import__("warnings").filters],
    "rich": "rich" in sys.modules, "config": "gunicorn.config" in sys.modules,
}
print(json.dumps(found))
sys.exit(3)
"""


def found(words: list[str], *, cold: bool, **options: Any) -> tuple[dict[str, Any], str]:
    done = warm.run(words, cold=cold, timeout=60, check=False, stdin=subprocess.DEVNULL, **options)
    assert done.returncode == 3, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(
    "environ",
    [
        {"PYTHONPATH": str(ROOT), "WEB_CONCURRENCY": "3"},
        {"PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"},
        {"PYTHONPATH": f"/nowhere:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
    ],
)
@pytest.mark.parametrize("how", ["-c", "-m", "script", "of its own", "-X dev"])
def test_it_is_as_if_it_had_been_started(how: str, environ: dict[str, str], tmp_path: Path) -> None:
    if Warm.ours() is None:
        pytest.skip("this system cannot")
    script = tmp_path / "facts.py"
    script.write_text(FACTS)
    own = tmp_path / "facts"
    own.write_text(f"#!{sys.executable}\n{FACTS}")
    own.chmod(0o755)
    words = {
        "-c": [sys.executable, "-c", FACTS],
        "-m": [sys.executable, "-m", "facts"],
        "script": [sys.executable, str(script)],
        "of its own": [str(own)],
        "-X dev": [sys.executable, "-X", "dev", "-m", "facts"],
    }[how]
    given = {name: value for name, value in os.environ.items() if name not in warm.UNDERSTOOD} | environ
    before = os.umask(0o27)
    try:
        ours, _ = found([*words, "a", "b c"], cold=False, env=given, cwd=tmp_path)
        theirs, _ = found([*words, "a", "b c"], cold=True, env=given, cwd=tmp_path)
    finally:
        os.umask(before)
    assert {k: (ours[k], theirs[k]) for k in ours if ours[k] != theirs[k]} == {}
    assert ours["parent"] == os.getpid()


def test_what_is_loaded_makes_the_difference() -> None:
    if Warm.ours() is None:
        pytest.skip("this system cannot")
    code = "import gc, sys; print('redis' in sys.modules, gc.get_freeze_count() > 10_000)"
    said = [warm.run([sys.executable, "-c", code], cold=cold, timeout=60, check=True).stdout for cold in (False, True)]
    assert said == ["True True\n", "False False\n"]


@pytest.mark.parametrize("cold", [False, True])
def test_what_a_program_has_is_freed_at_its_end(cold: bool) -> None:
    """And what was loaded before is there meanwhile."""
    code = """if True:
        import atexit, redis
        class Mine:
            def __del__(self): print("freed", redis.Redis.__name__, flush=True)
        mine = Mine()
        atexit.register(print, "ends")
    """
    done = warm.run([sys.executable, "-c", code], cold=cold, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("ends\nfreed Redis\n", "")


ENDS = {
    "well": "pass",
    "exit": "import sys; sys.exit()",
    "a status": "import sys; sys.exit(7)",
    "a status that is too large": "import sys; sys.exit(258)",
    "a negative one": "import sys; sys.exit(-1)",
    "a word": "import sys; sys.exit('a word')",
    "an error": "raise ValueError('an error')",
    "an interrupt": "raise KeyboardInterrupt",
    "a full device": "import sys; sys.stdout = sys.__stdout__ = open('/dev/full', 'w'); print('lost')",
    "a full device, said": "import sys; sys.stderr = sys.__stderr__ = open('/dev/full', 'w'); sys.exit(3)",
    "no output": "import sys; sys.stdout.close(); sys.exit(3)",
    "what is freed says something": """
import builtins, sys
class Mine:
    def __init__(self, word): self.word = word
    def __del__(self): print(self.word)
kept, builtins.kept, around = Mine("of the program"), Mine("of all programs"), Mine("in a circle")
around.around = around
""",
    "a thread goes on": """
import sys, threading, time
threading.Thread(target=lambda: (time.sleep(0.05), print("goes on"))).start()
sys.exit(4)
""",
    "a child of its own": """
import os, sys
if pid := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
else:
    print("the child")
    sys.exit(5)
""",
    "a warning at the end": """
import socket, warnings
warnings.simplefilter("always")
class Kept: pass
one = Kept()
one.one, one.socket = one, socket.socket()
del one
""",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS)
def test_a_program_ends_as_one_that_was_started(code: str) -> None:
    if Warm.ours() is None:
        pytest.skip("this system cannot")
    ours, theirs = (
        warm.run([sys.executable, "-c", code], cold=cold, timeout=60, check=False) for cold in (False, True)
    )
    said = [(done.returncode, sorted(done.stdout.splitlines())) for done in (ours, theirs)]
    assert said[0] == said[1]
    if "Traceback" in theirs.stderr:  # the first lines of the two tracebacks differ
        ours.stderr, theirs.stderr = (done.stderr.splitlines()[-1] for done in (ours, theirs))
    assert ours.stderr == theirs.stderr


KEEPS = """
import compileall, importlib._bootstrap_external as machinery, os, pathlib, sys
from tests.warm.loaded import keep_code
root, read = pathlib.Path(sys.argv[1]), []
sys.path.insert(0, sys.argv[1])
before = machinery._compile_bytecode
machinery._compile_bytecode = lambda *words: read.append(words) or before(*words)
for name in ("__init__", "same", "other"):
    mine = root / "worker" / f"{name}.py"
    mine.write_text("found = 'first'")
    compileall.compile_file(mine, quiet=2)
keep_code(root)
read.clear()
mine.write_text("found = 'second'")
compileall.compile_file(mine, force=True, quiet=2)
import worker.same, worker.other
print(worker.same.found, worker.other.found, len(read))
"""


def test_code_is_at_hand_while_its_bytes_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "worker").mkdir()
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = warm.run(
        [sys.executable, "-c", KEEPS, str(tmp_path)], cold=True, env=environ, cwd=tmp_path, timeout=60, check=True
    )
    assert done.stdout == "first second 1\n"


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        ([sys.executable, "-X", "utf8", "-c", "{}"], {}),
        (["/bin/sh", "-c", "exec " + sys.executable + " -c '{}'"], {}),
        ([sys.executable, "-c", "{}"], {"PYTHONHASHSEED": "1"}),
        ([sys.executable, "-c", "{}"], {"LC_ALL": "C"}),
    ],
)
def test_what_it_cannot_do_is_started(words: list[str], environ: dict[str, str]) -> None:
    code = 'import sys; print("redis" in sys.modules)'
    words = [word.replace("{}", code) for word in words]
    assert warm.run(words, timeout=60, check=True, env={**os.environ, **environ}).stdout == "False\n"


def test_a_command_runs_and_an_error_is_told() -> None:
    assert "usage" in tool("--help").lower()
    with pytest.raises(subprocess.CalledProcessError) as raised:
        warm.run([sys.executable, "-c", "1 / 0"], timeout=60, check=True)
    assert raised.value.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_one_that_was_killed_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    if Warm.ours() is None:
        pytest.skip("this system cannot")
    victim = Warm(dev=False)
    monkeypatch.setattr(Warm, "_ours", {False: victim})
    victim._process.kill()
    victim._process.wait()
    code = "import sys; print('redis' in sys.modules)"
    for _ in range(2):
        assert warm.run([sys.executable, "-c", code], timeout=60, check=True).stdout == "False\n"
    victim.end(os.getpid())


def test_several_threads_start_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other: what they say to it would be mixed up."""
    made = Warm.ours()
    if made is None:
        pytest.skip("this system cannot")
    inside: set[int] = set()
    real = made.fork

    def slow(*arguments: Any) -> int:
        assert not inside
        inside.add(threading.get_ident())
        time.sleep(0.01)
        pid = real(*arguments)
        inside.clear()
        return pid

    monkeypatch.setattr(made, "fork", slow)

    def start(number: int) -> str:
        return warm.run([sys.executable, "-c", f"print({number})"], timeout=60, check=True).stdout

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(start, range(12))) == [f"{number}\n" for number in range(12)]
