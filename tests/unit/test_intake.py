"""When a request is whole: exactly when gunicorn's parser, which reads it afterwards, would ask for no more."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser
from gunicorn.http.errors import NoMoreData
from hypothesis import given, settings, strategies as st

from poolmgr.gunicorn.intake import Intake, Limits

CONFIG = Config()
CONFIG.set("limit_request_line", 120)
CONFIG.set("limit_request_fields", 6)
CONFIG.set("limit_request_field_size", 60)
LIMITS = Limits(line=120, head=6 * 62 + 4, body=50)


class _Asked(Exception):
    """The parser wants more than it was given."""


def read(pieces: list[bytes]) -> tuple[str, Any]:
    """What gunicorn makes of it: the request, its refusal, or that it asks for more."""

    def given_then_asked() -> Any:
        yield from (piece for piece in pieces if piece)
        raise _Asked

    try:
        parser = RequestParser(CONFIG, given_then_asked(), ("127.0.0.1", 1))
        request = next(parser)
        too_long = request.body.read(LIMITS.body + 1)
        if len(too_long) > LIMITS.body:
            return "longer", None
        return "request", (request.method, request.uri, request.headers, too_long)
    except _Asked:
        return "asks", None
    except (NoMoreData, StopIteration) as error:
        return "asks", error
    except Exception as error:
        return "refused", type(error)


def fed(parts: list[bytes]) -> tuple[Intake, int]:
    """After how many bytes it was whole; -1: never."""
    intake = Intake(LIMITS)
    count = 0
    for part in parts:
        count += len(part)
        if intake.feed(part):
            return intake, count
    return intake, -1


HEAD = b"POST /set/k HTTP/1.1\r\nHost: x\r\n"
WHOLE = {
    "no body": b"GET /healthz?x HTTP/1.1\r\nHost: x\r\n\r\n",
    "no field at all": b"GET / HTTP/1.1\r\n\r\n",
    "an empty line before": b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a body": HEAD + b"Content-Length: 5\r\n\r\nab\n\r\n",
    "an empty body": HEAD + b"content-length:0\r\n\r\n",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\n\r\n\r\n0\r\n\r\n",
    "trailers": HEAD + b"Transfer-Encoding:  Chunked \r\n\r\n1\r\na\r\n0\r\nX: y\r\nZ: 1\r\n\r\n",
}


@pytest.mark.parametrize("what", WHOLE)
def test_a_request_is_whole_at_its_last_byte_however_it_is_cut(what: str) -> None:
    data = WHOLE[what]
    for parts in (
        [data],
        [data[i : i + 1] for i in range(len(data))],
        *([data[:i], data[i:]] for i in range(1, len(data))),
    ):
        intake, count = fed(parts)
        assert count == len(data), parts
        assert not intake.excessive
        assert b"".join(intake.pieces) == data
        assert read(list(intake.pieces)) == read([data])
        assert read([data])[0] == "request"


@pytest.mark.parametrize("what", WHOLE)
def test_what_comes_after_a_request_is_kept(what: str) -> None:
    for rest in (b"G", b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n"):
        intake, _ = fed([WHOLE[what] + rest])
        assert b"".join(intake.pieces) == WHOLE[what] + rest


TOO_MUCH = {
    "a long line": b"GET /" + b"a" * 130,
    "a long line with an end": b"GET /" + b"a" * 130 + b" HTTP/1.1\r\n",
    "a long head": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100,
    "a bare line feed": b"GET / HTTP/1.1\nHost: x\n",
    "a bare line feed in a field": b"GET / HTTP/1.1\r\nHost: x\n",
    "a long body": HEAD + b"Content-Length: 51\r\n\r\n",
    "a length beyond all": HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
    "a length that is none": HEAD + b"Content-Length: -1\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
    "a length and a coding": HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "another coding": HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    "a chunk that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk without its end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
    "a long first line of a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200,
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_of_too_much_or_wrong_no_more_is_waited_for_and_its_connection_ends(what: str) -> None:
    data = TOO_MUCH[what]
    for parts in ([data], [data[i : i + 1] for i in range(len(data))]):
        intake, count = fed(parts)
        assert count > 0 and intake.excessive, parts
        assert b"".join(intake.pieces) == data[:count]


def test_it_says_that_its_caller_waits_for_a_word_and_what_it_is_aimed_at() -> None:
    intake, count = fed([HEAD + b"Expect: 100-Continue\r\nContent-Length: 5\r\n\r\n"])
    assert count == -1 and intake.expects and intake.target == b"/set/k"


LINES = st.sampled_from(
    [b"Host: x", b"A: b", b"Content-Length: 3", b"Content-Length: 60", b"content-length : 3", b"Content-Length: 0x3",
     b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Expect: 100-continue", b" folded", b"", b":"]
)  # fmt: skip
BODIES = st.sampled_from(
    [b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"3;e\r\nabc\r\n0\r\nT: u\r\n\r\n", b"0\r\n\r\n", b"3\nabc"]
)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    line = draw(
        st.sampled_from([b"GET / HTTP/1.1", b"POST /a HTTP/1.0", b"GET /", b"", b"GET /" + b"x" * 130 + b" HTTP/1.1"])
    )
    lines = [line, *draw(st.lists(LINES, max_size=5)), b""]
    data = draw(st.sampled_from([b"", b"", b"\r\n", b"\n"])) + b"".join(one + draw(ENDS) for one in lines)
    return data + draw(BODIES) + draw(st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n"]))


@settings(max_examples=1500, deadline=None)
@given(data=requests(), cuts=st.lists(st.integers(0, 400), max_size=4))
def test_the_parser_never_asks_for_more_than_a_whole_request_and_gets_no_less(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    intake, count = fed([data[a:b] for a, b in itertools.pairwise(places)])
    if count < 0:
        assert read([data])[0] in ("asks", "refused"), "gunicorn has a request, and a caller would wait for ever"
    elif not intake.excessive:
        assert read(list(intake.pieces))[0] != "asks"
        assert read(list(intake.pieces)) == read([data])
