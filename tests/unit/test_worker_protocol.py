"""The worker's HTTP shapes: what becomes of a body, a path, a reply."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, strategies as st
from redis.exceptions import NoScriptError, ResponseError

from worker.errors import Problem
from worker.protocol import (
    as_base64,
    as_text,
    command_of,
    command_of_path,
    commands_of,
    encoder_for,
    item,
    to_json,
)


@pytest.mark.parametrize(
    ("body", "command"),
    [
        (b'["SET", "k", "v"]', [b"SET", b"k", b"v"]),
        (b'["SET", "k", "\xc3\xa9"]', [b"SET", b"k", "é".encode()]),
        (b'["SET", "k", 1]', [b"SET", b"k", b"1"]),
        (b'["SET", "k", 1.0]', [b"SET", b"k", b"1.0"]),
        (b'["SET", "k", 1e5]', [b"SET", b"k", b"1e5"]),
        (b'["SET", "k", 18446744073709551617]', [b"SET", b"k", b"18446744073709551617"]),
        (b'["SET", "k", true]', [b"SET", b"k", b"true"]),
        (b'["SET", "k", ""]', [b"SET", b"k", b""]),
        (b'["SET", "k", "a\\u0000b"]', [b"SET", b"k", b"a\0b"]),
    ],
)
def test_a_json_array_is_a_command_and_numbers_stay_as_written(body, command):
    assert command_of(body) == command


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the body is empty"),
        (b"SET k v", "not JSON"),
        (b'{"SET": 1}', "must be a JSON array"),
        (b'"PING"', "must be a JSON array"),
        (b"[]", "empty command"),
        (b'["SET", "k", null]', "is null"),
        (b'["SET", "k", {}]', "is an object"),
        (b'["SET", "k", ["v"]]', "is an array"),
        (b'["SET", "k", NaN]', "NaN is not JSON"),
        (b'["SET", "k", "\xff"]', "not UTF-8"),
        (b'["SET", "k", "\\ud800"]', "surrogate"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["SET"', "not JSON"),
    ],
)
def test_anything_else_is_a_400_that_says_why(body, told):
    with pytest.raises(Problem, match=told) as caught:
        command_of(body)
    assert caught.value.status == 400


def test_many_commands_are_an_array_of_arrays_with_a_bound():
    assert commands_of(b'[["GET", "a"], ["GET", "b"]]', 2) == [[b"GET", b"a"], [b"GET", b"b"]]
    with pytest.raises(Problem, match="allowed are 1") as caught:
        commands_of(b'[["GET", "a"], ["GET", "b"]]', 1)
    assert caught.value.status == 413
    for wrong in (b"[]", b"{}", b'["GET", "a"]', b"[[]]"):
        with pytest.raises(Problem) as caught:
            commands_of(wrong, 10)
        assert caught.value.status == 400


@pytest.mark.parametrize(
    ("path", "query", "body", "command"),
    [
        ("/PING", "", b"", [b"PING"]),
        ("/set/key/value", "EX=60", b"", [b"set", b"key", b"value", b"EX", b"60"]),
        ("/set/key", "EX=60&NX", b"a body", [b"set", b"key", b"a body", b"EX", b"60", b"NX"]),
        ("/set/key", "", b"\xff\x00", [b"set", b"key", b"\xff\x00"]),
        ("/set/a%2Fb/c%20d+e", "", b"", [b"set", b"a/b", b"c d+e"]),
        ("/set/key/v", "_token=secret&EX=1", b"", [b"set", b"key", b"v", b"EX", b"1"]),
        ("/set/key/v", "%5Ftoken=secret", b"", [b"set", b"key", b"v"]),
        ("/set/key/", "", b"", [b"set", b"key", b""]),
        ("/set/%FF/v", "", b"", [b"set", b"\xff", b"v"]),
        ("/zrange/z/0/-1", "WITHSCORES=", b"", [b"zrange", b"z", b"0", b"-1", b"WITHSCORES"]),
        ("/eval/return%201", "a+b=c%26d", b"", [b"eval", b"return 1", b"a b", b"c&d"]),
    ],
)
def test_the_path_style(path, query, body, command):
    assert command_of_path(path, query, body) == command


@pytest.mark.parametrize("path", ["/", "", "//get/key"])
def test_a_path_without_a_command_is_a_400(path):
    with pytest.raises(Problem, match="no command") as caught:
        command_of_path(path, "", b"")
    assert caught.value.status == 400


def test_replies_keep_the_shapes_of_resp2():
    assert item(b"value", as_text) == {"result": "value"}
    assert item(None, as_text) == {"result": None}
    assert item(7, as_text) == {"result": 7}
    assert item([b"a", [1, None]], as_text) == {"result": ["a", [1, None]]}
    assert item([b"a", ResponseError("inner", status_code="ERR")], as_text) == {"result": ["a", "ERR inner"]}
    assert item(b"\xff", as_text) == {"result": "\N{REPLACEMENT CHARACTER}"}


def test_an_error_reply_has_the_servers_own_words():
    assert item(ResponseError("no such key", status_code="ERR"), as_text) == {"error": "ERR no such key"}
    assert item(NoScriptError("No matching script.", status_code="NOSCRIPT"), as_base64) == {
        "error": "NOSCRIPT No matching script."
    }
    assert item(ResponseError("WRONGTYPE Operation"), as_text) == {"error": "WRONGTYPE Operation"}


def test_base64_encodes_every_string_but_a_plain_ok():
    assert item([b"OK", b"PONG", b"\xff", 1, None], encoder_for("base64")) == {
        "result": ["OK", "UE9ORw==", "/w==", 1, None]
    }
    assert encoder_for("BASE64 ") is as_base64
    assert encoder_for("gzip") is as_text
    assert encoder_for(None) is as_text


@given(st.recursive(st.none() | st.integers(-(2**63), 2**63) | st.binary(), lambda inner: st.lists(inner, max_size=4)))
def test_every_reply_becomes_json_and_base64_gives_the_bytes_back(reply):
    json.loads(to_json(item(reply, as_text)))
    found = json.loads(to_json(item(reply, as_base64)))["result"]

    def same(left, right):
        if isinstance(left, bytes):
            return right == "OK" if left == b"OK" else base64.b64decode(right) == left
        if isinstance(left, list):
            return len(left) == len(right) and all(map(same, left, right))
        return bool(left == right)

    assert same(reply, found)


def refused(parse) -> int:
    try:
        parse()
    except Problem as problem:
        return problem.status
    return 0


@given(st.binary(max_size=200))
def test_no_body_does_anything_but_parse_or_be_refused(body):
    assert refused(lambda: command_of(body)) in (0, 400)
    assert refused(lambda: commands_of(body, 5)) in (0, 400, 413)


@given(st.text(max_size=60), st.text(max_size=60), st.binary(max_size=60))
def test_no_path_does_anything_but_parse_or_be_refused(path, query, body):
    assert refused(lambda: command_of_path(path, query, body)) in (0, 400)
