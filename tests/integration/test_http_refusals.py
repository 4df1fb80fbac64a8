"""What walked around the policy of the HTTP service once, on both real servers: it is refused, and does nothing.

Some 400 lines, as a list by kind: names, renames, tokens, numbers, rights."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.helpers import ROOT, RedisServer, debian_redis_binary
from tests.inside import FULL, READER, Inside, inside
from tests.pools import running_server
from tests.stopwatch import Stopwatch


@pytest.fixture(params=["redis_server", "debian_redis"])
def start(request) -> Any:
    """Starts servers of either kind."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, RedisServer]]:
    """One of each kind for all tests that leave a server as it was, but for its data."""
    found: dict[str, RedisServer] = {}
    with contextlib.ExitStack() as stack:
        for kind, binary in (("valkey", ""), ("redis", debian_redis_binary())):
            if binary is not None:
                found[kind] = stack.enter_context(running_server(binary=binary))
        yield found


@pytest.fixture(params=["valkey", "redis"])
def shared(request, servers) -> RedisServer:
    """An empty one of these."""
    if request.param not in servers:
        pytest.skip("redis-server is not installed (apt install redis-server)")
    server: RedisServer = servers[request.param]
    with server.observer() as client:
        client.flushall()
    return server


@pytest.fixture
def caller(shared, monkeypatch) -> Iterator[tuple[Inside, RedisServer]]:
    with inside(shared, monkeypatch) as app:
        yield app, shared


def renamed(start, tmp_path, **names: str) -> RedisServer:
    """A server whose commands have other names: ``get="readit"``."""
    config = tmp_path / "redis.conf"
    config.write_text("".join(f"rename-command {name} {other}\n" for name, other in names.items()))
    server: RedisServer = start(include=str(config))
    return server


OWN = {"client|setname", "client|setinfo", "info", "ping", "echo", "command", "command|info"}
"""What a connection is asked when it is new, and what the observer asks."""


def calls(server: RedisServer) -> dict[str, int]:
    """How often each command has run, by its real name."""
    return {name.removeprefix("cmdstat_"): row["calls"] for name, row in server.info("commandstats").items()}


def ran(server: RedisServer, before: dict[str, int]) -> set[str]:
    return {name for name, count in calls(server).items() if count > before.get(name, 0)}


# ---- names -------------------------------------------------------------------------------------


def test_a_name_with_a_zero_byte_is_refused_whatever_number_follows(caller):
    """Server and COMMAND INFO read it differently, if it falls into the right bucket of the server's table."""
    app, server = caller
    before = calls(server)
    for name in ("SET", "FLUSHALL", "MONITOR", "SAVE", "CONFIG", "SUBSCRIBE"):
        for first in range(0, 6000, 1000):
            sent = [[f"{name}\0{number}|x", "k", "v"] for number in range(first, first + 1000)]
            for item in app.pipeline(sent, token=READER):
                assert "name" in item["error"], item
    assert ran(server, before) <= OWN - {"command", "command|info"}, "no question was asked"


@pytest.mark.parametrize(
    "name", [" SET", "SET ", "\tSET", "SET k", "S\u0000ET", "SET\n", "\u017fET", "", "SET|x", "*3"]
)
@pytest.mark.parametrize("token", [READER, FULL])
def test_a_name_of_other_characters_is_refused(caller, name, token):
    app, server = caller
    before = calls(server)
    answer = app.ask(name, "k", "v", token=token)
    assert answer.status_code == 400
    assert "name" in answer.json["error"]
    assert "set" not in ran(server, before)


def test_what_the_server_does_not_list_is_refused(caller):
    app, server = caller
    app.ask("PING")
    before = calls(server)
    answer = app.ask("NONSENSE", "x")
    assert answer.status_code == 400
    assert "unknown command 'NONSENSE'" in answer.json["error"]
    assert all("unknown command" in item["error"] for item in app.pipeline([[f"X{n}"] for n in range(1000)]))
    assert ran(server, before) <= OWN


@pytest.mark.parametrize(
    "words",
    [
        ("FUNCTION", "LOAD\0 3", "#!lua name=l\nredis.register_function('f', function() return 1 end)"),
        ("FUNCTION", "LOAD ", "x"),
        ("FUNCTION", "NOPE"),
        ("SCRIPT", "FLUSH\0x"),
        ("SCRIPT", "DEBUG\0x", "YES"),
        ("XGROUP", "CREATE\0x", "s", "g", "$", "MKSTREAM"),
        ("CONFIG", "SET\0x", "maxmemory", "1"),
        ("OBJECT", "", "k"),
        ("MEMORY", "PURGE|x"),
    ],
)
@pytest.mark.parametrize("token", [READER, FULL])
def test_an_unknown_subcommand_is_refused(caller, words, token):
    app, server = caller
    before = calls(server)
    answer = app.ask(*words, token=token)
    assert answer.status_code == 400
    assert "subcommand" in answer.json["error"]
    assert ran(server, before) <= OWN


def test_what_is_sent_is_the_tables_own_spelling(caller):
    app, _ = caller
    app.ask("SeT", "K", "V")
    assert app.ask("gEt", "K").json == {"result": "V"}
    assert app.ask("oBjEcT", "eNcOdInG", "K").status_code == 200


# ---- renames, ACLs -----------------------------------------------------------------------------


def test_a_renamed_command_is_judged_by_no_name_that_is_not_its_own(start, tmp_path, monkeypatch):
    """After these renames GET runs SET, while the server's list of commands still says that ``get`` only reads."""
    server = renamed(start, tmp_path, GET="READIT", SET="GET", FLUSHALL="WIPE")
    with inside(server, monkeypatch) as app:
        before = calls(server)
        for token in (READER, FULL):
            for words in (("GET", "k", "v"), ("READIT", "k"), ("WIPE",), ("SET", "k", "v"), ("FLUSHALL",)):
                answer = app.ask(*words, token=token)
                assert answer.status_code == 400
                assert "unknown command" in answer.json["error"]
        assert not {"set", "get", "flushall"} & ran(server, before)
        assert app.ask("STRLEN", "k", token=READER).json == {"result": 0}


def test_a_server_that_does_not_tell_its_commands_is_a_503(start, monkeypatch):
    server = start()
    with server.observer() as client:
        client.execute_command("ACL SETUSER u on >secret ~* &* +@all -command|info")
    url = server.unix_url.replace("unix://", "unix://u:secret@")
    with inside(server, monkeypatch, url=url) as app:
        before = calls(server)
        for token in (READER, FULL):
            for words in (("WIPE",), ("GET", "k"), ("FLUSHALL",)):
                answer = app.ask(*words, token=token)
                assert answer.status_code == 503, answer.text
                assert "+command" in answer.json["error"]
                assert int(answer.headers["retry-after"]) > 0
        assert not {"flushall", "get"} & ran(server, before)


def test_a_transaction_without_MULTI_runs_nothing(start, tmp_path, monkeypatch):
    """Otherwise its commands would run one by one, with no EXEC to wait for."""
    server = renamed(start, tmp_path, MULTI="BEGIN")
    with inside(server, monkeypatch) as app:
        answer = app.post([["SET", "k", "v"], ["GET", "k"]], path="/multi-exec")
        assert answer.status_code == 503
        assert app.ask("GET", "k").json == {"result": None}
    server = start()
    with server.observer() as client:
        client.execute_command("ACL SETUSER u on >secret ~* &* +@all -multi")
    with inside(server, monkeypatch, url=server.unix_url.replace("unix://", "unix://u:secret@")) as app:
        assert app.post([["SET", "k", "v"]], path="/multi-exec").status_code in (400, 503)
        assert app.ask("GET", "k").json == {"result": None}


def test_a_server_in_the_place_of_another_is_judged_by_its_own_commands(start, tmp_path, monkeypatch):
    server = start()
    with inside(server, monkeypatch) as app:
        assert app.ask("GET", "k", token=READER).json == {"result": None}
        server.stop()
        config = tmp_path / "redis.conf"
        config.write_text("rename-command GET READIT\nrename-command SET GET\n")
        server.options["include"] = str(config)
        server.start()
        before = calls(server)
        for _ in range(3):
            answer = app.ask("GET", "k", "v", token=READER)
            assert answer.status_code in (400, 503), answer.text
        assert "set" not in ran(server, before)


# ---- the read-only token -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    ["KEYS *", "SORT_RO k", "EVAL_RO return 0", "EVALSHA_RO x 0", "FCALL_RO f 0", "INFO", "CONFIG GET *", "PUBLISH c m",
     "SCRIPT LOAD x", "WAIT 0 0", "XREADGROUP GROUP g c STREAMS s >", "MEMORY DOCTOR", "MEMORY PURGE", "FUNCTION LIST",
     "ROLE", "LASTSAVE", "ACL WHOAMI", "CLIENT ID", "SCRIPT KILL", "COMMAND", "CLUSTER INFO", "LATENCY RESET"],
)  # fmt: skip
def test_the_readonly_token_does_no_more_than_read(caller, words):
    app, _ = caller
    answer = app.ask(*words.split(), token=READER)
    assert answer.status_code == 400
    assert answer.json["error"].startswith("NOPERM") or "not allowed" in answer.json["error"]


@pytest.mark.parametrize(
    "words",
    ["GET k", "MGET a b", "HGETALL h", "SCAN 0", "DBSIZE", "XREAD STREAMS s 0", "XREAD BLOCK 1 STREAMS s $", "PING",
     "ECHO x", "TIME", "OBJECT ENCODING k", "MEMORY USAGE k", "PFCOUNT p", "TTL k",
     "GEOSEARCH g FROMLONLAT 1 1 BYRADIUS 1 m"],
)  # fmt: skip
def test_the_readonly_token_reads(caller, words):
    app, _ = caller
    app.ask("SET", "k", "v")
    assert app.ask(*words.split(), token=READER).status_code == 200


def test_scripts_that_only_read_can_be_allowed(start, monkeypatch):
    server = start()
    with inside(server, monkeypatch, WORKER_READONLY_SCRIPTS="1") as app:
        assert app.ask("EVAL_RO", "return redis.call('GET', 'k')", 0, token=READER).json == {"result": None}
        for words in (("EVAL", "return 1", 0), ("EVALSHA", "x", 0), ("FCALL", "f", 0), ("SCRIPT", "LOAD", "return 1")):
            assert app.ask(*words, token=READER).json["error"].startswith("NOPERM")
        assert "error" in app.ask("EVAL_RO", "return redis.call('SET', 'k', 'v')", 0, token=READER).json
        assert app.ask("GET", "k").json == {"result": None}


# ---- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    ["BLPOP k 0x3e8", "BLPOP k 0x0", "BLPOP k -0", "BLPOP k -0.0005", "BLPOP k 1e999", "BLPOP k inf", "BLPOP k 1e-400",
     "BRPOP k +0", "BLMPOP -0.0001 1 k LEFT", "BZMPOP 0x3e8 1 k MIN", "BLMOVE a b LEFT LEFT 0x3e8", "WAIT 1 00",
     "XREAD BLOCK 1 BLOCK 0 STREAMS s $", "XREAD BLOCK 0 BLOCK 1 STREAMS s $", "XREAD BLOCK\0x 0 STREAMS s $",
     "XREAD COUNT 1 BLOCK 0 BLOCK 0 STREAMS s $", "XREAD COUNT BLOCK 0 STREAMS s $", "XREAD NOACK BLOCK 0 STREAMS s $",
     "XREAD GROUP g c BLOCK 0 STREAMS s $", "XREAD BLOCK -0 STREAMS s $", "XREAD BLOCK +0 STREAMS s $",
     "BLPOP k 0.0000001"],
)  # fmt: skip
def test_no_timeout_is_read_otherwise_than_the_server_reads_it(shared, monkeypatch, words):
    """Whatever it is, it is refused or cut: no reply is waited for in vain, no connection lost."""
    with inside(shared, monkeypatch, REDIS_SOCKET_TIMEOUT="3.5") as app:
        app.ask("PING")
        watch = Stopwatch()
        answer = app.ask(*words.split(" "))
        assert watch.fair() < 3.45
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            assert "timeout" in answer.json["error"] or "syntax" in answer.json["error"]
        assert app.pool.stats().created == 1


@pytest.mark.parametrize(
    ("words", "count"),
    [("XREAD BLOCK 0 STREAMS s $", 1000), ("XREAD BLOCK 1 STREAMS s $", 21), ("BLPOP k 0.001", 20), ("WAIT 1 0", 21)],
)
def test_many_that_block_end_in_time_or_are_refused(shared, monkeypatch, words, count):
    """Servers look ten times a second whether a wait is over, so each may take as much longer than it says."""
    with inside(shared, monkeypatch, REDIS_SOCKET_TIMEOUT="5") as app:
        answer = app.post([words.split(" ")] * count, path="/pipeline")
        assert answer.status_code == 200, answer.text
        assert answer.json[:20] == [{"result": 0 if words.startswith("WAIT") else None}] * 20
        assert all("at most 20 commands that may block" in item["error"] for item in answer.json[20:])
        assert len(answer.json) == count
        assert app.pool.stats().created == 1, "no connection was lost"


@pytest.mark.parametrize("words", ["SRANDMEMBER u -{}", "HRANDFIELD h -{} WITHVALUES", "ZRANDMEMBER z -{}"])
def test_no_reply_is_as_long_as_a_number_says(caller, words):
    """The server makes it up in its own memory, of a set with one element, before anybody can refuse to read it."""
    app, server = caller
    for seed in (("SADD", "u", "x" * 1000), ("HSET", "h", "x" * 1000, "y"), ("ZADD", "z", 1, "x" * 1000)):
        app.ask(*seed)
    before = calls(server)
    for count in (10_000, 300_000, 4_000_000_000_000_000_000, "0", "00001", "0x1"):
        answer = app.ask(*words.format(count).split(" "), token=READER)
        assert answer.status_code == 400, count
    assert not ran(server, before) - OWN
    assert len(app.ask(*words.format(1000).split(), token=READER).json["result"]) >= 1000
    assert len(app.ask(*words.format(5).replace("-", "").split(), token=READER).json["result"]) <= 2


@pytest.mark.parametrize(
    "words", ["LOLWUT VERSION 6 1000 1000", "lolwut version 5 1000 200 200", "LOLWUT 66 8 4", "LOLWUT VERSION 6"]
)
def test_no_picture_is_as_large_as_a_number_says(caller, words):
    """Twenty of them in one request kept a server busy for six seconds, whatever is in it."""
    app, server = caller
    before = calls(server)
    for token in (READER, FULL):
        assert "no arguments" in app.ask(*words.split(" "), token=token).json["error"]
    assert not ran(server, before) - OWN
    assert app.ask("LOLWUT", token=READER).status_code == 200


@pytest.mark.parametrize("break_", ["\n", "\r", "\r\n*1\r\n$8\r\nFLUSHALL\r\n"])
def test_no_argument_is_read_as_another_reply(caller, break_):
    """Valkey repeats an argument of FUNCTION LIST in its error as it is."""
    app, server = caller
    before = calls(server)
    answer = app.ask("FUNCTION", "LIST", f"a{break_}b", "u")
    assert answer.status_code == 400 and "line break" in answer.json["error"], answer.text
    assert not ran(server, before) - OWN
    assert app.ask("FUNCTION", "LIST", "LIBRARYNAME", "a*").json == {"result": []}
    assert "nknown argument" in app.ask("FUNCTION", "LIST", "other").json["error"]
    assert app.pool.stats().created == 1


# ---- the user of docs/http.md ------------------------------------------------------------------


def test_the_user_of_the_documents_does_what_the_service_needs_and_scripts_administer_nothing(start, monkeypatch):
    (line,) = re.findall(r"^ACL SETUSER http .*$", (ROOT / "docs" / "http.md").read_text(), re.MULTILINE)
    server = start()
    with server.observer() as client:
        client.execute_command(*line.split())
    url = server.unix_url.replace("unix://", "unix://http:PASSWORD@")
    with inside(server, monkeypatch, url=url, options={"client_name": "service"}) as app:
        assert app.ask("SET", "k", "v").json == {"result": "OK"}
        assert app.ask("GET", "k", token=READER).json == {"result": "v"}
        assert app.post([["INCR", "n"], ["GET", "n"]], path="/multi-exec").json[1] == {"result": "1"}
        assert app.ask("EVAL", "return redis.call('GET', 'k')", 0).json == {"result": "v"}
        assert app.ask("BLPOP", "nothing", "0.01").json == {"result": None}
        assert app.client.simulate_get("/readyz").status_code == 200
        for words in (
            "'SLOWLOG', 'RESET'",
            "'FLUSHALL'",
            "'KEYS', '*'",
            "'MIGRATE', 'h', '1', 'k', '0', '1'",
            "'SWAPDB', 0, 1",
        ):
            answer = app.ask("EVAL", f"return redis.call({words})", 0)
            assert answer.status_code == 400, words
            assert re.search("can't run this command|permission|NOPERM", answer.json["error"]), answer.json
        assert app.ask("FLUSHALL").json["error"].startswith("NOPERM")
        with redis.Redis.from_url(
            url, protocol=2
        ) as supervisor:  # what it asks: see poolmgr/supervisor/upstreams/inspection.py
            assert supervisor.info("server")["run_id"]
            assert "maxclients" in supervisor.config_get("maxclients")
            assert supervisor.client_list()
            assert supervisor.execute_command("CLIENT KILL ID 9999999") == 0


def test_without_ECHO_nothing_is_answered(start, tmp_path, monkeypatch):
    """No reply would be certain to be the caller's."""
    server = start()
    with server.observer() as client:
        client.execute_command("ACL SETUSER u on >secret ~* &* +@all -echo")
    with inside(server, monkeypatch, url=server.unix_url.replace("unix://", "unix://u:secret@")) as app:
        answer = app.ask("SET", "k", "v")
        assert answer.status_code == 503
        assert "+echo" in answer.json["error"]
    server = renamed(start, tmp_path, ECHO="SAY")
    with inside(server, monkeypatch) as app:
        answer = app.ask("SET", "k", "v")
        assert answer.status_code == 503
        assert "ECHO" in answer.json["error"]
        with server.observer() as client:
            assert client.get("k") is None


def test_the_servers_settings_of_the_documents_bound_what_a_reader_costs_it(start, monkeypatch):
    """MGET of the same large value again and again: without the limit each costs the server as much again."""
    settings = (ROOT / "docs" / "http.md").read_text()
    (limit,) = re.findall(r"^client-output-buffer-limit (.*)$", settings, re.MULTILINE)
    assert re.search(r"^busy-reply-threshold 1000$", settings, re.MULTILINE)
    server = start()
    with server.observer() as client:
        client.config_set("client-output-buffer-limit", limit)
        client.set("big", "x" * (30 << 20))
    with inside(server, monkeypatch) as app:
        answer = app.ask("MGET", *["big"] * 40, token=READER)
        assert answer.status_code in (400, 503)
        assert app.ask("STRLEN", "big", token=READER).json == {"result": 30 << 20}
    assert server.info("memory")["used_memory_peak"] < 400 << 20
