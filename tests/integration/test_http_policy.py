"""Which commands are refused over HTTP, judged by the command tables of real servers."""

from __future__ import annotations

import pytest
import redis

from worker import policy

REFUSED = """
SUBSCRIBE c|PSUBSCRIBE c|SSUBSCRIBE c|UNSUBSCRIBE|PUNSUBSCRIBE|SUNSUBSCRIBE|MONITOR|SELECT 1|AUTH x|HELLO 3|QUIT|RESET
CLIENT ID|CLIENT REPLY OFF|CLIENT TRACKING ON|CLIENT SETNAME x|CLIENT KILL ID 1|CLIENT NO-EVICT ON|CLIENT|client id
WATCH k|UNWATCH|MULTI|EXEC|DISCARD|CONFIG GET *|CONFIG SET a b|CONFIG|CONFIG NOPE|SHUTDOWN|SHUTDOWN NOSAVE
DEBUG SLEEP 1|DEBUG|MODULE LOAD x|MODULE LIST|MODULE|ACL WHOAMI|ACL SETUSER x|ACL|REPLICAOF a 1|SLAVEOF a 1|SAVE
BGSAVE|BGREWRITEAOF|SYNC|PSYNC ? -1|REPLCONF x|FAILOVER|SLOWLOG GET|LATENCY RESET|CLUSTER RESET|CLUSTER FAILOVER
PFDEBUG x|PFSELFTEST|MIGRATE h 1 k 0 1|SWAPDB 0 1|SCRIPT DEBUG YES|SCRIPT KILL|FUNCTION KILL|ASKING|READONLY|READWRITE
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
SCRIPT FLUSH|FUNCTION LOAD x|RESTORE k 0 x
"""

READONLY = """
GET k|MGET a b|HGETALL h|ZRANGE z 0 -1|SCAN 0|KEYS *|EVAL_RO x 0|FCALL_RO f 0|PFCOUNT p|TTL k|EXISTS k|PING|TIME|INFO
DBSIZE|XREAD STREAMS s 0|SORT_RO k|GEOSEARCH g x|XRANGE s - +|TYPE k|ECHO x|COMMAND COUNT|OBJECT ENCODING k
MEMORY USAGE k
"""


def commands(text: str) -> list[list[bytes]]:
    return [line.split() for line in text.replace("|", "\n").encode().split(b"\n") if line.strip()]


@pytest.fixture(params=["valkey", "redis"])
def table(request, redis_server):
    server = redis_server() if request.param == "valkey" else request.getfixturevalue("debian_redis")()
    pool = redis.ConnectionPool.from_url(server.unix_url, protocol=2)
    link = pool.get_connection()
    try:
        link.send_command("COMMAND")
        yield policy.table_of(link.read_response(disable_decoding=True))
    finally:
        pool.disconnect()


def judge(table: policy.Table, command: list[bytes], *, readonly: bool = False) -> str:
    return policy.refusal(policy.find(table, command), command, readonly=readonly)


def test_what_changes_a_connection_or_administers_is_refused(table):
    assert [command for command in commands(REFUSED) if not judge(table, command)] == []


def test_the_rest_is_allowed(table):
    assert [why for command in commands(ALLOWED) if (why := judge(table, command))] == []


def test_the_readonly_token_allows_only_what_cannot_write(table):
    assert [command for command in commands(NOT_READONLY) if not judge(table, command, readonly=True)] == []
    assert [why for command in commands(READONLY) if (why := judge(table, command, readonly=True))] == []
    assert judge(table, [b"SET", b"k", b"v"], readonly=True).startswith("NOPERM")


def test_every_command_of_the_server_with_a_telling_flag_is_refused(table):
    for name, rule in table.items():
        for sub in [None, *rule.subcommands]:
            command = [name.encode(), *([sub.encode()] if sub else [])]
            found = rule.subcommands[sub] if sub else rule
            if "admin" in found.flags or "@transaction" in found.categories:
                assert judge(table, command), command
            if "write" in found.flags:
                assert judge(table, command, readonly=True), command


def test_every_blocking_command_is_bounded_or_refused(table):
    for name, rule in table.items():
        if "blocking" in rule.flags:
            assert name in policy.BOUNDS or judge(table, [name.encode()]), name


@pytest.mark.parametrize(
    ("command", "bounded"),
    [
        (b"BLPOP k 0", b"BLPOP k 4.000"),
        (b"BLPOP k 3", b"BLPOP k 3"),
        (b"BLPOP k 99", b"BLPOP k 4.000"),
        (b"BLPOP k -1", b"BLPOP k -1"),
        (b"BLPOP k x", b"BLPOP k x"),
        (b"BLMOVE a b LEFT RIGHT 1e9", b"BLMOVE a b LEFT RIGHT 4.000"),
        (b"BLMPOP 0 1 k LEFT", b"BLMPOP 4.000 1 k LEFT"),
        (b"BZMPOP 1 1 k MIN", b"BZMPOP 1 1 k MIN"),
        (b"XREAD COUNT 1 BLOCK 0 STREAMS s $", b"XREAD COUNT 1 BLOCK 4000 STREAMS s $"),
        (b"XREAD block 99999 STREAMS s $", b"XREAD block 4000 STREAMS s $"),
        (b"XREADGROUP GROUP block 0 BLOCK 0 STREAMS s >", b"XREADGROUP GROUP block 0 BLOCK 4000 STREAMS s >"),
        (b"WAIT 1 0", b"WAIT 1 4000"),
        (b"WAITAOF 1 0 0", b"WAITAOF 1 0 4000"),
    ],
)
def test_a_blocking_commands_timeout_is_cut(command, bounded):
    assert policy.bounded(None, command.split(), 4.0) == (bounded.split(), True)


@pytest.mark.parametrize(
    "command", [b"GET k", b"XREAD STREAMS block 0", b"XREAD STREAMS s 0", b"BLPOP", b"XREAD BLOCK"]
)
def test_what_does_not_block_is_left_alone(command):
    assert policy.bounded(None, command.split(), 4.0) == (command.split(), False)
