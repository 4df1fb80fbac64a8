"""Scripts with flags that only Upstash's servers know, and their hashes, on both real servers."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha1
from typing import Any

import pytest

from tests.inside import READER, Inside, inside
from worker.scripts import MOST, Scripts

LOCKING = "#!lua flags=allow-key-locking\n"
BODY = "redis.call('SET', KEYS[1], ARGV[1])\nreturn redis.call('GET', KEYS[1])"
READING = "return redis.call('GET', KEYS[1])"


def hash_of(script: str) -> str:
    return sha1(script.encode()).hexdigest()


@pytest.fixture(params=["redis_server", "debian_redis"])
def app(request, monkeypatch) -> Iterator[Inside]:
    with inside(request.getfixturevalue(request.param)(), monkeypatch, WORKER_READONLY_SCRIPTS="1") as found:
        yield found


def result(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json["result"]


def test_a_script_runs_and_its_own_hash_finds_it(app):
    script = LOCKING + BODY
    assert app.ask("EVALSHA", hash_of(script), 1, "k", "v").json["error"].startswith("NOSCRIPT")
    assert result(app.ask("EVAL", script, 1, "k", "v")) == "v"
    assert result(app.ask("EVALSHA", hash_of(script), 1, "k", "w")) == "w"
    assert result(app.ask("EvalSha", hash_of(script).upper(), 1, "k", "x")) == "x"
    assert result(app.ask("SCRIPT", "EXISTS", hash_of(script), "0" * 40, hash_of(script))) == [1, 0, 1]
    assert result(app.get(f"/evalsha/{hash_of(script)}/1/k/y")) == "y"


def test_the_hash_that_loading_gives_finds_it_in_every_worker(app):
    script = LOCKING + BODY + " -- loaded"
    given = result(app.ask("SCRIPT", "LOAD", script))
    assert result(app.ask("EVALSHA", hash_of(script), 1, "k", "v")) == "v"
    app.client = Inside(app.pool).client  # another one, which has been told nothing
    assert result(app.ask("EVALSHA", given, 1, "k", "w")) == "w"
    assert app.ask("EVALSHA", hash_of(script), 1, "k", "x").json["error"].startswith("NOSCRIPT")
    assert result(app.ask("EVAL", script, 1, "k", "x")) == "x"
    assert result(app.ask("EVALSHA", hash_of(script), 1, "k", "y")) == "y"


def test_in_a_pipeline_and_in_a_transaction(app):
    script = LOCKING + BODY
    commands = [["EVAL", script, 1, "k", "v"], ["EVALSHA", hash_of(script), 1, "k", "w"]]
    assert app.pipeline(commands) == [{"result": "v"}, {"result": "w"}]
    assert app.post(commands[::-1], path="/multi-exec").json == [{"result": "w"}, {"result": "v"}]


@pytest.mark.parametrize("line", ["flags=no-writes,allow-key-locking", "flags=allow-key-locking,no-writes,allow-stale"])
def test_other_flags_hold(app, line):
    app.ask("SET", "k", "v")
    script = f"#!lua {line}\n"
    assert result(app.ask("EVAL_RO", script + READING, 1, "k", token=READER)) == "v"
    assert result(app.ask("EVALSHA_RO", hash_of(script + READING), 1, "k", token=READER)) == "v"
    answer = app.ask("EVAL", script + BODY, 1, "k", "w")
    assert "Write commands are not allowed" in answer.json["error"]
    assert app.ask("GET", "k").json == {"result": "v"}


def test_a_script_that_only_locks_may_read_with_the_readonly_token(app):
    app.ask("SET", "k", "v")
    assert result(app.ask("EVAL_RO", LOCKING + READING, 1, "k", token=READER)) == "v"
    assert "rite" in app.ask("EVAL_RO", LOCKING + BODY, 1, "k", "w", token=READER).json["error"]


def test_lines_keep_their_numbers(app):
    assert "user_script:3" in app.ask("EVAL", LOCKING + "\nerror('mine')", 0).json["error"]


UNTOUCHED = [
    "return 1",
    "#!lua\nreturn 1",
    "#!lua flags=no-writes\nreturn 1",
    "#!lua flags=allow-keys-locking\nreturn 1",
    " #!lua flags=allow-key-locking\nreturn 1",
    "-- #!lua flags=allow-key-locking\nreturn 1",
    "#!lua flags=allow-key-locking",
    "#!js flags=allow-key-locking\nreturn 1",
    "return '#!lua flags=allow-key-locking\\n'",
]


@pytest.mark.parametrize("script", UNTOUCHED)
def test_every_other_script_is_the_servers_to_judge(app, script):
    sent = [b"EVAL", script.encode(), b"0"]
    assert Scripts().translate(sent) == sent
    with app.pool.connection() as connection:
        connection.send_command("EVAL", script, 0)
        try:
            expected = 200, connection.read_response()
        except Exception as error:
            expected = 400, str(error).removeprefix("ERR ")
    answer = app.ask("EVAL", script, 0)
    found = answer.json.get("result", answer.json.get("error", "").removeprefix("ERR "))
    told = expected[1].decode() if isinstance(expected[1], bytes) else expected[1]
    assert (answer.status_code, found) == (expected[0], told)


@pytest.mark.parametrize(
    "command",
    [
        [b"SET", b"k", (LOCKING + BODY).encode()],
        [b"EVAL"],
        [b"SCRIPT"],
        [b"SCRIPT", b"LOAD"],
        [b"SCRIPT", b"EXISTS"],
        [b"EVALSHA"],
        [b"FUNCTION", b"LOAD", LOCKING.encode()],
    ],
)
def test_what_is_no_script_is_sent_as_it_came(command):
    scripts = Scripts()
    scripts.translate([b"EVAL", (LOCKING + BODY).encode(), b"0"])
    assert scripts.translate(command) == command


def test_what_is_remembered_is_bounded():
    scripts = Scripts()
    for number in range(MOST + 10):
        scripts.translate([b"EVAL", f"{LOCKING}return {number}".encode(), b"0"])
    assert len(scripts._became) == 10
    last = f"{LOCKING}return {MOST + 9}"
    (_, found, _) = scripts.translate([b"EVALSHA", hash_of(last).encode(), b"0"])
    assert found == hash_of(f"\nreturn {MOST + 9}").encode()
