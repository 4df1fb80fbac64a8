"""redis-py's own tests, with its pools and with ours. ``make upstream-tests``.

Fetches the source distribution of the redis-py that is installed from the package index, starts a server
on port 6379 of a network namespace of its own (some tests ignore the port they are given) and runs the
files that touch pools twice. A test that fails with ours and not with redis-py's fails the run, unless
:data:`EXPLAINED` says why it must. Nothing of redis-py's is copied into this project.

Needs root or unprivileged user namespaces, ``unshare`` and ``ip``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import redis

from tests.helpers import valkey_binary

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "redis-poolmgr"

FILES = (
    "test_connection_pool.py", "test_max_connections_error.py", "test_multiprocessing.py", "test_pipeline.py",
    "test_pubsub.py", "test_monitor.py", "test_lock.py", "test_retry.py", "test_client.py", "test_connection.py",
    "test_connect.py", "test_cache.py", "test_encoding.py", "test_scripting.py",
    "test_himport.py", "test_commands.py", "test_sentinel.py", "test_sentinel_managed_connection.py",
    "maint_notifications/test_maint_notifications.py", "maint_notifications/test_maint_notifications_handling.py",
)  # fmt: skip

VANISHED = "drops its connections and wants the pool to be full all the same; ours gives lost places back"
SET = "puts mocks into the pool's private attributes, which are read-only views of ours"
KEPT = "wants a connection that failed to be kept as idle; ours keeps none that has no socket"

EXPLAINED: dict[str, str] = {
    r"TestConnectionPool::test_max_connections$": VANISHED,
    r"TestBlockingConnectionPool::test_connection_pool_blocks_until_timeout$": VANISHED,
    r"::test_connection_pool_raises_max_connections_error$": VANISHED,
    r"::test_get_connection_count_": SET,
    r"::test_pool_get_connection_handles_pending_push_after_reconnect": SET,
    r"::test_update_config_on_oss_pool_updates_oss_handler$": SET,
    r"::test_update_oss_handler_wires_existing_connections$": SET,
    r"::test_on_connect_error$": KEPT,
    r"::test_busy_loading_from_pipeline$": KEPT,
    r"::test_connect_from_url_(tcp|unix)$": "compares the class's path in a repr",
    r"::test_default_config_client_executes_commands_without_maint_notifications$": (
        "patches methods of redis-py's connection class that ours, derived from it, does not call"
    ),
}
"""Regular expression for a test's id: why it cannot pass with a pool that is not redis-py's."""


def sources() -> Path:
    """The unpacked source distribution of the installed redis-py."""
    version = redis.__version__
    home = CACHE / f"redis-{version}"
    if not (home / "tests").is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--no-binary", ":all:", "--dest", str(CACHE), f"redis=={version}",
            ],
            check=True,
        )  # fmt: skip
        with tarfile.open(CACHE / f"redis-{version}.tar.gz") as archive:
            archive.extractall(CACHE, filter="data")
    return home


def inside(server: str, command: list[str], directory: Path, environ: dict[str, str]) -> int:
    """Run a command beside a server on port 6379, alone in a network namespace."""
    script = (
        "ip link set lo up 2>/dev/null || ifconfig lo up\n"
        f"{server} --port 6379 --bind '127.0.0.1 ::1' --save '' --enable-debug-command yes >\"$1/server.log\" 2>&1 &\n"
        "server=$!\n"
        "for i in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/6379) 2>/dev/null && break; sleep 0.05; done\n"
        'shift; "$@"; code=$?\nkill $server; wait $server 2>/dev/null; exit $code\n'
    )
    unshare = ["unshare", "--net"] if os.getuid() == 0 else ["unshare", "--net", "--map-root-user"]
    return subprocess.run(
        [*unshare, "bash", "-c", script, "run", str(directory), *command], cwd=directory, env=environ
    ).returncode


def run(which: str, home: Path, work: Path, server: str, arguments: list[str]) -> dict[str, str]:
    """Test ids and their outcome."""
    place = work / which
    place.mkdir()
    (place / "tests").symlink_to(home / "tests")
    shutil.copy(home / "pyproject.toml", place)
    (place / "tests_of_poolmgr").symlink_to(ROOT / "tests")
    report = place / "report.xml"
    files = [f"tests/{name}" for name in FILES if (home / "tests" / name).exists()]
    command = [
        sys.executable, "-m", "pytest", "-p", "tests_of_poolmgr.upstream.plugin", "-p", "no:cacheprovider", "-q",
        "-m", "not onlycluster and not redismod and not ssl and not replica and not cp_integration",
        "-o", "addopts=", "-o", "log_cli=false", "--junitxml", str(report), "--timeout=60", "--tb=short",
        "-x" if "-x" in arguments else "--maxfail=400",
        *(arguments or files),
    ]  # fmt: skip
    environ = {
        **os.environ,
        "POOLMGR_UPSTREAM": which,
        "PYTHONPATH": os.pathsep.join((str(place), str(ROOT))),
    }
    inside(server, command, place, environ)
    if not report.exists():
        raise SystemExit(f"no report in {place}")
    outcomes: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {child.tag for child in case}
        outcomes[name] = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--server", default=shutil.which("redis-server") or valkey_binary(), help="a redis-server binary"
    )
    parser.add_argument("--only", choices=("ours", "theirs"), help="run one of the two")
    parser.add_argument("arguments", nargs="*", help="for pytest, instead of all files")
    options = parser.parse_args()
    home = sources()
    work = Path(tempfile.mkdtemp(prefix="poolmgr-upstream-"))
    try:
        theirs = {} if options.only == "ours" else run("theirs", home, work, options.server, options.arguments)
        ours = {} if options.only == "theirs" else run("ours", home, work, options.server, options.arguments)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for which, outcomes in (("redis-py's pools", theirs), ("ours", ours)):
        counts = {kind: list(outcomes.values()).count(kind) for kind in ("passed", "failed", "skipped")}
        print(f"{which}: {counts}")
    worse = sorted(name for name, outcome in ours.items() if outcome == "failed" and theirs.get(name) != "failed")
    unexplained = []
    for name in worse:
        why = next((text for pattern, text in EXPLAINED.items() if re.search(pattern, name)), "")
        print(f"  {'explained' if why else 'WORSE    '} {name} {why}")
        if not why:
            unexplained.append(name)
    missing = sorted(set(theirs) - set(ours)) if ours else []
    for name in missing:
        print(f"  NOT RUN   {name}")
    return 1 if unexplained or missing else 0


if __name__ == "__main__":
    sys.exit(main())
