"""Whatever callers of the HTTP service send, real servers run nothing of what their token does not allow.

Names, subcommands, spellings, separators, zero bytes, case, blanks, numbers and renamed commands are drawn and sent
in all three styles to servers of both kinds, with and without renames and ACLs. They are asked what they have run
(``INFO commandstats`` counts by the real names, those that scripts run included), and what their keys are.

``POOLMGR_FUZZ_EXAMPLES`` (``make fuzz``): how many pipelines each world gets. ``POOLMGR_FUZZ_SEED``: the same again.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from tests.helpers import RedisServer, debian_redis_binary, valkey_binary
from tests.inside import FULL, READER, Inside, inside
from tests.stopwatch import Stopwatch

EXAMPLES = int(os.environ.get("POOLMGR_FUZZ_EXAMPLES", "50"))
SEED = os.environ.get("POOLMGR_FUZZ_SEED") or secrets.token_hex(4)
LENGTH = 17
"""Commands in a pipeline, at most twice as many. 12 worlds x 50 pipelines x 17 are 10,200 draws."""

RENAMES = {
    "GET": "READIT", "SET": "GET", "FLUSHALL": "WIPE", "CONFIG": "innocent", "STRLEN": "LEN", "MONITOR": "STRLEN",
    "TTL": "LEFT", "FLUSHDB": "TTL", "KEYS": '""', "LLEN": "LEN2", "SUBSCRIBE": "LLEN", "TYPE": "TYPE2", "EVAL": "TYPE",
}  # fmt: skip
ACL = "on >secret ~* &* +@all -append -hset -exists -config|get -flushdb -script|load"


# ---- what may have run -------------------------------------------------------------------------


class Table:
    """What the commands of a server are, by their real names: from a server without renames."""

    def __init__(self, binary: str, directory: Path) -> None:
        server = RedisServer(directory, binary=binary).start()
        try:
            with server.observer() as client:
                client.set_response_callback("COMMAND", lambda reply, **_: reply)
                rows = client.execute_command("COMMAND")
        finally:
            server.stop()
        self.kinds: dict[str, tuple[set[str], set[str]]] = {}
        for row in rows:
            for one in [row, *row[9]]:
                self.kinds[one[0]] = set(one[2]), set(one[6])
        self.names = sorted(self.kinds)

    def reads(self, name: str) -> bool:
        flags, categories = self.kinds[name]
        if name in ("ping", "echo", "time"):
            return True
        return "readonly" in flags and not categories & {"@scripting", "@dangerous", "@admin", "@pubsub"}

    def harmless(self, name: str) -> bool:
        """To other callers and to the server: all that a full token may run."""
        flags, categories = self.kinds[name]
        if name in ("acl|whoami", "migrate", "swapdb", "script|debug", "script|kill", "function|kill"):
            return False
        subscribes = name.endswith("subscribe") or name == "monitor"
        connection = "@connection" in categories and name.partition("|")[0] not in OWN | {"wait", "waitaof"}
        return not (
            subscribes or connection or "admin" in flags or "@admin" in categories or "@transaction" in categories
        )


OWN = {"ping", "echo", "command"}
ASKED = {"info", "command", "command|info", "config|get", "scan", "dump", "client|list", "echo", "ping", "select"}
"""What the service itself and the observer ask."""


class World:
    def __init__(self, app: Inside, server: RedisServer, client: redis.Redis, table: Table, names: list[str]) -> None:
        self.app, self.server, self.client, self.table, self.names = app, server, client, table, names
        self.renamed: list[str] = []
        self.begin()

    def begin(self) -> None:
        for words in SEEDS:
            self.client.execute_command(*words)
        self.app.ask("ECHO", "warm")
        self.made = self.app.pool.stats().created
        self.before, self.keys = self.calls(), self.dump()

    def calls(self) -> dict[str, int]:
        rows = self.client.info("commandstats")
        return {name.removeprefix("cmdstat_"): row["calls"] for name, row in rows.items()}

    def dump(self) -> Any:
        keys = sorted(key for key in SEEDED)
        pipe = self.client.pipeline(transaction=False)
        for key in keys:
            pipe.execute_command("DUMP", key)
        return self.client.info("keyspace"), self.client.execute_command("DBSIZE"), pipe.execute()

    def check(self, token: str) -> None:
        """What has run since the last time is what this token may run."""
        calls = self.calls()
        ran = {name for name, count in calls.items() if count > self.before.get(name, 0)}
        self.before = calls
        may = self.table.reads if token == READER else self.table.harmless
        assert not {name for name in ran - ASKED if not may(name)}
        assert self.app.pool.stats().created == self.made, "a connection was lost"
        (row,) = [row for row in self.client.client_list() if row["name"] != "observer"]
        state = row["flags"].strip("NU"), row["db"], row["sub"], row["psub"], row["multi"]
        assert state == ("", "0", "0", "0", "-1"), "normal, by a Unix socket, and in no other state"
        if token == READER:
            assert self.dump() == self.keys


SEEDS = [
    ["SET", "k", "value"],
    ["RPUSH", "l", *(str(n) for n in range(50))],
    ["HSET", "h", "a", "1"],
    ["ZADD", "z", "1", "m"],
    ["XADD", "s", "1-1", "a", "1"],
    ["SADD", "u", "a"],
]
SEEDED = [words[1] for words in SEEDS]


@pytest.fixture(scope="module")
def tables() -> Iterator[dict[str, Table]]:
    directory = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    binaries = {"valkey": valkey_binary(), "redis": debian_redis_binary()}
    yield {kind: Table(binary, directory) for kind, binary in binaries.items() if binary}
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["plain", "renamed", "acl"])
def arrangement(request) -> str:
    return str(request.param)


@pytest.fixture(params=["valkey", "redis"])
def world(request, arrangement, tables, short_dir, monkeypatch) -> Iterator[World]:
    if request.param not in tables:
        pytest.skip("redis-server is not installed (apt install redis-server)")
    table = tables[request.param]
    binary = valkey_binary() if request.param == "valkey" else debian_redis_binary()
    config = short_dir / "redis.conf"
    renames = RENAMES if arrangement == "renamed" else {}
    config.write_text("".join(f"rename-command {name} {other}\n" for name, other in renames.items()))
    server = RedisServer(short_dir, binary=binary or "", include=str(config))
    if renames:
        monkeypatch.setattr(RedisServer, "_answers", lambda self: Path(self.path).exists())
    server.start()
    client = Renamed(server, renames)
    url = server.unix_url
    if arrangement == "acl":
        client.execute_command(f"ACL SETUSER u {ACL}")
        url = url.replace("unix://", "unix://u:secret@")
    names = [name.replace("|", " ") for name in table.names] + [other for other in renames.values() if other != '""']
    environ = {"REDIS_SOCKET_TIMEOUT": "5"}  # what blocks is cut a second earlier: time for its reply
    try:
        with inside(server, monkeypatch, url=url, options={"client_name": "service"}, **environ) as app:
            found = World(app, server, client, table, names)
            found.renamed = [name for name in [*renames, *renames.values()] if name != '""']
            yield found
    finally:
        client.close()
        server.stop()


class Renamed(redis.Redis):
    """An observer that says what the server calls it."""

    def __init__(self, server: RedisServer, renames: dict[str, str]) -> None:
        super().__init__(unix_socket_path=server.path, protocol=2, client_name="observer")
        self.renames = renames

    def execute_command(self, *words: Any, **options: Any) -> Any:
        return super().execute_command(self.renames.get(words[0], words[0]), *words[1:], **options)


# ---- what is sent ------------------------------------------------------------------------------

SEPARATORS = [
    " ",
    "\t",
    "\n",
    "\r",
    "\0",
    "|",
    "\x0b",
    "\x1f",
    "\x85",
    "\xa0",
    "\u2028",
    "\u017f",
    "\u212a",
    "*",
    "$",
    ":",
    "_",
    "'",
]
ENDS = ["", "\0", " ", "\n", "\0x", "|x", "\0 3", "\r\n", "|get", ".", "-"]
NUMBERS = [
    "0",
    "1",
    "-1",
    "-0",
    "0x10",
    "1e3",
    "inf",
    "nan",
    "0.0001",
    "-0.0005",
    "+1",
    " 1",
    "",
    "9223372036854775808",
    "1e-400",
]
KEYS = [*SEEDED, "none", "{k}"]
OTHERS = ["STORE", "d", "GET", "*", "\r\n*1\r\n$8\r\nFLUSHALL\r\n"]
_TELLING = """SET k w|GET k|GET k w|DEL k|FLUSHALL|WIPE|TTL|STRLEN k|LLEN c|CONFIG SET maxmemory 0|MONITOR|SUBSCRIBE c
PSUBSCRIBE *|SELECT 1|CLIENT REPLY OFF|CLIENT SETNAME x|CLIENT TRACKING ON|CLIENT NO-EVICT ON|SCRIPT LOAD x
SCRIPT FLUSH|SCRIPT KILL|MULTI|WATCH k|EVAL return(redis.call('SET','k','w')) 0|EVAL_RO return(1) 0|FCALL f 0
FUNCTION FLUSH|FUNCTION LOAD x|XGROUP CREATE s g $|RESET|QUIT|PUBLISH c m|SAVE|DEBUG JMAP|SHUTDOWN NOW ABORT
REPLICAOF NO ONE|SORT l STORE d|GETEX k EX 100|GETDEL k|LPOP l|BITFIELD k SET u8 0 1|OBJECT ENCODING k
MEMORY USAGE k|MEMORY PURGE|LATENCY RESET|SLOWLOG RESET|ACL WHOAMI|HELLO 3|AUTH x y|SWAPDB 0 1|MOVE k 1
COPY k none|RESTORE n 0 x|XREAD COUNT 1 STREAMS s 0|XREAD BLOCK 1 STREAMS s 0|BLPOP l 0|BLPOP l 0x1
GEOADD g 1 1 m|KEYS *|CLUSTER RESET"""
TELLING = [line.split(" ") for line in _TELLING.replace("\n", "|").split("|")]
"""What would show, if it ran."""


class Draws:
    """Draws commands. (hypothesis would take ten times as long for the same, and could make none of them shorter: what
    a command does depends on those before it.)

    Args:
        names: of the server's commands, with subcommands.
        renamed: the names that other commands have, and the other names.
        seed: the same draws come from the same seed.
    """

    def __init__(self, names: list[str], renamed: list[str], seed: str) -> None:
        self.names = [name.split() for name in names]
        self.renamed = renamed
        self.random = random.Random(seed)

    def pipeline(self) -> list[list[str]]:
        commands: list[list[str]] = []
        wanted = self.random.randint(LENGTH, 2 * LENGTH)
        while len(commands) < wanted:
            command = self._command()
            if _ends(command):
                commands.append(command)
        return commands

    def style(self) -> str:
        return self.random.choice(["pipeline"] * 8 + ["transaction", "path"])

    def _command(self) -> list[str]:
        """Of any name with any arguments; and those that would do something, written in any way."""
        kind = self.random.randrange(3)
        if kind == 2 and self.renamed:
            return [self.random.choice(self.renamed), "k", "w"][: self.random.randint(1, 3)]
        if kind == 1:
            return self._written(self.random.choice(TELLING))
        arguments = [self._argument() for _ in range(self.random.randint(0, 4))]
        return self._written(self.random.choice(self.names)) + arguments

    def _argument(self) -> str:
        characters = ["a", "\0", "\n", "\x1b", '"', "\xff", "\u2028", "\uffff", "\U0001f40d", "7", "*", " "]
        text = "".join(self.random.choice(characters) for _ in range(self.random.randint(0, 4)))
        return self.random.choice(
            [self.random.choice(KEYS), self.random.choice(NUMBERS), self.random.choice(OTHERS), text]
        )

    def _written(self, words: list[str]) -> list[str]:
        if self.random.random() < 0.25:  # name and subcommand in one
            return [self.random.choice([" ", "|", "\0"]).join(words[:2]), *words[2:]]
        return [*map(self._spelt, words[:2]), *words[2:]] if len(words) > 1 else [self._spelt(words[0])]

    def _spelt(self, name: str) -> str:
        """In one of the ways to write a name."""
        at = self.random.randint(0, 12)
        match self.random.randrange(9):
            case 0 | 1:
                return name
            case 2:
                return name.upper()
            case 3:
                return name.title()
            case 4:
                return name.swapcase()
            case 5:
                return name[:at] + self.random.choice(SEPARATORS) + name[at:]
            case 6:
                return name + self.random.choice(ENDS)
            case 7:
                return f"{name}\0{self.random.randrange(10_000)}|x"
        return name.replace("s", "\u017f").replace("k", "\u212a")


def _ends(words: list[str]) -> bool:
    """What waits, waits for keys that are there: a draw is to take no time. (Timeouts have tests of their own.)"""
    name = words[0].lower()
    return not (name in ("wait", "waitaof") or (name.startswith(("b", "xread")) and "none" in words))


TOKENS = {"reader": READER, "full": FULL}


@pytest.mark.slow
@pytest.mark.timeout(600 + 4 * EXAMPLES)
@pytest.mark.parametrize("token", TOKENS)
def test_nothing_runs_that_a_token_does_not_allow(world, token):
    for number in range(EXAMPLES):
        seed = f"{SEED}-{number}"
        draws = Draws(world.names, world.renamed, seed)
        watch = Stopwatch()
        try:
            send(world.app, draws.pipeline(), draws.style(), TOKENS[token])
            assert watch.fair() < 20, "something blocks"
            world.check(TOKENS[token])
        except AssertionError as error:
            raise AssertionError(f"POOLMGR_FUZZ_SEED={SEED}, pipeline {number}") from error


def send(app: Inside, commands: list[list[str]], style: str, token: str) -> None:
    if style == "path":
        for words in commands[:3]:
            path = "/" + "/".join(quote(word, safe="") for word in words)
            answer = app.get(path, token=token)
            assert answer.status_code in (200, 400), answer.text
    elif style == "transaction":
        assert app.post(commands, path="/multi-exec", token=token).status_code in (200, 400)
    else:
        assert len(app.pipeline(commands, token=token)) == len(commands)
