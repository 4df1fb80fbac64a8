"""Tests that measure time are marked ``timing``, and run when the others have ended (:mod:`tests.run`).

Their phase loads only the files whose text has the mark: to load all would take longer than what it is for. A test that
has the mark in any other way would run in no phase, and none would miss it: such a test is an error.
"""

from __future__ import annotations

from pathlib import Path

import pytest

MARK = "mark.timing"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where only what measures time is wanted (``-mtiming``), no other file is loaded."""
    if config.option.markexpr != "timing" or collection_path.suffix != ".py":
        return None
    return not shows(collection_path) or None


def seen(items: list[pytest.Item]) -> None:
    """Check that the phase of what measures time loads all of these that do.

    Raises:
        UsageError: it would not.
    """
    hidden = [item.nodeid for item in items if item.get_closest_marker("timing") and not shows(item.path)]
    if hidden:
        raise pytest.UsageError(f"{MARK!r} is not in their file, so these never run: {', '.join(hidden)}")


def shows(path: Path) -> bool:
    """Whether a file's text has the mark."""
    return MARK in path.read_text()
