"""Log lines: fields are kept, each line comes once, and no secret passes."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from gunicorn.config import Config
from hypothesis import given, strategies as st

from poolmgr.gunicorn.logger import GunicornLogger
from poolmgr.logs import structured
from poolmgr.logs.redaction import redact
from poolmgr.settings import load


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Logging and structlog as they were."""
    names = ("", "gunicorn.error", "gunicorn.access")
    kept = {name: (list(logging.getLogger(name).handlers), logging.getLogger(name).level) for name in names}
    yield
    for name, (handlers, level) in kept.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# ---- rendering -------------------------------------------------------------------------------


def test_a_library_event_becomes_one_json_object_with_its_fields():
    out = io.StringIO()
    structured.configure(load({}), out)
    logging.getLogger("poolmgr.member").info("member.joined", extra={"member": 7, "server": "tcp://h:1"})
    (line,) = lines(out)
    assert line["event"] == "member.joined"
    assert line["level"] == "info"
    assert line["logger"] == "poolmgr.member"
    assert (line["member"], line["server"]) == (7, "tcp://h:1")
    assert line["timestamp"].endswith("Z")
    assert isinstance(line["pid"], int)


def test_structlogs_own_loggers_look_the_same():
    out = io.StringIO()
    structured.configure(load({}), out)
    structlog.get_logger("poolmgr.x").warning("budget.changed", name="a", msg="b", budget=3)
    (line,) = lines(out)
    assert (line["event"], line["level"], line["logger"], line["budget"]) == (
        "budget.changed",
        "warning",
        "poolmgr.x",
        3,
    )
    assert (line["name"], line["msg"]) == ("a", "b"), "names that a log record has itself"


def test_a_terminal_gets_text_and_everything_else_json():
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        structured.configure(load({}), stream)
        logging.getLogger("poolmgr").info("outage.began", extra={"server": "s"})
    assert "outage.began" in terminal.getvalue()
    assert "server" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert lines(pipe)[0]["event"] == "outage.began"


def test_on_a_terminal_fields_stand_in_the_order_they_were_given():
    stream = Terminal()
    structured.configure(load({}), stream)
    logging.getLogger("x").info("request", extra={"method": "GET", "path": "/p", "bytes": 1})
    text = stream.getvalue()
    assert text.index("method") < text.index("path") < text.index("bytes")


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_the_format_can_be_chosen(log_format):
    out = Terminal()
    structured.configure(load({"POOLMGR_LOG_FORMAT": log_format}), out)
    logging.getLogger("poolmgr").info("a.b")
    assert out.getvalue().startswith("{") == (log_format == "json")


def test_no_colours_where_they_are_not_wanted(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    structured.configure(load({}), out)
    logging.getLogger("poolmgr").info("a.b", extra={"x": 1})
    assert "\x1b" not in out.getvalue()


def test_configured_twice_each_line_comes_once():
    out = io.StringIO()
    structured.configure(load({}), out)
    structured.configure(load({}), out)
    logging.getLogger("poolmgr").info("a.b")
    assert len(lines(out)) == 1


def test_the_level_holds_and_others_handlers_stay():
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    out = io.StringIO()
    structured.configure(load({"POOLMGR_LOG_LEVEL": "warning"}), out)
    logging.getLogger("poolmgr").info("a.b")
    logging.getLogger("poolmgr").warning("c.d")
    assert [line["event"] for line in lines(out)] == ["c.d"]
    assert other in logging.getLogger().handlers


def test_what_cannot_be_encoded_is_still_written():
    out = io.StringIO()
    structured.configure(load({}), out)
    logging.getLogger("poolmgr").info("a.b", extra={"o": object, "s": "\ud800", "n": float("nan"), "b": b"\xff"})
    (line,) = lines(out)
    assert line["event"] == "a.b"


# ---- secrets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_secret_passes_whoever_logs_it(log_format):
    out = io.StringIO()
    structured.configure(load({"POOLMGR_LOG_FORMAT": log_format}), out)
    log = logging.getLogger("an.application")
    log.info("connecting to %s", "redis://user:hunter2@h:1/0")
    log.info("x", extra={"url": "rediss://:hunter2@h", "header": "Authorization: Bearer hunter2"})
    log.info("it sent Bearer hunter2-hunter2, and authorization=hunter2")
    log.info("GET /get/key?_token=hunter2&x=1 and /a?b=c&%5FTOKEN=hunter2")
    try:
        raise ValueError("redis://user:hunter2@h")
    except ValueError:
        log.exception("failed")
    structlog.get_logger().info("y", url="redis://u:hunter2@h")
    text = out.getvalue()
    assert "hunter2" not in text
    assert text.count("***") >= 7
    assert "ValueError: redis://user:***@h" in text
    assert "x=1" in text


@given(
    st.text(
        alphabet=st.characters(exclude_characters="/@ \t\r\n\"'<>", exclude_categories=["Cs", "Z", "C"]), min_size=1
    )
)
def test_any_password_in_a_url_is_hidden(password):
    assert redact(f"cannot reach redis://u:{password}@h:1/0 now") == "cannot reach redis://u:***@h:1/0 now"


@pytest.mark.parametrize(
    "text",
    [
        "redis://h:6379/0",
        "unix:///a/b.sock",
        "key?x=1&y=2",
        "tcp://[::1]:6379",
        "12:30 a@b.c",
        "Basic auth is off",
        "http://h/a:b",
    ],
)
def test_what_is_no_secret_is_left_alone(text):
    assert redact(text) == text


# ---- gunicorn --------------------------------------------------------------------------------


def logger(**settings: Any) -> tuple[GunicornLogger, Config, io.StringIO]:
    """gunicorn's logger with both logs in one stream."""
    cfg = Config()
    for name, value in {"accesslog": "-", **settings}.items():
        cfg.set(name, value)
    out = io.StringIO()
    made = GunicornLogger(cfg)
    redirect(made, out)
    return made, cfg, out


def redirect(made: GunicornLogger, out: io.StringIO) -> None:
    for log in (made.error_log, made.access_log):
        for handler in log.handlers:
            if getattr(handler, "_gunicorn", False) and not isinstance(handler, logging.FileHandler):
                assert isinstance(handler, logging.StreamHandler)
                handler.setStream(out)


def request(made: GunicornLogger, uri: str, **environ: Any) -> None:
    full = {
        "REQUEST_METHOD": "GET",
        "RAW_URI": uri,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "QUERY_STRING": uri.partition("?")[2],
        "PATH_INFO": uri.partition("?")[0],
        "REMOTE_ADDR": "127.0.0.1",
        **environ,
    }
    response = SimpleNamespace(status="200 OK", sent=12, headers=[])
    made.access(response, SimpleNamespace(headers=[]), full, timedelta(milliseconds=3))


def test_an_access_line_is_one_event_with_fields():
    made, _, out = logger()
    request(made, "/get/k?x=1", HTTP_USER_AGENT="curl", **{"poolmgr.waited": 0.0015})
    (line,) = lines(out)
    assert (line["event"], line["logger"]) == ("request", "gunicorn.access")
    assert (line["method"], line["path"], line["status"], line["bytes"], line["ms"]) == (
        "GET",
        "/get/k?x=1",
        200,
        12,
        3.0,
    )
    assert (line["remote"], line["agent"], line["waited_ms"]) == ("127.0.0.1", "curl", 1.5)


def test_the_token_in_a_query_is_not_logged():
    made, _, out = logger()
    for uri in ("/?_token=hunter2", "/a?b=c&_token=hunter2&d=e", "/?%5ftoken=hunter2", "/?_TOKEN=hunter2"):
        request(made, uri)
    assert "hunter2" not in out.getvalue()
    assert '"/a?b=c&_token=***&d=e"' in out.getvalue()


def test_a_format_of_the_users_own_is_kept_and_redacted():
    made, _, out = logger(access_log_format="%(r)s %(q)s %({authorization}i)s %(f)s %(s)s")
    request(made, "/?_token=hunter2", HTTP_REFERER="http://h/?_token=hunter2")
    (line,) = lines(out)
    assert line["event"] == "GET /?_token=*** HTTP/1.1 _token=*** - http://h/?_token=*** 200"


def test_what_a_log_configuration_of_the_users_own_gets_holds_no_secret():
    made, cfg, _ = logger()
    environ = {
        "REQUEST_METHOD": "GET",
        "RAW_URI": "/?_token=hunter2",
        "QUERY_STRING": "_token=hunter2",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_REFERER": "http://h/?_token=hunter2",
        "HTTP_AUTHORIZATION": "Bearer hunter2",
    }
    headers = [("AUTHORIZATION", "Bearer hunter2"), ("COOKIE", "session=hunter2")]
    response = SimpleNamespace(status="200 OK", sent=1, headers=[])
    found = made.atoms(response, SimpleNamespace(headers=headers), environ, timedelta())
    for name in cfg.access_log_format.split("%(")[1:]:
        assert "hunter2" not in str(found[name.partition(")")[0]])
    for name in ("q", "{authorization}i", "{cookie}i", "{http_authorization}e"):
        assert "hunter2" not in found[name]


def test_a_caller_cannot_send_control_characters_to_the_terminal():
    made, _, out = logger()
    request(made, "/\x1b[2J", HTTP_USER_AGENT="\x1b]0;x\x07")
    assert "\x1b" not in json.loads(out.getvalue())["path"] + json.loads(out.getvalue())["agent"]


def test_after_a_reload_each_line_still_comes_once():
    made, cfg, out = logger()
    for _ in range(3):
        made.setup(cfg)
    redirect(made, out)
    made.info("Booting worker with pid: %s", 12)
    request(made, "/")
    logging.getLogger("an.application").warning("hello")
    assert [line["event"] for line in lines(out)] == ["Booting worker with pid: 12", "request", "hello"]


def test_a_wrong_format_in_the_environment_does_not_stop_a_reload(monkeypatch):
    made, cfg, _ = logger()
    monkeypatch.setenv("POOLMGR_LOG_FORMAT", "xml")
    monkeypatch.setenv("POOLMGR_LOG_LEVEL", "loud")
    made.setup(cfg)
    assert made.error_log.level == logging.INFO


def test_the_level_is_gunicorns_if_given_and_else_ours(monkeypatch):
    monkeypatch.setenv("POOLMGR_LOG_LEVEL", "debug")
    assert logger()[0].error_log.level == logging.DEBUG
    assert logger(loglevel="error")[0].error_log.level == logging.ERROR


def test_no_access_log_where_it_is_switched_off():
    made, _, out = logger(accesslog=None)
    request(made, "/")
    assert out.getvalue() == ""


def test_log_files_are_gunicorns_own(tmp_path):
    made, _, _ = logger(errorlog=str(tmp_path / "error"), accesslog=str(tmp_path / "access"))
    made.info("up")
    request(made, "/")
    logging.getLogger("an.application").warning("hello")
    assert [json.loads(line)["event"] for line in (tmp_path / "error").read_text().splitlines()] == ["up", "hello"]
    (tmp_path / "error").rename(tmp_path / "error.1")
    made.reopen_files()
    made.info("again")
    assert json.loads((tmp_path / "error").read_text())["event"] == "again"
    for log in (made.error_log, made.access_log):
        for handler in log.handlers:
            handler.close()
