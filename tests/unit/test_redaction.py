"""No output holds a secret, whatever its characters and wherever it was put, nor a character that a terminal obeys."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings as hypothesis_settings, strategies as st

from poolmgr import ConnectionPool, cli, settings
from poolmgr.errors import SettingsError
from poolmgr.gunicorn import checks
from poolmgr.logs import redaction, structured
from poolmgr.logs.redaction import hide, printable, redact, redact_field
from poolmgr.settings.parsers import conceal, mask_url
from poolmgr.settings.table import BY_NAME, VARIABLES
from tests.unit.test_logs import Terminal, lines, logger, request, unconfigured

__all__ = ["unconfigured"]

MARK = "s3cr3t"
"""What every secret has at both ends and in between, so that a part of it is found too."""

EXAMPLES = int(os.environ.get("POOLMGR_FUZZ_EXAMPLES", "20"))
"""Of what takes a tenth of a second each; ``make fuzz`` draws more."""


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    known = dict(redaction._known)
    redaction._known.clear()
    yield
    redaction._known.clear()
    redaction._known.update(known)


TOKEN_CHARACTERS = "".join(chr(number) for number in range(0x21, 0x7F))
odd = st.text(alphabet=TOKEN_CHARACTERS, max_size=6)


@st.composite
def secrets(draw: st.DrawFn) -> str:
    return f"{MARK}{draw(odd)}{MARK}{draw(odd)}{MARK}"


def everywhere(secret: str) -> list[str]:
    """Requests' targets that have the secret in them, by callers who mean well and others."""
    whole, plus = quote(secret, safe=""), quote_plus(secret)
    each = "".join(f"%{ord(character):02x}" for character in secret)
    return [
        f"/get/k?_token={secret}", f"/get/k?_token={whole}", f"/get/k?_token={plus}&EX=1", f"/?a=b&%5Ftoken={each}",
        f"/?_token={whole}&_token={secret}", f"/?_token=&_token={each}", f"/get/{whole}", f"/get/k/_token={secret}",
        f"/get/k&_token={secret}", f"/{each}", f"/get/k;_token={secret}", f"/get/{quote(whole)}?_token={quote(whole)}",
        f"http://h/get/k?_token={secret}#x", f"/?_TOKEN={secret}", f"/?%5f%74%6fken={whole}",
    ]  # fmt: skip


# ---- tokens --------------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(secret=secrets(), log_format=st.sampled_from(["json", "console"]))
@example(secret='s3cr3t;s3cr3t"s3cr3t#s3cr3t', log_format="json")
@example(secret="s3cr3t&s3cr3t%41s3cr3t+s3cr3t", log_format="console")
@example(secret="s3cr3t\\s3cr3t'\"s3cr3t", log_format="json")
def test_a_token_is_in_no_access_line(monkeypatch: Any, secret: str, log_format: str) -> None:
    monkeypatch.setenv("WORKER_TOKEN", secret)
    monkeypatch.setenv("POOLMGR_LOG_FORMAT", log_format)
    redaction._known.clear()
    own = '%(r)s %(q)s %(f)s %(U)s %({raw_uri}e)s %({http_referer}e)s %({referer}i)s %({authorization}i)s "%(a)s"'
    for options in ({}, {"access_log_format": own}):
        made, _, out = logger(**options)
        for target in everywhere(secret):
            referer = f"http://h{target}" if target.startswith("/") else target
            request(made, target, HTTP_REFERER=referer, HTTP_USER_AGENT=f"curl {target}")
            made.info("refused %s", target)
            made.info("with the header Authorization: Bearer %s", secret)
        assert MARK not in out.getvalue(), out.getvalue()
        if log_format == "json":
            assert all(line["level"] for line in lines(out)), "it is still JSON"


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(secret=secrets())
def test_a_token_of_which_the_process_knows_nothing_is_hidden_where_a_token_stands(secret: str) -> None:
    """The made one's, before it is read; a wrong one, which may be another service's."""
    redaction._known.clear()
    out = io.StringIO()
    structured.configure(settings.load({}), out)
    log = logging.getLogger("an.application")
    secret = secret.replace("&", "+")
    log.info("request", extra={"path": f"/get/k?_token={secret}&EX=5", "referer": f"http://h/?_token={secret}"})
    log.info("Authorization: Bearer %s", secret)
    assert MARK not in out.getvalue(), out.getvalue()
    assert "&EX=5" in out.getvalue()


def test_what_is_no_token_is_left_alone() -> None:
    hide("correct-horse-battery", "short")
    for text in ("/get/k?EX=60", "/get/my_token", "a short word", "100% of 5=5", "/get/%41%zz", "x=1&y=2"):
        assert redact(text) == redact_field(text) == text


def test_a_line_without_secrets_stays_json_and_a_known_one_is_found_in_a_traceback() -> None:
    hide('correct"horse\\battery')
    out = io.StringIO()
    structured.configure(settings.load({}), out)
    try:
        raise ValueError('it is correct"horse\\battery')
    except ValueError:
        logging.getLogger("x").exception(
            "failed", extra={"a": "redis://h:1", "b": "x@y", "c": ['correct"horse\\battery']}
        )
    (line,) = lines(out)
    assert line["a"] == "redis://h:1" and line["b"] == "x@y" and line["c"] == ["***"]
    assert "ValueError: it is ***" in line["exception"]


PIECES = [
    *("%", "%g", "%25", "%41", "+", "://", "://:", ":", "@", "/", "a", "=", "_token=", "&", "authorization", "Bearer "),
    *("Basic ", " ", "'", '"', "\\", "\x80", "\n", ".", "-", "?", "\u00e9", "correct-horse-batter"),
]

many = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)


@hypothesis_settings(max_examples=5 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(begin=many, piece=many)
@example(begin="", piece="%")
@example(begin="", piece="%g")
@example(begin="", piece="://:")
@example(begin="://", piece=":")
@example(begin="://", piece=":@:")
def test_the_time_grows_as_the_text_does(begin: str, piece: str) -> None:
    """Anybody may have 800 kB of a head written, and nothing else runs in the process meanwhile."""
    hide("correct-horse-battery")
    text = begin + piece * (16_000 // len(piece)) + begin
    for clean in (redact, redact_field, lambda shown: printable(shown, line=True)):
        began = time.thread_time()
        clean(text)
        assert time.thread_time() - began < 1


@pytest.mark.parametrize(
    ("text", "field", "line"),
    [
        ("redis://u:pw@h", "redis://u:***@h", "redis://u:***@h"),
        ("redis://:p:w@x@h/0 and ://a:b@c", "redis://:***@h/0 and ://a:***@c", "redis://:***@h/0 and ://a:***@c"),
        ("http://a:b@ x://c:d@h", "http://a:b@ x://c:***@h", "http://a:b@ x://c:***@h"),
        ("://a:b://c:d@h@@", "://a:***@h@@", "://a:***@h@@"),
        ("://a:b'c@h", "://a:***@h", "://a:b'c@h"),
        ("://a/b:c@d", "://a/b:c@d", "://a/b:c@d"),
    ],
)
def test_a_user_part_ends_where_its_host_begins(text: str, field: str, line: str) -> None:
    assert (redact_field(text), redact(text)) == (field, line)


# ---- settings ------------------------------------------------------------------------------------------


SHAPES = [
    "redis://:{}@h", "redis://u:{}@h:6379/0", "redis://:{}@h/x", "rediss://u:{}@h:port/0",
    "unix:///p?password={}", "redis://h/0?password={}", "redis://h?db=1&p%61ssword={}", "unix://u:{}@/p",
    "redis:/u:{}@h",
    "redis:{}@h", "u:{}@h", ":{}@h", "http://u:{}@h", "redis://:{}@h=5", "redis://:{}@h=", "a=1,redis://:{}@h",
    "redis://u:{}@h=x,b=2", "redis://u:1@a=1,redis://u:{}@b=1,redis://u:{}@b=2",
    "u:{}@h redis://x", ":{}@h,redis://x", " redis://u:{}@h",
]  # fmt: skip
AMBIGUOUS = {"redis://h:{}": "@", "redis://h:{}/0": "@", "redis://h:1/{}": "@", "redis://{}@h": ":"}
"""With this character in it, a part of the secret would be a host's or a user's name."""


@st.composite
def settings_with_secrets(draw: st.DrawFn) -> dict[str, str]:
    secret = f"{MARK}{draw(odd)}{MARK}"
    names = draw(st.lists(st.sampled_from(VARIABLES), min_size=1, max_size=4, unique_by=lambda variable: variable.name))
    found = {}
    for variable in names:
        shapes = ["{}", "{} {}"] if variable.secret == "whole" else [*SHAPES, *AMBIGUOUS]
        shape = draw(st.sampled_from(shapes))
        found[variable.name] = shape.replace("{}", secret.replace(AMBIGUOUS.get(shape, " "), ""))
    return found


def telling(test: Any) -> Any:
    """The settings that were shown once."""
    for environ in (
        {"REDIS_CONNECTION_BUDGETS": "redis://:s3cr3t@h"},
        {"REDIS_URL": "redis://:s3cr3t/s3cr3t@s3cr3t@h"},
        {"REDIS_URL": "redis://h/0?password=s3cr3t&s3cr3t#s3cr3t"},
        {"REDIS_URL": "unix://u:s3cr3t/s3cr3t@/p"},
        {"WORKER_CLASS": "redis://:s3cr3t@h"},
        {"REDIS_CONNECTION_BUDGET": "unix:///p?password=s3cr3t,@s3cr3t"},
        {"REDIS_URL": "//u:s3cr3t@h/0?a=unix://b"},
        {"REDIS_URL": ":s3cr3t@h,redis://x"},
        {"REDIS_CONNECTION_BUDGET": "u:s3cr3t@h redis://x"},
    ):
        test = example(environ=environ)(test)
    return test


def use(monkeypatch: Any, environ: dict[str, str]) -> None:
    for name in BY_NAME:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    redaction._known.clear()


def assert_hidden(shown: list[str]) -> None:
    for text in shown:
        assert MARK not in "".join(text.split()), text


@telling
@hypothesis_settings(max_examples=10 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(environ=settings_with_secrets())
def test_a_secret_in_any_setting_is_in_no_error_and_no_line(monkeypatch: Any, environ: dict[str, str]) -> None:
    """Also where none belongs: somebody has put the URL into the wrong variable."""
    use(monkeypatch, environ)
    shown = [json.dumps([msgspec.to_builtins(row) for row in settings.describe()])]
    out = io.StringIO()
    try:
        loaded = settings.load()
    except SettingsError as error:
        shown.append(str(error))
        loaded = settings.load({})
    structured.configure(loaded, out)
    shown.append(repr(loaded) + repr(loaded.__rich_repr__()))
    logging.getLogger("poolmgr").warning("a.b", extra={"error": shown[0], "settings": loaded})
    shown.append(out.getvalue())
    with pytest.raises(checks.StartError) as caught:
        checks.check_worker_class(environ.get("WORKER_CLASS", "redis://:s3cr3t@h"))
    shown.append(str(caught.value))
    if loaded.redis_url:
        try:
            pool = ConnectionPool.from_url(loaded.redis_url)
            shown += [repr(pool), repr(pool.stats())]
        except ValueError as error:
            shown.append(f"REDIS_URL is {mask_url(loaded.redis_url)}: {type(error).__name__}")
    assert_hidden(shown)


@telling
@hypothesis_settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(environ=settings_with_secrets())
def test_a_secret_in_any_setting_is_in_no_output(capsys: Any, monkeypatch: Any, environ: dict[str, str]) -> None:
    use(monkeypatch, environ)
    for words in (
        ["config"],
        ["config", "--json"],
        ["status"],
        ["limits"],
        ["budget", environ.get("REDIS_URL", "h"), "x"],
    ):
        monkeypatch.setattr(sys, "argv", ["poolmgr", *words])
        monkeypatch.setenv("POOLMGR_SOCKET", environ.get("POOLMGR_SOCKET", "/tmp/there-is-none-of-this-name"))
        with pytest.raises(SystemExit):
            cli.main()
    assert_hidden(list(capsys.readouterr()))


def test_a_url_that_is_fine_is_shown_whole_but_for_its_password() -> None:
    assert mask_url("redis://u:pw@h:6379/0?db=1&timeout=3") == "redis://u:***@h:6379/0?db=1&timeout=3"
    assert mask_url("redis://h:6379/0") == "redis://h:6379/0"
    assert mask_url("unix:///a:b/c.sock?db=2") == "unix:///a:b/c.sock?db=2"
    assert conceal("cache:6379=200,queue:6379=x") == "cache:6379=200,queue:6379=x"
    assert conceal("127.0.0.1:http") == "127.0.0.1:http"


# ---- terminals -----------------------------------------------------------------------------------------


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.\r\x08\x7f"
OBEYED = [character for character in HOSTILE if not (character.isascii() and character.isprintable())]


@given(st.text())
def test_what_is_printable_has_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = printable(text, line=True)
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E for c in shown)
    shown.encode()
    assert printable(shown, line=True) == shown
    if text.isprintable() and text.isascii():
        assert shown == text


def test_a_console_log_shows_no_terminal_anything() -> None:
    terminal = Terminal()
    structured.configure(settings.load({"POOLMGR_LOG_FORMAT": "console"}), terminal)
    own = logging.getLogger("poolmgr")
    own.warning("outage.began", extra={"error": HOSTILE + "\nfaked.line", HOSTILE: "x", "of": [HOSTILE], "to": object})
    own.warning("%s", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        own.exception("failed")
    without_colours = terminal.getvalue()
    for colour in ("\x1b[0m", "\x1b[1m", "\x1b[2m", *(f"\x1b[{number}m" for number in range(30, 38))):
        without_colours = without_colours.replace(colour, "")
    assert not [c for c in OBEYED if c in without_colours], repr(without_colours)
    assert "\nfaked.line" not in without_colours


def test_a_line_of_json_has_none_either() -> None:
    out = io.StringIO()
    structured.configure(settings.load({}), out)
    logging.getLogger("poolmgr").warning("outage.began", extra={"error": HOSTILE})
    assert not [c for c in OBEYED if c in out.getvalue()]
    assert json.loads(out.getvalue())["error"] == HOSTILE, "and yet it is all there"


def test_an_error_that_ends_a_start_has_none(monkeypatch: Any) -> None:
    from poolmgr.gunicorn import hooks, master_link

    def fail(*_: Any) -> None:
        raise checks.StartError(f"the server says {HOSTILE}")

    monkeypatch.setattr(checks, "check_worker_class", fail)
    monkeypatch.setattr(master_link, "leave", lambda _: None)
    with pytest.raises(SystemExit) as caught:
        hooks.on_starting(SimpleNamespace(cfg=None))
    assert not [c for c in OBEYED if c in str(caught.value)]
