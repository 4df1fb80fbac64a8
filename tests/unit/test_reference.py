"""Every public name has a place in the reference, and the reference names nothing else."""

from __future__ import annotations

import importlib
import re

import pytest

import poolmgr
from tests.helpers import ROOT

PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
NAMED = [name for path in PAGES for name in re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE)]

MODULES = ("poolmgr.gunicorn", "poolmgr.status")
"""Public modules: README and docs/ name them."""


@pytest.mark.parametrize("name", [name for name in poolmgr.__all__ if name != "__version__"])
def test_a_public_name_has_a_place(name: str):
    assert NAMED.count(f"poolmgr.{name}") == 1, f"write '::: poolmgr.{name}' into a file of docs/api/"


@pytest.mark.parametrize("name", MODULES)
def test_a_public_module_has_a_place(name: str):
    assert NAMED.count(name) == 1
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", NAMED)
def test_what_has_a_place_is_public_and_says_what_it_is(name: str):
    if name in MODULES:
        return
    assert name.removeprefix("poolmgr.") in poolmgr.__all__
    assert getattr(poolmgr, name.removeprefix("poolmgr.")).__doc__, name


def test_every_document_is_in_the_contents():
    contents = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    here = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {*contents} == here | {path.name for path in ROOT.glob("*.md")} - {"README.md"} | {"index.md"}
