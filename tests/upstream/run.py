"""redis-py's own tests, with its pools and with ours. ``make upstream-tests``.

The source distribution of the redis-py that is installed comes from the package index. The files that touch
pools are run twice, at the same time, each time on a ground of its own (:mod:`tests.upstream.ground`). The
run fails if

- a test fails with ours and not with redis-py's, and no entry of :data:`EXPLAINED` says why it must;
- an entry of :data:`EXPLAINED` matches no failing test any more;
- a test fails with redis-py's own pools and is not in :data:`tests.upstream.known.KNOWN`;
- a test there passes.

So both lists only shrink. A test that would fail the run is repeated alone, once, and then counts as it goes then.
Nothing of redis-py's is copied into this project. Needs root or unprivileged user namespaces, ``unshare``,
``ip`` and a server; where one of them is missing, or the index, it says so and ends with status 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helpers import valkey_binary
from tests.upstream.ground import Unavailable, certify, inside, sources, unshare, version_of
from tests.upstream.known import KNOWN
from tests.upstream.verdict import FAILED, PASSED, SKIPPED, Verdict, judge, node_of

ROOT = Path(__file__).resolve().parent.parent.parent

PATIENCE = 900.0
"""Seconds that all files may take. They take about 120, on two cores that do nothing else."""

REPEATED = 20
"""Most tests that are repeated alone. More than these did not fail by chance."""

FILES = (
    "test_connection_pool.py", "test_max_connections_error.py", "test_multiprocessing.py", "test_pipeline.py",
    "test_pubsub.py", "test_monitor.py", "test_lock.py", "test_retry.py", "test_client.py", "test_connection.py",
    "test_connect.py", "test_cache.py", "test_encoding.py", "test_scripting.py",
    "test_himport.py", "test_commands.py", "test_sentinel.py", "test_sentinel_managed_connection.py",
    "maint_notifications/test_maint_notifications.py", "maint_notifications/test_maint_notifications_handling.py",
    *(f"test_asyncio/{name}" for name in (
        "test_client.py", "test_connect.py", "test_connection.py", "test_connection_pool.py",
        "test_encoding.py", "test_lock.py", "test_monitor.py", "test_pipeline.py", "test_pubsub.py", "test_retry.py",
        "test_scripting.py", "test_sentinel.py", "test_sentinel_managed_connection.py", "test_usage_counter.py",
    )),
    "maint_notifications/test_async_maint_notifications_handling.py",
)  # fmt: skip

VANISHED = "drops its connections and wants the pool to be full all the same; ours gives lost places back"
LENT = "puts a mock into the pool and wants to borrow it; ours lends only what has a place, and so a permit, of its own"
COPIED = "wants a memoryview sent by itself; ours packs with hiredis, in one piece"
LOCKED = "looks at a lock of redis-py's BlockingConnectionPool during maintenance; ours needs none"
FINALIZED = "wants the finalizer to close the stream; ours hands the socket over, so that its end is proven"
KEPT = "wants a connection that failed or was disconnected to be kept as idle; ours keeps none that has no socket"

EXPLAINED: dict[str, str] = {
    r"TestConnectionPool::test_max_connections$": VANISHED,
    r"TestBlockingConnectionPool::test_connection_pool_blocks_until_timeout$": VANISHED,
    r"::test_connection_pool_raises_max_connections_error$": VANISHED,
    r"::test_get_connection_count_with_connections_in_queue$": "fills the queue of a BlockingConnectionPool",
    r"::test_pool_get_connection_handles_pending_push_after_reconnect": LENT,
    r"::test_on_connect_error$": KEPT,
    r"::test_busy_loading_from_pipeline(\[pool\])?$": KEPT,
    r"test_asyncio.*::test_auto_release_override_true_manual_created_pool": KEPT,
    r"test_asyncio.*::test_connection_pool_records_create_time_on_new_connection": LENT,
    r"test_asyncio.*::test_blocking_connection_pool_records_": LENT,
    r"test_asyncio.*::test_connection_garbage_collection$": FINALIZED,
    r"test_asyncio.*::test_memoryviews_are_not_packed": COPIED,
    r"test_async_maint.*::test_blocking_pool_locks_get_only_during_maintenance": LOCKED,
    r"test_async_maint.*::test_apply_moving_notification_toggles_set_in_maintenance": LOCKED,
    r"::test_migrating_after_moving_multiple_proxies": KEPT,
}
"""Regular expression for a test's id: why it cannot pass with a pool that is not redis-py's."""


HALVES = {"theirs": "redis-py's pools", "ours": "ours"}


@dataclasses.dataclass
class Half:
    """The tests with one kind of pool.

    Attributes:
        outcomes: a test's name, and how it went.
        texts: of a test that failed, what pytest said.
    """

    which: str
    place: Path
    server: str
    marks: str
    outcomes: dict[str, str] = dataclasses.field(default_factory=dict)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def prepare(cls, which: str, home: Path, work: Path, server: str) -> Half:
        """A directory to run in."""
        place = work / which
        place.mkdir()
        (place / "tests").symlink_to(home / "tests")
        shutil.copy(home / "pyproject.toml", place)
        (place / "tests_of_poolmgr").symlink_to(ROOT / "tests")
        without = ["onlycluster", "redismod", "cp_integration"]
        if not certify(place):
            without.append("ssl")
        return cls(which, place, server, " and ".join(f"not {mark}" for mark in without))

    def run(self, tests: list[str]) -> None:
        """Run tests, and note how they went."""
        report = self.place / "report.xml"
        report.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "pytest", "-p", "tests_of_poolmgr.upstream.plugin", "-p", "no:cacheprovider", "-q",
            "-n", "1",  # a test that ends its process (a timeout of the thread's kind) fails alone
            "-m", self.marks, "-o", "addopts=", "-o", "log_cli=false", "--junitxml", str(report),
            "--timeout=60", "--tb=short", "--capture=sys", *tests,
        ]  # fmt: skip
        environ = {
            **os.environ,
            "POOLMGR_UPSTREAM": self.which,
            "PYTHONPATH": os.pathsep.join((str(self.place), str(ROOT))),
        }
        output = inside(self.server, self.place, command, environ, patience=PATIENCE)
        if not report.exists():
            raise SystemExit(f"{HALVES[self.which]}: pytest wrote no report:\n{output}")
        for case in ET.parse(report).iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            failures = [child for child in case if child.tag in ("failure", "error")]
            self.outcomes[name] = FAILED if failures else SKIPPED if case.find("skipped") is not None else PASSED
            self.texts[name] = "\n".join(child.text or "" for child in failures)

    def repeat(self, names: list[str]) -> None:
        """Run each of these tests alone, once; it counts as it goes now."""
        for name in names[:REPEATED]:
            before = self.outcomes[name]
            self.run([node_of(name, FILES)])
            print(f"  alone: {HALVES[self.which]}: {name} {before}, then {self.outcomes[name]}", flush=True)

    def summary(self) -> str:
        counts = {kind: list(self.outcomes.values()).count(kind) for kind in (PASSED, FAILED, SKIPPED)}
        return f"{HALVES[self.which]}: {counts}"


def report(verdict: Verdict, theirs: Half, ours: Half) -> None:
    """Print what the run says, line by line, and of what fails it what pytest said."""
    for name in verdict.known:
        print(f"  known     {name}")
    for name, why in verdict.explained.items():
        print(f"  explained {name} {why}")
    for name in verdict.worse:
        print(f"  WORSE     {name}: fails with ours and not with redis-py's pools\n{ours.texts[name]}")
    for name in verdict.unlisted:
        print(f"  UNLISTED  {name}: fails with redis-py's own pools, and is not in known.py\n{theirs.texts[name]}")
    for name in verdict.mended:
        print(f"  MENDED    {name}: does not fail with redis-py's own pools; take it off known.py")
    for pattern in verdict.stale:
        print(f"  STALE     {pattern}: matches no test that fails with ours; take it off EXPLAINED")
    for name in verdict.missing:
        print(f"  NOT RUN   {name}: with one of the two only")
    print(
        f"{len(verdict.explained)} explained, {len(verdict.known)} fail with redis-py's own pools too; "
        + ("all is as it should be" if verdict.good else "the run FAILS")
    )


def compare(theirs: Half, ours: Half, tests: list[str]) -> bool:
    """Run both at the same time, repeat what would fail the run, report; whether all is well."""
    whole = not tests
    tests = tests or [f"tests/{name}" for name in FILES if (theirs.place / "tests" / name).exists()]
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(lambda half: half.run(tests), (theirs, ours)))
    known = KNOWN.get(version_of(theirs.server))

    def verdict() -> Verdict:
        return judge(theirs.outcomes, ours.outcomes, known=known, explained=EXPLAINED, whole=whole)

    first = verdict()
    theirs.repeat(sorted({*first.unlisted, *first.mended} & set(theirs.outcomes)))
    ours.repeat(verdict().worse)
    for half in (theirs, ours):
        print(half.summary())
    if known is None:
        print(f"  no list of what fails with redis-py's own pools on {version_of(theirs.server)}")
    report(verdict(), theirs, ours)
    return verdict().good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", help="a redis-server binary; else the installed one, else the embedded one")
    parser.add_argument("--only", choices=tuple(HALVES), help="run one of the two, and judge nothing")
    parser.add_argument("tests", nargs="*", help="for pytest (tests/test_lock.py::TestLock), instead of all files")
    options = parser.parse_args()
    started = time.monotonic()
    server = options.server or shutil.which("redis-server") or valkey_binary()
    try:
        home = sources()
        unshare()
    except Unavailable as reason:
        print(f"upstream-tests: skipped: {reason}")
        return 0
    work = Path(tempfile.mkdtemp(prefix="poolmgr-upstream-"))
    try:
        print(
            f"redis-py's own tests on {version_of(server)}, with its pools and with ours: some two minutes", flush=True
        )
        halves = {which: Half.prepare(which, home, work, server) for which in HALVES}
        if options.only:
            half = halves[options.only]
            half.run(options.tests or [f"tests/{name}" for name in FILES])
            print(half.summary())
            for name, text in half.texts.items():
                if text:
                    print(f"  FAILED    {name}\n{text}")
            return 0
        good = compare(halves["theirs"], halves["ours"], options.tests)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
