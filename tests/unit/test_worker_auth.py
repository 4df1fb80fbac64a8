"""Who may call the worker service, and the token that is made when none is set."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from poolmgr import settings
from poolmgr.errors import SettingsError
from tests.helpers import ROOT, wait_for
from worker import token, token_files
from worker.auth import Gate
from worker.errors import Problem


@pytest.fixture
def gate() -> Gate:
    return Gate(settings.load({"WORKER_TOKEN": "full", "WORKER_READONLY_TOKEN": "reader"}))


@pytest.mark.parametrize(
    ("authorization", "query", "readonly"),
    [
        ("Bearer full", "", False),
        ("bearer  full ", "", False),
        ("Bearer reader", "", True),
        (None, "_token=full", False),
        (None, "EX=1&_token=reader", True),
        (None, "%5Ftoken=full", False),
        ("Bearer full", "_token=wrong", False),
    ],
)
def test_a_token_opens_the_gate(gate, authorization, query, readonly):
    assert gate.readonly(authorization, query) is readonly


@pytest.mark.parametrize(
    ("authorization", "query"),
    [
        (None, ""),
        ("", ""),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("Bearer ful", ""),
        ("Bearer fullx", ""),
        ("Bearer FULL", ""),
        ("Basic full", ""),
        ("full", ""),
        (None, "_token="),
        (None, "token=full"),
        ("Bearer wrong", "_token=full"),
        ("Bearer \udcff\u00e9", ""),
    ],
)
def test_anything_else_is_a_401(gate, authorization, query):
    with pytest.raises(Problem, match="Unauthorized") as caught:
        gate.readonly(authorization, query)
    assert caught.value.status == 401


def test_without_a_readonly_token_an_empty_one_opens_nothing():
    with pytest.raises(Problem):
        Gate(settings.load({"WORKER_TOKEN": "full"})).readonly("Bearer ", "")


def test_a_made_token_is_long_private_and_the_same_for_all(short_dir: Path):
    path = short_dir / "token"
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(token.ensure, [path] * 64))
    assert [made for _, made in answers].count(True) == 1
    found = {text for text, _ in answers}
    assert len(found) == 1
    assert len(found.pop()) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in short_dir.iterdir()] == ["token"], "nothing half-made is left"


HOLD = """
import os, sys
from poolmgr import settings
from poolmgr.errors import SettingsError
from worker import token, token_files
found = settings.load()
token.hold(found)
print(token.current(found), flush=True)
if sys.stdin.read() == "release":
    token.release()
"""


def master() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    return process, process.stdout.readline()


def test_the_last_master_removes_it(short_dir: Path):
    first, its = master()
    second, theirs = master()
    assert its == theirs
    first.communicate("release")
    assert (short_dir / "token").exists()
    second.communicate("release")
    assert not (short_dir / "token").exists()


def test_a_killed_master_leaves_it_and_the_next_goes_on_with_it(short_dir: Path):
    first, its = master()
    first.kill()
    first.wait()
    wait_for((short_dir / "token").exists)
    second, theirs = master()
    assert its == theirs
    second.communicate("release")
    assert not (short_dir / "token").exists()


def test_a_token_from_the_environment_makes_no_file(short_dir: Path):
    found = settings.load({**os.environ, "WORKER_TOKEN": "x"})
    token.hold(found)
    token.release()
    assert list(short_dir.iterdir()) == []


# ---- tokens in files -----------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a token, which is looked at for each request."""
    monkeypatch.setattr(token_files, "LOOK_EVERY", 0.0)
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


def gate_of(path: Path, **more: str) -> Gate:
    return Gate(settings.load({"WORKER_TOKEN_FILE": str(path), **more}))


def opens(gate: Gate, text: str) -> bool:
    try:
        gate.readonly(f"Bearer {text}", "")
    except Problem as problem:
        return problem.status != 401
    return True


@pytest.mark.parametrize("text", ["first", "first\n", "first\r\n", "\n first \n\n"])
def test_a_files_token_opens_the_gate_without_what_is_around_it(secret: Path, text: str):
    secret.write_text(text)
    gate = gate_of(secret)
    assert opens(gate, "first")
    assert not opens(gate, "")
    assert not opens(gate, "firs")


def test_a_file_that_was_replaced_has_another_token_and_the_old_one_opens_nothing(secret: Path, tmp_path: Path):
    """As a Kubernetes secret is updated: a symbolic link comes to lead to another directory."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    link = tmp_path / "..data"
    link.symlink_to("one")
    gate = gate_of(link / "token")
    assert opens(gate, "one")
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(link)
    assert opens(gate, "two")
    assert not opens(gate, "one")


WRONG = {
    "missing": None,
    "empty": b"",
    "blank": b" \n",
    "two lines": b"a\nb",
    "bytes": b"\xff\xfe",
    "long": b"x" * 5000,
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_a_file_without_a_token_is_one_line_at_the_start_and_changes_nothing_later(secret: Path, content, caplog):
    caplog.set_level("INFO", "poolmgr.worker")
    gate = gate_of(secret)
    assert opens(gate, "first")
    secret.unlink()
    if content is not None:
        secret.write_bytes(content)
    assert opens(gate, "first") and opens(gate, "first")
    (record,) = caplog.records
    assert (record.getMessage(), record.levelname, vars(record)["path"]) == ("worker.token_file", "ERROR", str(secret))
    with pytest.raises(SettingsError) as caught:
        token_files.check(settings.load({"WORKER_TOKEN_FILE": str(secret)}))
    message = str(caught.value)
    assert message.startswith(f"WORKER_TOKEN_FILE={str(secret)!r} ") and token_files.REMEDY in message
    assert "\n" not in message
    with pytest.raises(Problem) as told:
        gate_of(secret).readonly("Bearer x", "")
    assert told.value.status == 503


def test_a_fifo_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "token")
    with pytest.raises(SettingsError, match="is not a file"):
        token_files.check(settings.load({"WORKER_TOKEN_FILE": str(tmp_path / "token")}))


@pytest.mark.parametrize("more", [{"WORKER_READONLY_TOKEN": "first"}, {"WORKER_READONLY_TOKEN_FILE": ""}])
def test_the_same_token_twice_is_refused_and_only_reads(secret: Path, more):
    more = {name: value or str(secret) for name, value in more.items()}
    with pytest.raises(SettingsError, match="allows everything"):
        token_files.check(settings.load({"WORKER_TOKEN_FILE": str(secret), **more}))
    assert gate_of(secret, **more).readonly("Bearer first", "") is True


def test_a_readonly_token_from_a_file_only_reads(secret: Path):
    gate = Gate(settings.load({"WORKER_TOKEN": "full", "WORKER_READONLY_TOKEN_FILE": str(secret)}))
    assert gate.readonly("Bearer first", "") is True
    assert gate.readonly("Bearer full", "") is False


def test_a_file_is_looked_at_once_a_second_and_not_for_each_request(secret: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_files, "LOOK_EVERY", 60.0)
    gate = gate_of(secret)
    assert opens(gate, "first")
    secret.write_text("second")
    assert opens(gate, "first")
    assert not opens(gate, "second")
