"""Tests of redis-py that fail with its own pools too, by the server they fail on. The list only shrinks.

A test here that passes fails the run, and so does a test that fails with redis-py's pools and is not here.
The reasons were found by running redis-py 8.1 as its sources are; what failed only because of how the tests
were run (their output captured in a file, no Sentinels, no certificates) has been mended in ``ground.py``.
"""

from __future__ import annotations

OLD_SERVER = "expects what Redis 7.2 and later answer"
PATCHED_SERVER = "Debian's 7.0.15 has a later version's XINFO GROUPS"

KNOWN: dict[str, dict[str, str]] = {
    "redis 7.0": {
        "tests.test_commands.TestRedisCommands::test_acl_getuser_setuser": OLD_SERVER,
        "tests.test_commands.TestRedisCommands::test_acl_log": OLD_SERVER,
        "tests.test_commands.TestRedisCommands::test_xgroup_create_entriesread": PATCHED_SERVER,
    },
}
"""For a server (program and minor version): a test's name and why it fails there."""
