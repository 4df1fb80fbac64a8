"""Every public name has a place in the reference, and the reference names nothing else."""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec

import pytest

import poolmgr
from tests.helpers import ROOT

PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
NAMED = [name for path in PAGES for name in re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE)]

README = (ROOT / "README.md").read_text()

MODULES = sorted(
    {f"poolmgr.{name}" for name in re.findall(r"\bpoolmgr\.([a-z_]+)", README) if find_spec(f"poolmgr.{name}")}
    | {"poolmgr.status"}  # the schema of `poolmgr status --json`
)
"""Public modules: those that README names, and that one."""

PUBLIC = [f"poolmgr.{name}" for name in poolmgr.__all__ if name != "__version__"] + [
    f"{module}.{name}" for module in MODULES for name in getattr(importlib.import_module(module), "__all__", ())
]


def test_the_public_modules_are_found():
    assert {"poolmgr.asyncio", "poolmgr.conf", "poolmgr.gunicorn", "poolmgr.status"} <= {*MODULES}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_place(name: str):
    assert NAMED.count(name) == 1, f"write '::: {name}' into a file of docs/api/"


@pytest.mark.parametrize("name", MODULES)
def test_a_public_module_has_a_place(name: str):
    names = [public for public in PUBLIC if public.startswith(f"{name}.")]
    assert NAMED.count(name) == (0 if names else 1)


@pytest.mark.parametrize("name", NAMED)
def test_what_has_a_place_is_public_and_says_what_it_is(name: str):
    assert name in PUBLIC or name in MODULES
    module, _, last = name.rpartition(".")
    found = importlib.import_module(name) if name in MODULES else getattr(importlib.import_module(module), last)
    assert found.__doc__


def test_every_document_is_in_the_contents():
    contents = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    here = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {*contents} == here | {path.name for path in ROOT.glob("*.md")} - {"README.md"} | {"index.md"}
