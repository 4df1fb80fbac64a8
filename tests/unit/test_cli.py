"""The command line, with a supervisor that gives prepared answers."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from poolmgr import cli, launch, settings, status, wire
from poolmgr.cli import config as config_command, documents, status as status_command
from poolmgr.settings.table import VARIABLES
from tests import fake_supervisor
from tests.helpers import ROOT

STATUS = status.Status(
    pid=41,
    version="0.1.0",
    uptime=3725,
    socket="/run/s",
    clients=2,
    servers=(
        status.ServerStatus(
            id="tcp://cache:6379",
            aliases=("tcp://cache:6379", "tcp://10.0.0.7:6379"),
            budget=12,
            derivation="budget 12 = REDIS_CONNECTION_BUDGET",
            charged=9,
            own=1,
            quarantine=2,
            members=(
                status.MemberStatus(pid=101, title="gunicorn worker", limit=7, charge=7, open=6, in_use=5, waiting=3),
                status.MemberStatus(pid=102, title="a [bold]title", limit=2, charge=4, acked=False, silent_for=61),
            ),
        ),
        status.ServerStatus(id="unix:///r.sock", health=status.HealthStatus(up=False, since=1.0, error="refused")),
    ),
    differences=(status.Difference(server="tcp://cache:6379", pid=9, title="cron", ledger=0, kernel=3, server_sees=3),),
    notes=("the budget 12 is less than its 40 processes",),
)
LIMITS = status.Limits(
    servers=(
        status.ServerLimits(
            id="tcp://cache:6379",
            budget=12,
            derivation="budget 12 = x",
            parts=(("maxclients", 100, "told"), ("reserve", None, "none")),
        ),
    )
)
ANSWERS = {
    "status": wire.Answer(status.dump(STATUS)),
    "limits": wire.Answer(status.dump(LIMITS)),
    "SetBudget": wire.Answer("tcp://cache:6379: budget 20, was 12"),
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command; its exit status and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["poolmgr", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        code = end.value.code
        return int(code or 0), out, err

    return run


def test_status_shows_budget_derivation_and_each_share(run, isolated):
    with fake_supervisor.in_thread(str(isolated), **ANSWERS):
        code, out, _ = run("status")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert "supervisor 41, version 0.1.0, up 1 h 2 min, /run/s" in out
    assert "budget     budget 12 = REDIS_CONNECTION_BUDGET" in out
    assert "also       tcp://10.0.0.7:6379" in out
    assert "9 charged, 1 the supervisor's own, 2 in quarantine, 0 free" in out
    assert ["101", "gunicorn", "worker", "7", "7", "6", "5", "3"] in rows
    assert "a [bold]title" in out, "what a process calls itself is no markup"
    assert "recalled, last heard 1 min 1 s ago" in out
    assert "DOWN" in out
    assert "refused" in out
    assert "audit: tcp://cache:6379: process 9 cron: ledger 0, kernel 3, server 3" in out
    assert "note: the budget 12 is less than its 40 processes" in out


def test_status_folds_nothing_that_has_room(run, isolated):
    member = status.MemberStatus(pid=101, title="gunicorn worker", limit=828, charge=828, open=1)
    quiet = status.Status(pid=41, servers=(status.ServerStatus(id="tcp://cache:6379", members=(member,)),))
    with fake_supervisor.in_thread(str(isolated), status=wire.Answer(status.dump(quiet))):
        out = run("status")[1]
    assert ["101", "gunicorn", "worker", "828", "828", "1", "0", "0"] in [line.split() for line in out.splitlines()]


def lines_at(width: int, rendered) -> list[str]:
    """What a terminal of that width shows."""
    shown = Console(width=width, highlight=False, color_system=None)
    with shown.capture() as capture:
        shown.print(rendered)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_status_fits_a_terminal_of_80_columns():
    """A member's numbers are in one line, whatever is to be said of it; what there is to say is below its name."""
    member = status.MemberStatus(
        pid=4194304, title="celery worker of the queue for mail", limit=10000, charge=10000, open=10000, in_use=10000,
        waiting=10000, acked=False, silent_for=3600, state="restored",
    )  # fmt: skip
    quiet = msgspec.structs.replace(member, pid=7, title="x", acked=True, state="live", silent_for=None)
    server = status.ServerStatus(id="tcp://cache:6379", members=(member, quiet))
    found = status.Status(pid=41, socket="/run/s", servers=(server,))
    narrow = lines_at(80, status_command.render(found, 80))
    assert max(len(line) for line in narrow) <= 80
    (row,) = [line for line in narrow if "4194304" in line]
    assert row.split()[1:3] == ["celery", "worker"]
    assert row.split()[-5:] == ["10000"] * 5
    assert narrow[-1].split() == ["7", "x", *["10000"] * 5]
    name = " ".join(" ".join(narrow[narrow.index(row) + 1 : -1]).split())
    assert name.endswith("(restored, recalled, last heard 1 h 0 min ago)")
    wide = lines_at(120, status_command.render(found, 120))
    (row,) = [line for line in wide if "celery" in line]
    assert "restored, recalled, last heard 1 h" in row


def test_config_fits_a_terminal_of_80_columns_with_every_meaning():
    """No variable's name is broken: it is what one copies."""
    long = "unix:///run/" + "very-" * 12 + "long.sock"
    rows = settings.describe({"REDIS_URL": long, "REDIS_CONNECTION_BUDGETS": "cache:6379=200,queue:6379=50"})
    narrow = lines_at(80, config_command.render(rows, 80))
    assert {v.name for v in VARIABLES} == {line.split()[0] for line in narrow[1:] if not line.startswith(" ")}
    assert max(len(line) for line in narrow) <= 80
    words = " ".join(" ".join(narrow).split())
    assert [v.name for v in VARIABLES if v.meaning.replace("`", "") not in words] == []
    assert "meaning" in lines_at(160, config_command.render(rows, 160))[0]


def test_an_outage_says_when_it_began_with_its_zone(run, isolated):
    with fake_supervisor.in_thread(str(isolated), **ANSWERS):
        out = run("status")[1]
    assert "DOWN       since 1970-01-01T00:00:01Z, for " in out


def test_status_as_json_is_the_whole_answer(run, isolated):
    with fake_supervisor.in_thread(str(isolated), **ANSWERS):
        code, out, _ = run("status", "--json")
    assert code == 0
    assert json.loads(out) == json.loads(status.dump(STATUS))


def test_a_newer_supervisors_further_fields_are_skipped(run, isolated):
    answer = json.loads(status.dump(STATUS)) | {"of_tomorrow": [1]}
    with fake_supervisor.in_thread(str(isolated), status=wire.Answer(json.dumps(answer))):
        assert run("status")[0] == 0
        assert json.loads(run("status", "--json")[1])["of_tomorrow"] == [1]


def test_before_anybody_has_asked(run, isolated):
    with fake_supervisor.in_thread(str(isolated), status=wire.Answer(status.dump(status.Status(pid=1)))):
        assert "no process has asked for a connection yet" in run("status")[1]


@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("limits",), ("budget", "cache", "3")])
def test_without_a_supervisor_one_line_says_so_and_none_is_started(run, isolated, command):
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert err == (
        f"Error: no supervisor is listening on {isolated}: none runs while no process uses a pool; "
        "if one does, set POOLMGR_SOCKET as it is set there\n"
    )
    assert not Path(f"{isolated}.launch").exists()


def test_a_supervisor_that_was_ended_is_told_from_one_that_never_was(run, isolated):
    """Its files are there, and nobody listens."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(isolated))
    Path(f"{isolated}.snapshot").touch()
    code, out, err = run("status")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"no supervisor is listening on {isolated}: the last one has ended" in err


def test_a_refusal_and_a_failure_are_told(run, isolated):
    with fake_supervisor.in_thread(
        str(isolated), status=wire.Refused("another user"), limits=wire.Answer("no", ok=False)
    ):
        assert run("status") == (1, "", "Error: another user\n")
        assert run("limits") == (1, "", "Error: no\n")


def test_a_refusal_is_told_though_the_question_came_too_late(run, isolated, monkeypatch):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(isolated))
        listener.listen()

        def refuse(*_, connect=launch.connect, **__):
            sock = connect(settings.load(), start=False)
            client, _ = listener.accept()
            client.sendall(wire.encode(wire.Refused("you are uid 7")))
            client.close()
            return sock

        monkeypatch.setattr(launch, "connect", refuse)
        assert run("status") == (1, "", "Error: you are uid 7\n")


def test_an_answer_that_is_none_is_told(run, isolated):
    with fake_supervisor.in_thread(str(isolated), status=wire.Answer("{}")):
        code, _, err = run("status")
    assert code == 1
    assert err.startswith("Error: the supervisor's answer cannot be read")


def test_limits_shows_every_bound(run, isolated):
    with fake_supervisor.in_thread(str(isolated), **ANSWERS):
        code, out, _ = run("limits")
        assert json.loads(run("limits", "--json")[1]) == json.loads(status.dump(LIMITS))
    assert code == 0
    assert "budget 12 = x" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["maxclients", "100", "told"] in rows
    assert ["reserve", "-", "none"] in rows


def test_budget_changes_it(run, isolated):
    with fake_supervisor.in_thread(str(isolated), **ANSWERS):
        assert run("budget", "cache:6379", "20") == (0, "tcp://cache:6379: budget 20, was 12\n", "")
        assert run("budget", "cache", "auto")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cache", "0"), "N '0' is not a budget; give a whole number from 1 to 1000000, auto or reset"),
        (("cache", "many"), "N 'many' is not a budget; give a whole number from 1 to 1000000, auto or reset"),
        (("http://u:hunter2@x", "3"), "SERVER 'http://u:***@x' is not a server; give HOST:PORT, HOST or /PATH"),
    ],
)
def test_a_wrong_budget_is_told(run, arguments, message):
    assert run("budget", *arguments) == (1, "", f"Error: {message}\n")


def test_config_shows_every_variable_its_value_and_its_origin(run, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://u:hunter2@h:1/0")
    monkeypatch.setenv("WORKER_TOKEN", "hunter2")
    code, out, err = run("config")
    assert (code, err) == (0, "")
    assert "started from this shell" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert {v.name for v in VARIABLES} <= set(rows)
    assert rows["REDIS_URL"][:2] == ["redis://u:***@h:1/0", "environment"]
    assert rows["WORKER_TOKEN"][:2] == ["***", "environment"]
    assert rows["REDIS_POOL_TIMEOUT"][:2] == ["5", "default"]
    found = json.loads(run("config", "--json")[1])
    assert "hunter2" not in out + json.dumps(found)
    assert {row["name"]: row["source"] for row in found}["REDIS_URL"] == "environment"


def test_config_shows_all_that_is_wrong_and_fails(run, monkeypatch):
    monkeypatch.setenv("REDIS_CONNECTION_BUDGET", "many")
    monkeypatch.setenv("REDIS_POOL_TIMEOUT", "-1")
    code, out, err = run("config")
    assert code == 1
    assert err.count("Error: ") == 2
    assert "REDIS_SOCKET_TIMEOUT" in out


def test_config_warns_of_a_name_that_is_not_ours(run, monkeypatch):
    monkeypatch.setenv("REDIS_POOL_TIMOUT", "3")
    code, _, err = run("config")
    assert (code, err) == (
        0,
        "Warning: REDIS_POOL_TIMOUT is not a setting of redis-poolmgr; did you mean REDIS_POOL_TIMEOUT?\n",
    )


@pytest.mark.parametrize(("name", "words"), [("MAX_WAITING", "0: all may wait"), ("LEAK_AFTER", "0: never")])
def test_what_nought_means_stands_with_the_meaning(name, words):
    (meaning,) = [v.meaning for v in VARIABLES if v.name == f"REDIS_POOL_{name}"]
    assert words in meaning


def test_the_readmes_table_is_the_one_of_the_settings():
    readme = (ROOT / "README.md").read_text()
    assert documents.markdown_table() in readme, "paste the output of: poolmgr config --markdown"


def test_the_example_file_names_every_variable_once_and_sets_none():
    text = documents.environment_file()
    for variable in VARIABLES:
        assert text.count(f"\n#{variable.name}=") == 1
    assert all(not line or line.startswith("#") for line in text.splitlines())


# ---- terminals -------------------------------------------------------------------------------

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\r\x7f"


@pytest.mark.parametrize("words", ["status", "status --json", "limits", "limits --json", "config", "config --json"])
def test_no_command_prints_what_a_terminal_obeys(run, isolated, monkeypatch, words):
    """What a hostile server answers, a member calls itself and an environment says are others' texts."""
    member = msgspec.structs.replace(STATUS.servers[0].members[0], title=f"worker {HOSTILE}")
    health = status.HealthStatus(up=False, since=1.0, error=f"ERR {HOSTILE}")
    server = msgspec.structs.replace(STATUS.servers[0], members=(member,), health=health, derivation=HOSTILE)
    answers = {
        "status": wire.Answer(status.dump(msgspec.structs.replace(STATUS, servers=(server,), notes=(HOSTILE,)))),
        "limits": wire.Answer(
            status.dump(status.Limits(servers=(status.ServerLimits(id=HOSTILE, budget=1, parts=(("a", 1, HOSTILE),)),)))
        ),
    }
    monkeypatch.setenv("REDIS_POOL_NAME", f"pool{HOSTILE}")
    if not words.startswith("config"):
        monkeypatch.delenv("REDIS_POOL_NAME")
    with fake_supervisor.in_thread(str(isolated), **answers):
        _, out, err = run(*words.split())
    assert "evil" in out + err
    for character in set(HOSTILE):
        if not (character.isascii() and character.isprintable()):
            assert character not in out + err, f"{character!r} in {out + err!r}"
    if "--json" in words:
        assert json.loads(out), "and yet it is JSON"


@pytest.mark.parametrize("words", ["status", "limits", "budget h 5"])
def test_an_error_has_nothing_either_that_a_terminal_obeys(run, isolated, words):
    answers = {name: wire.Answer(f"no: {HOSTILE}", ok=False) for name in ("status", "limits", "SetBudget")}
    with fake_supervisor.in_thread(str(isolated), **answers):
        code, _, err = run(*words.split())
    assert code == 1
    assert err == "Error: no: \\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202eevil\\r\\x7f\n"


# ---- a fleet's name ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b", "a{b}", "\x1b[2J", "a" * 70], ids=ascii)
def test_a_fleet_s_name_on_the_command_line_is_one_that_the_variable_may_have(run, isolated, monkeypatch, name):
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    code, out, err = run("fleet", "--fleet", name)
    assert code
    assert not out
    assert "--fleet" in err
    assert "at most 64" in err
    assert err.count("\n") == 1
