"""The bill of materials says what packages say of themselves, and the same on every Python and system."""

from __future__ import annotations

import importlib.util
import json
from email.message import Message
from importlib import metadata
from typing import Any

import pytest

from tests.helpers import ROOT

SBOM = ROOT / ".ci" / "sbom.py"


@pytest.fixture
def sbom() -> Any:
    spec = importlib.util.spec_from_file_location("ci_sbom", SBOM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(sbom: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sbom.make(ROOT / "locks" / "service.txt", [], "redis-poolmgr", "1", 0))
    return document


def test_each_package_has_its_licence_and_each_mark_none(sbom):
    components = made(sbom)["components"]
    assert len(components) > 20
    for one in components:
        marked = "properties" in one
        assert ("licenses" in one) != marked, one["name"]


@pytest.mark.parametrize(
    ("headers", "licence"),
    [
        ({"License-Expression": "MIT OR Apache-2.0", "License": "x"}, {"expression": "MIT OR Apache-2.0"}),
        ({"License": "BSD-3-Clause"}, {"license": {"name": "BSD-3-Clause"}}),
        ({"Classifier": "License :: OSI Approved :: MIT License"}, {"license": {"name": "MIT License"}}),
        (
            {"License": "MIT License\n\nCopyright", "Classifier": "License :: OSI Approved :: MIT License"},
            {"license": {"name": "MIT License"}},
        ),
        ({"Classifier": "Typing :: Typed"}, None),
    ],
)
def test_a_licence_is_what_the_package_says_in_any_of_its_ways(sbom, monkeypatch, headers, licence):
    said = Message()
    for name, value in headers.items():
        said[name] = value
    monkeypatch.setattr(metadata, "metadata", lambda _: said)
    found = sbom._licence("any")
    for one in (found, (found or {}).get("license", {})):
        if one:
            one.pop("acknowledgement", None)
    assert found == licence


def test_a_package_of_other_pythons_changes_nothing_where_it_is_installed(sbom, monkeypatch):
    before = made(sbom)
    marked = {one["name"] for one in before["components"] if "properties" in one}
    assert marked
    said = Message()
    said["License-Expression"] = "MIT"
    real, needs = metadata.metadata, metadata.requires
    monkeypatch.setattr(metadata, "metadata", lambda name: said if name in marked else real(name))
    monkeypatch.setattr(metadata, "requires", lambda name: ["redis>=1"] if name in marked else needs(name))
    assert made(sbom) == before
