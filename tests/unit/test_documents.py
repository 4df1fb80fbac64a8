"""Documents lead where they say: files, headings, and sections that the code's own output names."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import poolmgr
from tests.fleet.sample import sample
from tests.helpers import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
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
            parts = urlsplit(target)
            assert parts.scheme in ("https", "mailto"), target
            assert parts.scheme == "mailto" or re.fullmatch(r"([a-z0-9-]+\.)+[a-z]+", parts.netloc), target
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


def test_the_workflow_does_what_the_script_does_and_may_nothing_else():
    """Actions are pinned by commit, and their token only reads."""
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    assert re.search(r"^permissions:\n  contents: read\n\n", text, re.MULTILINE)
    assert text.count("permissions:") == 1
    assert "bash .ci/run\n" in text
    used = re.findall(r"uses: (.*)$", text, re.MULTILINE)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[0-9.]+", action), action
    assert text.count("persist-credentials: false") == sum("checkout@" in action for action in used)
    assert "${{ github.event" not in text, "what others write is put into no command"


def test_the_fleet_s_sample_is_what_the_command_prints():
    text = (ROOT / "docs" / "fleet.md").read_text()
    assert f"```\n{sample()}\n```" in text, "paste the output of: python -m tests.fleet.sample"


def test_the_changelog_begins_with_this_version():
    """Below what is not released yet, if there is something."""
    versions = re.findall(r"^## \[([0-9.]+)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == poolmgr.__version__
    assert f"version {poolmgr.__version__}" in (ROOT / "README.md").read_text(), "as `poolmgr status` shows it"
