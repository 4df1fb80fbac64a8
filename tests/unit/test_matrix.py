"""``make matrix``: what it counts, keeps and writes, and what it says where it cannot run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT
from tests.matrix import __main__ as command, outcomes, report, results, roots, served, slices, systems
from tests.matrix.results import Figures, Found

TESTS = """
import pytest
def test_well(): pass
def test_ill(): assert 0
@pytest.fixture
def bad_end():
    yield
    raise OSError
def test_whose_end_is_ill(bad_end): pass
@pytest.mark.skip
def test_skipped(): pass
def test_skips_itself(): pytest.skip("so")
"""


def run(place: Path, *words: str) -> dict[str, str]:
    """The last outcomes of the tests there."""
    file = place / "outcomes"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "tests.matrix.outcomes",
            "-p",
            "no:cacheprovider",
            *words,
            str(place),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), outcomes.VARIABLE: str(file)},
        cwd=place,
        capture_output=True,
    )
    last = outcomes.last_outcomes(file.read_text().splitlines())
    return {test.rpartition("::")[2] or test: outcome for test, outcome in last.items()}


@pytest.mark.parametrize("words", [(), ("-n2",)], ids=["alone", "beside"])
def test_each_tests_outcome_is_written_once(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "test_them.py").write_text(TESTS)
    assert run(tmp_path, *words) == {
        "test_well": "passed",
        "test_ill": "failed",
        "test_whose_end_is_ill": "failed",
        "test_skipped": "skipped",
        "test_skips_itself": "skipped",
    }
    assert len((tmp_path / "outcomes").read_text().splitlines()) == 14


def test_a_file_that_cannot_be_loaded_has_failed(tmp_path: Path) -> None:
    (tmp_path / "test_them.py").write_text("import there_is_no_such_module")
    assert run(tmp_path) == {"test_them.py": "failed"}


def test_what_passes_when_it_runs_again_has_passed() -> None:
    lines = [
        json.dumps(["t", when, outcome])
        for when, outcome in (("call", "failed"), ("setup", "passed"), ("call", "passed"))
    ]
    assert outcomes.last_outcomes(lines) == {"t": "passed"}


def test_counts_are_by_folder() -> None:
    found = outcomes.count(
        {"tests/unit/a.py::b": "passed", "tests/systemd/c.py::d": "failed", "tests/test_e.py::f": "skipped"}
    )
    assert {name: dict(counter) for name, counter in found.items()} == {
        "unit": {"passed": 1}, "systemd": {"failed": 1}, "tests": {"skipped": 1},
    }  # fmt: skip


# ---- the document --------------------------------------------------------------------------------------


def found(**parts: Figures) -> Found:
    return Found(title="Debian 13", release="13.2", python="3.13.5", kernel="6.1", systemd="257", parts=parts)


RAN: dict[str, Any] = {"date": "2026-01-01", "commit": "abc"}


def test_the_document_shows_what_ran_and_leaves_the_rest_empty() -> None:
    text = report.document(
        {"trixie": found(run=Figures(seconds=12.4, **RAN), unit=Figures(passed=7, skipped=1, **RAN))}
    )
    (line,) = [line for line in text.splitlines() if line.startswith("| Debian 13")]
    assert line == "| Debian 13 (13.2) | 3.13.5 | 257 | 6.1 | 12 s | 7 / 1 / 0 | 2026-01-01, abc |"


def test_the_document_shows_what_failed() -> None:
    text = report.document({"trixie": found(unit=Figures(passed=7, failed=2, **RAN), chaos=Figures(status=3, **RAN))})
    assert "**7 / 0 / 2**" in text
    assert "**0 / 0 / 0**, status 3" in text


def test_the_document_has_the_oldest_system_first_in_whatever_order_they_ran() -> None:
    names = ["trixie", "sid", "bookworm", "bookworm with Python 3.12.1"]
    texts = {report.document({name: found(unit=Figures(**RAN)) for name in order}) for order in (names, names[::-1])}
    assert len(texts) == 1
    assert [*report.ordered(dict.fromkeys(names, found()))] == [*names[2:], "trixie", "sid"]


def test_the_document_here_is_made_of_the_results_here() -> None:
    assert report.FILE.read_text() == report.document(results.load()), "make it again: make matrix"


def test_a_run_replaces_only_what_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results.load, "__defaults__", (tmp_path / "results.json",))
    monkeypatch.setattr(results.save, "__defaults__", (tmp_path / "results.json",))
    monkeypatch.setattr(report, "FILE", tmp_path / "platforms.md")
    old, new = Figures(passed=1, **RAN), Figures(passed=2, **RAN)
    command.record(
        {"trixie": found(unit=old, chaos=old, **{"server redis-server 8.0.1": old, "server valkey-server 8.1.0": old})}
    )
    command.record({"trixie": found(unit=new, **{"server redis-server 8.0.2": new}), "bookworm": found(unit=new)})
    assert [*results.load()] == ["bookworm", "trixie"]
    assert results.load()["trixie"].parts == {
        "unit": new, "chaos": old, "server redis-server 8.0.2": new, "server valkey-server 8.1.0": old,
    }  # fmt: skip
    assert "| 2 / 0 / 0 | 1 / 0 / 0 |" in (tmp_path / "platforms.md").read_text()


# ---- where it cannot run -------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", roots.NEEDED)
def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else f"/usr/bin/{name}")
    with pytest.raises(roots.UnavailableError, match=f"^not installed: {roots.NEEDED[missing]}"):
        roots.check()


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert command.main([]) == 2
    assert capsys.readouterr().err == "Error: needs root, to make namespaces and to run debootstrap\n"


def test_an_archive_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    debootstrap = tmp_path / "bin" / "debootstrap"
    debootstrap.parent.mkdir()
    debootstrap.write_text("#!/bin/sh\necho 'E: Failed getting release file'\nexit 1\n")
    debootstrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{debootstrap.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(roots, "CACHE", tmp_path / "cache")
    said: list[str] = []
    with pytest.raises(
        roots.UnavailableError, match=r"^debootstrap has no root of sid: E: Failed getting release file"
    ):
        roots.root_of(systems.SYSTEMS["sid"], said.append)
    assert said == ["debootstrap sid ..."]
    assert not list((tmp_path / "cache" / "roots").glob("sid-????????????"))


# ---- what is in its tables -----------------------------------------------------------------------------


def test_a_root_has_what_ci_installs() -> None:
    packages = systems.SYSTEMS["trixie"].packages
    assert {"make", "systemd", "openssl", "gcc", "libc6-dev", "python3-venv", "redis-server", "valkey-server"} <= {
        *packages
    }
    assert {"nodejs", "npm"} <= {*packages}


def test_the_files_for_servers_are_there() -> None:
    assert {*served.SHORT} < {*served.FILES}
    for path in served.paths(served.FILES):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("word", ["not slow and not timing", "it's", "a$b", 'say "so"'])
def test_a_word_goes_through_make_and_the_shell(tmp_path: Path, word: str) -> None:
    (tmp_path / "Makefile").write_text("all:\n\t@printf %s $(ARGS)\n")
    done = subprocess.run(
        ["make", "-s", f"ARGS={slices.quoted(word)}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == word
