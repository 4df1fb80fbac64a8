"""``make test`` loads the suite once before its workers do, where that saves them something."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import run


def test_a_suite_without_bytecode_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "")
    (tmp_path / "pytest.ini").touch()
    tests, stamp = tmp_path / "tests", tmp_path / "kept" / "loaded"
    tests.mkdir()
    for number in range(run.MANY + 1):
        (tests / f"test_{number}.py").write_text("def test_it(): assert 0")

    def written() -> int:
        found = list(tests.glob("__pycache__/*pytest*.pyc"))
        for path in found:
            path.unlink()
        return len(found)

    run.load(tmp_path, stamp)
    assert written() == run.MANY + 1
    run.load(tmp_path, stamp)
    assert written() == 0, "nothing has changed"
