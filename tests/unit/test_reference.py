"""Every public name has a place in the reference, and the reference names nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import re
import zlib
from importlib.util import find_spec
from pathlib import Path

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


# ---- what `make docs` looks at after mkdocs -----------------------------------------------------


def built(directory: Path, names: set[str], **pages: str) -> list[str]:
    """What is wrong with a site of these names and pages."""
    spec = importlib.util.spec_from_file_location("ci_reference", ROOT / ".ci" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = "".join(f"{name} py:class 1 api/x.html#$ -\n" for name in sorted(names))
    (directory / "objects.inv").write_bytes(b"#\n#\n#\n#\n" + zlib.compress(lines.encode()))
    for page, text in pages.items():
        (directory / f"{page}.html").write_text(text)
    if not names:
        return sorted(module.public())
    return [str(line) for line in module.missing(directory)]


def test_the_site_has_what_the_code_and_readme_name(tmp_path):
    names = {*built(tmp_path, set())}
    assert {*PUBLIC, *MODULES} - {"poolmgr.asyncio"} <= names
    calls = {name for name in names if name.startswith("poolmgr.asyncio.ConnectionPool.")}
    assert calls == {
        f"poolmgr.asyncio.ConnectionPool.{n}" for n in ("connection", "resize", "drain", "stats", "aclose")
    }
    assert "poolmgr.gunicorn.install" in names
    assert built(tmp_path, names) == []
    for name in names:
        (line,) = built(tmp_path, names - {name})
        assert line.startswith(f"{name} has no place")


@pytest.mark.parametrize(
    ("link", "right"),
    [
        ('<a href="b.html">', True),
        ('<a href="b.html#here">', True),
        ('<a href="#there">', True),
        ('<img src="b.html">', True),
        ('<a href="https://example.com/x">', True),
        ('<a href="c.html">', False),
        ('<a href="b.html#there">', False),
        ('<a href="#here">', False),
        ('<img src="c.png">', False),
    ],
)
def test_a_link_that_leads_nowhere_fails_the_site(tmp_path, link, right):
    names = {*built(tmp_path, set())}
    wrong = built(tmp_path, names, a=f'<p id="there">{link}', b='<p id="here">')
    assert (wrong == []) == right, wrong
