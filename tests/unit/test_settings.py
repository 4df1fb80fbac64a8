"""The environment: every variable, every way to get it wrong, and no secret in any message."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from poolmgr.exceptions import SettingsError
from poolmgr.settings import describe, load, misspelt, parsers, paths, table
from poolmgr.settings.parsers import mask_url
from poolmgr.settings.table import VARIABLES, Settings


def wrong(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_two_fields_have_one_variable():
    assert len({v.name for v in VARIABLES}) == len(VARIABLES)


@pytest.mark.parametrize("field", msgspec.structs.fields(Settings), ids=lambda field: field.name)
def test_a_parser_gives_the_type_that_is_declared(field):
    (variable,) = [v for v in VARIABLES if v.attribute == field.name]
    default = variable.default_value()
    texts = {variable.example, variable.show(default)} - {""}
    for value in (default, *map(variable.read, texts)):
        assert msgspec.convert(value, field.type) == value


@pytest.mark.parametrize(
    "url",
    [
        "REDIS://h",
        "redis:/0",
        "redis:0",
        "redis:",
        "unix:/x",
        "Unix:///x",
        "re\rdis://h",
        "redis://ho\tst",
        "redis://h/\x7f",
    ],
)
def test_a_url_that_redis_py_does_not_take_or_takes_for_another_stops_the_start(url: str):
    """urlsplit reads a scheme in any case, without slashes, and around tabs and line breaks (found by the fuzzer)."""
    message = wrong(REDIS_URL=url)
    assert message.startswith("REDIS_URL=")
    assert "redis://HOST:PORT/DB" in message
    assert message.isprintable()


def test_an_empty_environment_gives_the_documented_defaults():
    found = load({})
    assert found.redis_url is None
    assert found.budget == "auto"
    assert found.budgets == {}
    assert (found.pool_timeout, found.pool_order, found.socket_timeout, found.socket_connect_timeout) == (
        5,
        "fifo",
        5,
        2,
    )
    assert found.socket == f"/tmp/redis-poolmgr-{os.getuid()}/supervisor"
    assert found.autostart is True
    assert found.metrics is None
    assert (found.worker_class, found.worker_threads, found.worker_max_body) == ("gthread", 4, 1048576)


def test_a_variable_set_to_nothing_means_its_default():
    assert load(dict.fromkeys((v.name for v in VARIABLES), " ")) == load({})


@pytest.mark.parametrize(
    ("name", "text", "attribute", "value"),
    [
        ("REDIS_CONNECTION_BUDGET", "12", "budget", 12),
        ("REDIS_CONNECTION_BUDGET", "AUTO", "budget", "auto"),
        ("REDIS_CONNECTION_BUDGET", " 7 ", "budget", 7),
        ("REDIS_POOL_TIMEOUT", "0", "pool_timeout", 0.0),
        ("REDIS_POOL_TIMEOUT", "2.5", "pool_timeout", 2.5),
        ("REDIS_POOL_TIMEOUT", "1e-3", "pool_timeout", 0.001),
        ("REDIS_POOL_ORDER", "LIFO", "pool_order", "lifo"),
        ("POOLMGR_AUTOSTART", "no", "autostart", False),
        ("POOLMGR_LINGER", "2.5", "linger", 2.5),
        ("POOLMGR_LINGER", "Forever", "linger", math.inf),
        ("POOLMGR_METRICS", "off", "metrics", None),
        ("POOLMGR_METRICS", "[::1]:9108", "metrics", "[::1]:9108"),
        ("WORKER_MAX_BODY", "2M", "worker_max_body", 2 << 20),
        ("WORKER_MAX_BODY", "10 KiB", "worker_max_body", 10 << 10),
        ("WORKER_CLASS", "my.module:Worker", "worker_class", "my.module:Worker"),
        ("REDIS_URL", "rediss://u:p@h:1/2?x=y", "redis_url", "rediss://u:p@h:1/2?x=y"),
        ("REDIS_URL", "unix:///a/b.sock?db=1", "redis_url", "unix:///a/b.sock?db=1"),
    ],
)
def test_values_that_are_allowed(name, text, attribute, value):
    assert getattr(load({name: text}), attribute) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("REDIS_CONNECTION_BUDGET", "0"),
        ("REDIS_CONNECTION_BUDGET", "many"),
        ("REDIS_CONNECTION_BUDGET", "-1"),
        ("REDIS_CONNECTION_BUDGET", "1.5"),
        ("REDIS_CONNECTION_BUDGET", "1_000"),
        ("REDIS_CONNECTION_BUDGET", "9" * 30),
        ("REDIS_CONNECTION_BUDGETS", "cache:6379"),
        ("REDIS_CONNECTION_BUDGETS", "cache:6379=0"),
        ("REDIS_CONNECTION_BUDGETS", "cache:0=5"),
        ("REDIS_CONNECTION_BUDGETS", "a=5,a:6379=6"),
        ("REDIS_CONNECTION_RESERVE", "-1"),
        ("REDIS_CONNECTION_HOSTS", "0"),
        ("REDIS_POOL_MAX_CONNECTIONS", "0"),
        ("REDIS_POOL_TIMEOUT", "-1"),
        ("REDIS_POOL_TIMEOUT", "nan"),
        ("REDIS_POOL_TIMEOUT", "inf"),
        ("REDIS_POOL_TIMEOUT", "5s"),
        ("REDIS_POOL_TIMEOUT", "1.2.3"),
        ("REDIS_POOL_MIN_IDLE", "-1"),
        ("REDIS_POOL_MAX_WAITING", "x"),
        ("REDIS_POOL_IDLE_TIMEOUT", "-0.1"),
        ("REDIS_POOL_MAX_LIFETIME", """ "" """),
        ("REDIS_POOL_ORDER", "random"),
        ("REDIS_POOL_LEAK_AFTER", "-1"),
        ("REDIS_SOCKET_TIMEOUT", "0"),
        ("REDIS_SOCKET_CONNECT_TIMEOUT", "0"),
        ("POOLMGR_SOCKET", "relative/path"),
        ("POOLMGR_SOCKET", "/a/directory/"),
        ("POOLMGR_LINGER", "-1"),
        ("POOLMGR_LINGER", "inf"),
        ("POOLMGR_AUTOSTART", "maybe"),
        ("POOLMGR_METRICS", "9108"),
        ("POOLMGR_METRICS", "localhost:99999"),
        ("POOLMGR_LOG_LEVEL", "loud"),
        ("POOLMGR_LOG_FORMAT", "xml"),
        ("WORKER_CLASS", "two words"),
        ("WORKER_THREADS", "0"),
        ("WORKER_MAX_BODY", "1 elephant"),
        ("REDIS_URL", "http://h"),
        ("REDIS_URL", "redis://h:port"),
        ("REDIS_URL", "redis://h:0"),
        ("REDIS_URL", "redis://h/notanumber"),
        ("REDIS_URL", "unix://relative"),
        ("REDIS_URL", "unix://host/a.sock"),
        ("REDIS_URL", "unix://u:p/w@/a.sock"),
        ("REDIS_URL", "redis://[::1"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name, text):
    message = wrong(**{name: text})
    assert message.startswith(f"{name}={(mask_url(text) if name == 'REDIS_URL' else text.strip())!r}")
    assert "is not allowed" in message and f"; set it to {table.BY_NAME[name].allowed}, or unset it" in message


def test_a_socket_path_may_have_107_bytes_and_no_more():
    url = {"REDIS_URL": "redis://h"}
    assert load({**url, "POOLMGR_SOCKET": "/" + "x" * 106}).socket == "/" + "x" * 106
    assert "(it is 108 bytes long)" in wrong(**url, POOLMGR_SOCKET="/" + "x" * 107)
    assert "(it is 108 bytes long)" in wrong(**url, POOLMGR_SOCKET="/" + "é" * 53 + "x"), "bytes count, not characters"


def test_without_a_url_the_embedded_servers_socket_must_fit_too():
    assert load({"POOLMGR_SOCKET": "/" + "x" * 100}).redis_url is None
    assert "at most 101 bytes, or set REDIS_URL" in wrong(POOLMGR_SOCKET="/" + "x" * 101)


def test_min_idle_above_the_ceiling_is_refused():
    message = wrong(REDIS_POOL_MIN_IDLE="9", REDIS_POOL_MAX_CONNECTIONS="4")
    assert message == "REDIS_POOL_MIN_IDLE=9 exceeds REDIS_POOL_MAX_CONNECTIONS=4; set it to 4 or less, or unset it"


def test_budgets_are_kept_by_endpoint_and_go_before_the_general_one():
    found = load(
        {"REDIS_CONNECTION_BUDGET": "9", "REDIS_CONNECTION_BUDGETS": "cache=200, queue:6380=50,/r.sock=3,[::1]:7=2"}
    )
    assert found.budgets == {"tcp://cache:6379": 200, "tcp://queue:6380": 50, "unix:///r.sock": 3, "tcp://::1:7": 2}
    assert found.budget_of(["tcp://queue:6380"]) == 50
    assert found.budget_of(["tcp://elsewhere:1"]) == 9
    assert found.budget_of(["tcp://cache:6379", "unix:///r.sock"]) == 3, "one server by two names: the smaller holds"


SECRETS = [
    "redis://user:hunter2@h:1/0",
    "redis://:hunter2@h",
    "redis://u:p@ss/hunter2@h:70000",
    "http://user:hunter2@h",
    "redis://user:hunter2",
    "user:hunter2@h",
    "user:hunter2",
    "redis://h/0?password=hunter2",
    "redis://h/x?password=hunter2&a=b",
    "unix://:hunter2@/a.sock",
    "redis://[hunter2@h",
    "redis://u:hunter2]@h",
]


@pytest.mark.parametrize("url", SECRETS)
def test_no_password_is_shown_in_a_message_a_row_or_a_repr(url):
    environ = {"REDIS_URL": url, "WORKER_TOKEN": "hunter2", "WORKER_READONLY_TOKEN": "hunter2"}
    try:
        shown = repr(load(environ)) + str(load(environ).__rich_repr__())
    except SettingsError as error:
        shown = str(error)
    shown += repr(describe(environ))
    assert "hunter2" not in shown
    assert parsers.HIDDEN in shown


def test_a_wrong_token_is_not_shown():
    assert wrong(WORKER_TOKEN="hunter2 hunter2") == (
        "WORKER_TOKEN='***' is not allowed (it has spaces or other characters that a header cannot carry); "
        "set it to printable ASCII without spaces, or unset it"
    )


@given(st.text(), st.text(min_size=1))
def test_what_stands_before_the_last_at_sign_after_a_colon_is_never_shown(name, secret):
    secret = "s3cr3t" + secret.replace("@", "")
    assert "s3cr3t" not in mask_url(f"redis://{name.replace('@', '')}:{secret}@host:1/0")


def test_a_url_without_secrets_is_shown_as_it_is():
    for url in (
        "redis://h:1/0",
        "unix:///a/b:c.sock?db=2",
        "redis://[::1]:6379",
        "redis://localhost",
        "rediss://h:6379/0?a=b",
    ):
        assert mask_url(url) == url


def test_rows_say_where_a_value_came_from_and_report_all_errors():
    rows = {
        row.name: row for row in describe({"REDIS_POOL_TIMEOUT": "x", "REDIS_POOL_ORDER": "y", "WORKER_THREADS": "8"})
    }
    assert rows["REDIS_POOL_TIMEOUT"].error
    assert rows["REDIS_POOL_ORDER"].error
    assert (rows["WORKER_THREADS"].value, rows["WORKER_THREADS"].source) == ("8", "environment")
    assert (rows["REDIS_SOCKET_TIMEOUT"].value, rows["REDIS_SOCKET_TIMEOUT"].source) == ("5", "default")


@pytest.mark.parametrize(
    "name",
    ["a b", "a{b}", "{web}", "web\x07", "web\nx", "wéb", "-web", "*", "a" * 65, "a" * 100_000],
    ids=lambda name: ascii(name[:9]),
)
def test_a_fleets_name_is_a_short_word(name: str):
    """It is part of a key, between braces, which name a cluster's slot."""
    message = wrong(REDIS_FLEET=name)
    assert message.startswith("REDIS_FLEET=")
    assert "at most 64" in message
    assert message.isprintable()
    assert len(message) < 400
    assert load({"REDIS_FLEET": "a" * 64}).fleet == "a" * 64
    assert load({"REDIS_FLEET": "2web:eu-1.a+b_c"}).fleet == "2web:eu-1.a+b_c"


def test_a_fleets_budget_must_be_more_than_its_slack():
    message = wrong(REDIS_FLEET="web", REDIS_FLEET_BUDGET="2")
    assert message.startswith("REDIS_FLEET_BUDGET=2 leaves nothing beside the slack of 2; set it to 3 or more")
    assert "to 10 or more" in wrong(REDIS_FLEET="web", REDIS_FLEET_BUDGET="9", REDIS_FLEET_SLACK="9")
    assert load({"REDIS_FLEET": "web", "REDIS_FLEET_BUDGET": "2", "REDIS_FLEET_SLACK": "0"}).fleet_budget == 2
    assert load({"REDIS_FLEET_BUDGET": "2"}).fleet_budget == 2


def test_rows_report_a_contradiction_at_the_variable_that_has_it():
    rows = {row.name: row for row in describe({"REDIS_POOL_MIN_IDLE": "9", "REDIS_POOL_MAX_CONNECTIONS": "4"})}
    assert "4 or less" in rows["REDIS_POOL_MIN_IDLE"].error


def test_a_misspelt_name_is_noticed():
    environ = {"REDIS_POOL_TIMOUT": "3", "POOLMGR_SOCKET": "/a", "POOLMGR_STARTUP_FD": "3", "REDIS_HOST": "x"}
    assert misspelt(environ) == {"REDIS_POOL_TIMOUT": "REDIS_POOL_TIMEOUT"}
    assert describe(environ)[-1].source == "unknown"


# ---- the private directory -------------------------------------------------------------------


@pytest.fixture
def default_at(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default directory, moved into the test's own."""
    path = short_dir / "default"
    monkeypatch.setattr(paths, "default_directory", lambda: path)
    return path


def test_the_private_directory_is_made_for_this_user_only(default_at):
    settings = load({})
    assert settings.private_directory() == default_at
    assert stat.S_IMODE(default_at.stat().st_mode) == 0o700
    assert settings.private_directory() == default_at, "a second time"


def test_a_directory_open_to_others_is_refused(default_at):
    default_at.mkdir(mode=0o755)
    with pytest.raises(SettingsError, match="mode 0700; remove it, or set POOLMGR_SOCKET"):
        paths.private_directory()


def test_a_link_in_its_place_is_refused(default_at, short_dir):
    (short_dir / "elsewhere").mkdir(mode=0o700)
    default_at.symlink_to(short_dir / "elsewhere")
    with pytest.raises(SettingsError, match="is not a directory of ours"):
        paths.private_directory()


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_is_refused(default_at):
    default_at.mkdir(mode=0o700)
    os.chown(default_at, 12345, 12345)
    with pytest.raises(SettingsError, match="is not a directory of ours"):
        paths.private_directory()


def test_the_sockets_own_directory_is_used_if_it_is_private(default_at, short_dir):
    own = short_dir / "own"
    own.mkdir(mode=0o700)
    settings = load({"POOLMGR_SOCKET": str(own / "s")})
    assert settings.private_directory() == own
    own.chmod(0o755)
    assert settings.private_directory() == default_at


def test_a_token_for_reading_that_allows_everything_is_refused():
    with pytest.raises(SettingsError, match="WORKER_READONLY_TOKEN equals WORKER_TOKEN"):
        load({"WORKER_TOKEN": "one-and-the-same", "WORKER_READONLY_TOKEN": "one-and-the-same"})


def test_what_only_begins_like_ours_is_somebody_elses():
    theirs = (
        "REDIS_POOL_SIZE",
        "REDIS_POOL_MIN_SIZE",
        "REDIS_CONNECTION_STRING",
        "REDIS_CONNECTION_URL",
        "WORKER_COUNT",
    )
    assert misspelt(dict.fromkeys(theirs, "1")) == {}


def test_a_port_that_is_none_is_shown_unless_it_may_be_a_password():
    assert "'redis://u:***@h:63x/0' is not allowed (the port is not a " in wrong(REDIS_URL="redis://u:pass@h:63x/0")
    line = wrong(REDIS_URL="redis://h:63x/0")
    assert "63x" not in line
    assert "the port is not a number (hidden, in case it is a password)" in line


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("tcp://::1:6379", "tcp://::1:6379"),  # as `poolmgr status` shows it
        ("fe80::1%eth0:6379", "tcp://fe80::1%eth0:6379"),
        ("::ffff:1.2.3.4:6379", "tcp://::ffff:1.2.3.4:6379"),
        ("rediss://[::1]:7/2", "tcp://::1:7"),
        ("[::1]", "tcp://::1:6379"),
        ("cache", "tcp://cache:6379"),
        ("unix:///r.sock", "unix:///r.sock"),
    ],
)
def test_a_server_may_be_named_as_people_and_as_status_do(written: str, key: str):
    assert parsers.endpoint_key(written) == key
    assert parsers.endpoint_key(key) == key


@pytest.mark.parametrize("text", ["::1", "a:b:1", "cache:x", "a#b", "a?b", "a\0b", "http://cache"])
def test_what_names_no_server(text: str):
    with pytest.raises(ValueError, match=r"^$|port|server"):
        parsers.endpoint_key(text)
