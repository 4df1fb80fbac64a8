"""Garbage is looked for as seldom as ``make simulate`` does."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.simulation.__main__ import collect_seldom


@pytest.fixture(scope="module", autouse=True)
def _seldom() -> Iterator[None]:
    before = gc.get_threshold()
    collect_seldom()
    yield
    gc.set_threshold(*before)
