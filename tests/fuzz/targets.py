"""The targets by name, and the corpus of each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

HOMES = {
    "decoder": "tests.fuzz.decoder",
    "supervisor": "tests.fuzz.stage",
    "snapshot": "tests.fuzz.snapshot",
    "client_list": "tests.fuzz.client_list",
    "settings": "tests.fuzz.settings",
}

CORPUS = Path(__file__).parent / "corpus"


def load(name: str) -> tuple[Callable[[bytes], object], Callable[[], object]]:
    """What plays bytes to a target, and what tidies up behind it."""
    module = importlib.import_module(HOMES[name])
    if hasattr(module, "Target"):
        target = module.Target()
        return target.play, target.close
    return module.play, lambda: None


def entries(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())
