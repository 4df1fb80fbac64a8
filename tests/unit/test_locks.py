"""The locks hold what pyproject.toml asks for: each extra has one, at versions that fit, every file with its hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.helpers import ROOT

LOCKS = ROOT / "locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAME = PROJECT["project"]["name"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
WANTED = {
    "base": PROJECT["project"]["dependencies"],
    "build": PROJECT["build-system"]["requires"],
    **EXTRAS,
}
APART = {"agents", "audit", "lock", "build"}
"""What is installed without the package."""


def entries(path: Path) -> list[tuple[str, str, int]]:
    """Name, version and number of hashes of each package of a lock; what it contains comes first."""
    found = []
    for part in re.split(r"\n(?=\S)", path.read_text().strip()):
        if part.startswith("-r "):
            found += entries(path.parent / part.removeprefix("-r "))
        elif not part.startswith("#"):
            name, version = re.match(r"([^\s=]+)==(\S+)", part).groups()  # type: ignore[union-attr]
            found.append((canonicalize_name(name), version, part.count("--hash=sha256:")))
    return found


def asked(extra: str) -> list[Requirement]:
    """What an extra asks for, with that of the extras within it, and of the package where it is installed too."""
    lines = list(WANTED[extra])
    if extra not in APART:
        lines += WANTED["base"]
    for line in list(lines):
        requirement = Requirement(line)
        if requirement.name == NAME:
            lines += [str(one) for inner in requirement.extras for one in asked(inner)]
    return [one for one in map(Requirement, lines) if one.name != NAME]


def test_each_extra_has_a_lock_and_each_lock_an_extra():
    assert {path.stem for path in LOCKS.glob("*.txt")} == set(WANTED)


@pytest.mark.parametrize("extra", WANTED)
def test_a_lock_has_versions_that_fit_and_their_hashes(extra: str):
    found = entries(LOCKS / f"{extra}.txt")
    assert all(hashes for _, _, hashes in found)
    for requirement in asked(extra):
        versions = [version for name, version, _ in found if name == canonicalize_name(requirement.name)]
        assert versions, f"{requirement} of {extra} is in no lock: make lock"
        for version in versions:
            assert requirement.specifier.contains(Version(version), prereleases=True), f"{requirement}: make lock"


def test_a_package_has_the_same_versions_in_every_lock():
    versions: dict[str, set[frozenset[str]]] = {}
    for path in LOCKS.glob("*.txt"):
        here: dict[str, set[str]] = {}
        for name, version, _ in entries(path):
            here.setdefault(name, set()).add(version)
        for name, found in here.items():
            versions.setdefault(name, set()).add(frozenset(found))
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_a_commit_is_checked_by_the_ruff_that_make_lint_uses():
    (locked,) = [version for name, version, _ in entries(LOCKS / "dev.txt") if name == "ruff"]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert f"ruff-pre-commit\n    rev: v{locked}\n" in hooks, "write the locked version there"
