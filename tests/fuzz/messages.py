"""Every message a client can send, well-formed and absurd, and what else can be on the socket.

Addresses are of this machine only: the supervisor does try to reach them.
"""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

from poolmgr import wire

HEADER = struct.Struct(">I")

NASTY = (
    b"",
    b"\xc1",  # no msgpack
    b"\x91" * 2000,  # nested
    b"\x81\xa4type" * 2000,
    b"\xdd\xff\xff\xff\xff",  # announced to be long
    b"\x81\xa4type\xa1\x80",  # no UTF-8
    b"\x82\xa4type\xa5Query\xa4what\xa2\xc3\x28",
    b"\x82\xa4type\xa4Ping\xa5nonce\xcf" + b"\xff" * 8,
)
"""Bodies that have been trouble, or might be."""

counts = st.one_of(
    st.integers(-1, 20),
    st.sampled_from([-(2**63), -1, 0, 1, 2**31, 10_000_000, 10_000_001, 2**53, 2**63, 2**64 - 1]),
)
times = st.one_of(st.floats(), st.sampled_from([0.0, -1.0, 1e308]))
texts = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "\0", "x" * 1024, "x" * 1025, "[bold]", "\x1b[2J", "status"])
)


budgets = st.one_of(
    st.sampled_from(["1", "12", "auto", "reset", "0", "-1", "1e9", "12 "]),
    texts.filter(lambda text: not text.strip().isdigit()),
)
"""No number above 12, which whoever asks for it would get."""


def names(known: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Servers: those that there are, and those that there are not."""
    return st.one_of(st.sampled_from(known), texts) if known else texts


def endpoints(known: tuple[wire.Endpoint, ...]) -> st.SearchStrategy[wire.Endpoint]:
    hosts = st.sampled_from(["127.0.0.1", "::1", "", "\0", "x" * 300, "127.0.0.1\n"])
    paths = st.sampled_from(["/", "/nowhere", "x", "", "/" + "x" * 300, "/dev/null"])
    ports = st.one_of(st.sampled_from([0, 1, 65535, 65536, -1]), counts)
    keys = st.sampled_from(["tcp://127.0.0.1:1", "unix:///nowhere", "", "\n", "x" * 2000, *(e.key for e in known)])
    options: st.SearchStrategy[Any] = st.dictionaries(
        texts, st.one_of(texts, st.booleans(), st.integers(-5, 5)), max_size=2
    )
    absurd = st.builds(
        wire.Endpoint, key=keys, host=hosts, port=ports, path=paths, username=st.none() | texts,
        password=st.none() | texts, tls=st.none() | options,
    )  # fmt: skip
    return st.one_of(st.sampled_from(known), absurd) if known else absurd


def messages(tags: tuple[str, ...] = ("x",), known: tuple[wire.Endpoint, ...] = ()) -> st.SearchStrategy[wire.Message]:
    """Of every kind that a supervisor takes, and one that it does not.

    Args:
        tags: by which a client can register.
        known: endpoints of servers that there are.
    """
    servers = names(tuple(endpoint.key for endpoint in known))
    holds = st.builds(
        wire.Hold, server=servers, endpoints=st.lists(servers, max_size=2).map(tuple), stated=counts, open=counts
    )
    hellos = st.builds(
        wire.Hello, tag=st.one_of(st.sampled_from(tags), texts), link=counts,
        versions=st.one_of(st.just((wire.OLDEST, wire.VERSION)), st.tuples(counts, counts)),
        holds=st.lists(holds, max_size=3).map(tuple), endpoints=st.lists(endpoints(known), max_size=3).map(tuple),
        title=texts, budget=texts, descriptors=counts,
    )  # fmt: skip
    sane = st.builds(
        wire.Hello, tag=st.sampled_from(tags), link=st.integers(1, 9), endpoints=st.just(known), title=texts
    )
    reports = st.builds(
        wire.Report, server=servers, acked=counts, open=counts, in_use=counts, waiting=counts, peak=counts,
        spare=counts, ceiling=counts, timeout=times,
    )  # fmt: skip
    counters = st.builds(
        wire.Counters, checkouts=counts, waits=counts, wait_seconds=times,
        wait_buckets=st.lists(counts, max_size=20).map(tuple), timeouts=st.dictionaries(texts, counts, max_size=3),
        created=counts, closed=st.dictionaries(texts, counts, max_size=3), leaks=counts, connect_errors=counts,
    )  # fmt: skip
    stats = st.builds(
        wire.Stats, server=servers, pool=texts, counters=counters, idle=counts, in_use=counts, since=times
    )
    return st.one_of(
        sane,
        hellos,
        reports,
        st.builds(wire.Attach, endpoints(known)),
        st.builds(wire.Detach, servers),
        st.builds(wire.Lost, servers, st.lists(counts, max_size=4).map(tuple)),
        st.builds(wire.Trouble, servers, st.one_of(st.sampled_from(["refused", "unreachable", "auth"]), texts), texts),
        stats,
        st.builds(wire.Ping, counts),
        st.just(wire.Bye()),
        st.builds(wire.Query, st.one_of(st.sampled_from(["status", "limits"]), texts)),
        st.builds(wire.SetBudget, servers, budgets),
        st.just(wire.Pong()),
    )


def frames(valid: st.SearchStrategy[wire.Message]) -> st.SearchStrategy[bytes]:
    """Bytes for the socket: whole frames, cut ones, damaged ones, too long ones, and no frames at all."""
    whole = valid.map(wire.encode)
    cut = st.tuples(whole, st.integers(0, 200)).map(lambda of: of[0][: of[1]])
    damaged = st.tuples(whole, st.integers(0, 200), st.integers(1, 255)).map(lambda of: _flip(*of))
    body = st.binary(max_size=60).map(lambda data: HEADER.pack(len(data)) + data)
    header = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([wire.MAX_FRAME, wire.MAX_FRAME + 1])).map(
        HEADER.pack
    )
    nasty = st.sampled_from(NASTY).map(lambda body: HEADER.pack(len(body)) + body)
    return st.one_of(whole, whole, whole, whole, cut, damaged, body, header, nasty, st.binary(max_size=40))


def _flip(frame: bytes, at: int, by: int) -> bytes:
    at %= len(frame)
    return frame[:at] + bytes([frame[at] ^ by]) + frame[at + 1 :]
