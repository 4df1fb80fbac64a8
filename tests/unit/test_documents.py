"""Documents lead where they say: files, headings, and sections that the code's own output names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NAMED = re.compile(r"\((docs/\w+\.md), ([A-Z][\w ]+)\)")
"""A section, as messages name it."""


def headings(path: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, name = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), target
        if name and found.suffix == ".md":
            assert name in map(anchor, headings(found)), target


def test_sections_that_messages_name_are_there():
    named = {match for path in ROOT.rglob("poolmgr/**/*.py") for match in NAMED.findall(path.read_text())}
    assert named
    for file, section in named:
        assert section in headings(ROOT / file), f"{file}, {section}"


def test_the_security_policy_is_where_people_look_for_it():
    text = (ROOT / "SECURITY.md").read_text()
    assert {"Reporting", "Supported versions"} <= set(headings(ROOT / "SECURITY.md"))
    for document in (ROOT / "README.md", ROOT / "docs" / "http.md"):
        assert "SECURITY.md" in document.read_text(), document.name
    for setting in re.findall(r"`((?:WORKER|REDIS|POOLMGR)_[A-Z_]+)", text):
        from poolmgr.settings.table import BY_NAME

        assert setting in BY_NAME
