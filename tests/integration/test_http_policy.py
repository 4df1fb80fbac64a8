"""Which commands are refused over HTTP, judged by the command tables of real servers."""

from __future__ import annotations

import pytest
import redis

from worker import policy, table, timeouts

REFUSED = """
SUBSCRIBE c|PSUBSCRIBE c|SSUBSCRIBE c|UNSUBSCRIBE|PUNSUBSCRIBE|SUNSUBSCRIBE|MONITOR|SELECT 1|AUTH x|HELLO 3|QUIT|RESET
CLIENT ID|CLIENT REPLY OFF|CLIENT TRACKING ON|CLIENT SETNAME x|CLIENT KILL ID 1|CLIENT NO-EVICT ON|CLIENT|client id
WATCH k|UNWATCH|MULTI|EXEC|DISCARD|CONFIG GET *|CONFIG SET a b|CONFIG|CONFIG NOPE|SHUTDOWN|SHUTDOWN NOSAVE
DEBUG SLEEP 1|DEBUG|MODULE LOAD x|MODULE LIST|MODULE|ACL WHOAMI|ACL SETUSER x|ACL|REPLICAOF a 1|SLAVEOF a 1|SAVE
BGSAVE|BGREWRITEAOF|SYNC|PSYNC ? -1|REPLCONF x|FAILOVER|SLOWLOG GET|LATENCY RESET|CLUSTER RESET|CLUSTER FAILOVER
PFDEBUG x|PFSELFTEST|MIGRATE h 1 k 0 1|SWAPDB 0 1|SCRIPT DEBUG YES|ASKING|READONLY|READWRITE
"""

ALLOWED = """
GET k|SET k v|get k|HGETALL h|ZRANGE z 0 -1|EVAL x 0|EVALSHA x 0|FCALL f 0|SCRIPT LOAD x|SCRIPT EXISTS x|SCRIPT FLUSH
FUNCTION LIST|PUBLISH c m|SPUBLISH c m|PUBSUB CHANNELS|KEYS *|SCAN 0|DBSIZE|FLUSHDB|FLUSHALL|INFO|TIME|PING|ECHO x
COMMAND|COMMAND COUNT|OBJECT HELP|XREAD STREAMS s 0|BLPOP k 1|WAIT 0 0|XINFO STREAM s|MEMORY USAGE k|RENAME a b
COPY a b|DUMP k|RESTORE k 0 x|SORT k|GEOADD g 1 1 m
"""

NOT_READONLY = """
SET k v|DEL k|GETDEL k|GETSET k v|HSET h a 1|ZADD z 1 m|FLUSHALL|EVAL x 0|EVALSHA x 0|FCALL f 0|PUBLISH c m
SPUBLISH c m|XADD s * a 1|BLPOP k 1|XREADGROUP GROUP g c STREAMS s >|SORT k STORE d|GEOADD g 1 1 m|SCRIPT LOAD x
SCRIPT FLUSH|FUNCTION LOAD x|RESTORE k 0 x|KEYS *|EVAL_RO x 0|FCALL_RO f 0|INFO|COMMAND COUNT
SORT_RO k|SCRIPT KILL|WAIT 0 0
"""

READONLY = """
GET k|MGET a b|HGETALL h|ZRANGE z 0 -1|SCAN 0|PFCOUNT p|TTL k|EXISTS k|PING|TIME|MEMORY USAGE k
XREAD BLOCK 0 STREAMS s 0|DBSIZE|XREAD STREAMS s 0|GEOSEARCH g x|XRANGE s - +
TYPE k|ECHO x|OBJECT ENCODING k|XINFO STREAM s|DUMP k|RANDOMKEY
"""


def commands(text: str) -> list[list[bytes]]:
    return [line.split() for line in text.replace("|", "\n").encode().split(b"\n") if line.strip()]


@pytest.fixture(params=["valkey", "redis"])
def judge(request, redis_server):
    """The policy over a real server's table."""
    server = redis_server() if request.param == "valkey" else request.getfixturevalue("debian_redis")()
    pool = redis.ConnectionPool.from_url(server.unix_url, protocol=2)
    link = pool.get_connection()
    try:
        link.send_command("COMMAND")
        names = table.names_of(link.read_response(disable_decoding=True))
        link.send_command("COMMAND", "INFO", *names)
        yield policy.Policy(table.table_of(names, link.read_response(disable_decoding=True)))
    finally:
        pool.disconnect()


def why(judge: policy.Policy, command: list[bytes], *, readonly: bool = False) -> str:
    """Why a command is refused; empty if it is allowed."""
    verdict = judge.decide(command, readonly=readonly)
    return verdict.why if isinstance(verdict, policy.Refused) else ""


def test_what_changes_a_connection_or_administers_is_refused(judge):
    assert [command for command in commands(REFUSED) if not why(judge, command)] == []


def test_the_rest_is_allowed(judge):
    assert [found for command in commands(ALLOWED) if (found := why(judge, command))] == []


def test_the_readonly_token_allows_only_what_reads(judge):
    assert [command for command in commands(NOT_READONLY) if not why(judge, command, readonly=True)] == []
    assert [found for command in commands(READONLY) if (found := why(judge, command, readonly=True))] == []
    assert why(judge, [b"SET", b"k", b"v"], readonly=True).startswith("NOPERM")


def test_every_command_of_the_server_with_a_telling_flag_is_refused(judge):
    for rule in judge.table.values():
        for found in [rule, *rule.subcommands.values()]:
            command = [*found.words, *[b"1"] * 4]
            if found.subcommands:
                command = command[:1]
            if "admin" in found.flags or "@transaction" in found.categories:
                assert why(judge, command), command
            if "write" in found.flags or "readonly" not in found.flags:
                assert why(judge, command, readonly=True) or found.name in policy.HARMLESS, command
            if {"@dangerous", "@admin", "@scripting", "@pubsub"} & found.categories:
                assert why(judge, command, readonly=True), command


def test_every_blocking_command_is_bounded_or_refused(judge):
    for name, rule in judge.table.items():
        if "blocking" in rule.flags:
            assert rule.name in timeouts.BOUNDS or why(judge, [name]), name


def test_what_is_sent_is_the_servers_spelling_and_the_callers_arguments(judge):
    for sent, expected in ((b"gEt a\0B", b"get a\0B"), (b"OBJECT EnCoding K", b"object encoding K")):
        verdict = judge.decide(sent.split(b" "), readonly=True)
        assert verdict.command == expected.split(b" ")


def test_a_table_is_believed_only_where_a_name_answers_for_itself():
    get, put = [b"get", 2, [b"readonly"], 1, 1, 1, [b"@read"]], [b"set", -3, [b"write"], 1, 1, 1, [b"@write"]]
    found = table.table_of([b"set", b"get"], [None, put])
    assert found == {}, "get answers as set, and set not at all"
    found = table.table_of([b"get", b"set"], [get, put])
    assert set(found) == {b"get", b"set"}
    assert table.table_of([b"get"], [get, put]) == {}
    assert table.names_of(redis.ResponseError("NOPERM")) == []


def test_a_server_that_does_not_tell_subcommands_is_judged_by_what_is_known_of_them():
    """Redis 6.2 lists MEMORY as read-only, PURGE included, and SCRIPT without flags."""
    rows = [
        [b"memory", -2, [b"readonly", b"random"], 0, 0, 0, [b"@read", b"@slow"]],
        [b"script", -2, [b"noscript"], 0, 0, 0, [b"@slow", b"@scripting"]],
        [b"config", -2, [b"admin", b"noscript"], 0, 0, 0, [b"@admin", b"@slow", b"@dangerous"]],
    ]
    old = policy.Policy(table.table_of(table.names_of(rows), rows))
    assert not why(old, [b"MEMORY", b"USAGE", b"k"], readonly=True)
    for words in ("MEMORY PURGE", "MEMORY USAGE\0x k", "SCRIPT LOAD x", "CONFIG GET x"):
        assert why(old, words.encode().split(b" "), readonly=True), words
    for words in ("SCRIPT DEBUG YES", "SCRIPT DEBUG\0x YES", "SCRIPT KILL", "CONFIG GET x"):
        assert why(old, words.encode().split(b" ")), words
    assert not why(old, [b"SCRIPT", b"LOAD", b"x"])


# ---- blocking ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "bounded"),
    [
        (b"blpop k 0", b"blpop k 4"),
        (b"blpop k 3", b"blpop k 3"),
        (b"blpop k 3.25", b"blpop k 3.250"),
        (b"blpop k 1e-5", b"blpop k 0.001"),
        (b"blpop k 1e-99", b"blpop k 0.001"),
        (b"blpop k 0.0e5", b"blpop k 4"),
        (b"blpop k 99", b"blpop k 4"),
        (b"blmove a b LEFT RIGHT 1e9", b"blmove a b LEFT RIGHT 4"),
        (b"blmpop 0 1 k LEFT", b"blmpop 4 1 k LEFT"),
        (b"bzmpop 1 1 k MIN", b"bzmpop 1 1 k MIN"),
        (b"xread COUNT 1 BLOCK 0 STREAMS s $", b"xread COUNT 1 BLOCK 4000 STREAMS s $"),
        (b"xread block 99999 streams s $", b"xread BLOCK 4000 STREAMS s $"),
        (b"xread BLOCK 1 COUNT 2 BLOCK 0 STREAMS s $", b"xread COUNT 2 BLOCK 4000 STREAMS s $"),
        (b"xreadgroup GROUP block 0 BLOCK 0 STREAMS s >", b"xreadgroup GROUP block 0 BLOCK 4000 STREAMS s >"),
        (b"xreadgroup GROUP g c NOACK BLOCK 5 STREAMS block 0", b"xreadgroup GROUP g c NOACK BLOCK 5 STREAMS block 0"),
        (b"wait 1 0", b"wait 1 4000"),
        (b"waitaof 1 0 0", b"waitaof 1 0 4000"),
    ],
)
def test_a_blocking_commands_timeout_is_cut(command, bounded):
    words = command.split()
    found = timeouts.read(words[0].decode(), words)
    assert isinstance(found, timeouts.Blocking)
    assert found.cut(4.0) == bounded.split()


NO_NUMBERS = "0x3e8 0x0 -0 -1 -0.0005 +1 inf nan 1e999 1e400 1_0 \u0661 . e5 0b1"


@pytest.mark.parametrize("text", [*NO_NUMBERS.split(), "", " 1", "1 ", "1\0"])
def test_a_timeout_that_servers_read_otherwise_is_refused(text):
    for words in (
        ["blpop", "k", text],
        ["blmpop", text, "1", "k", "LEFT"],
        ["xread", "BLOCK", text, "STREAMS", "s", "$"],
    ):
        found = timeouts.read(words[0], [word.encode() for word in words])
        assert (isinstance(found, str) and "timeout" in found) or (text == "1." and words[0] != "xread"), words


@pytest.mark.parametrize("command", [b"xread STREAMS block 0", b"xread STREAMS s 0", b"blpop", b"blmpop"])
def test_what_does_not_block_is_left_alone(command):
    assert timeouts.read(command.split()[0].decode(), command.split()) == command.split()


@pytest.mark.parametrize(
    "command", [b"xread BLOCK", b"xread COUNT", b"xread GROUP g c STREAMS s $", b"xread BLOCK\0 0 STREAMS s $"]
)
def test_options_that_are_not_understood_are_refused(command):
    assert isinstance(timeouts.read("xread", command.split()), str)
