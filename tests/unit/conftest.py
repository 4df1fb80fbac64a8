"""Fixtures that several files share: a supervisor of the test's own with a member, and a ledger."""

from __future__ import annotations

import pytest

from poolmgr import settings
from poolmgr.member import closer
from poolmgr.member.member import Member
from tests.unit.book import Book
from tests.unit.fake_supervisor import FakeSupervisor


@pytest.fixture
def supervisor(isolated, monkeypatch):
    monkeypatch.setenv("POOLMGR_AUTOSTART", "0")
    made = FakeSupervisor(isolated)
    yield made
    made.stop()


@pytest.fixture
def member(supervisor, monkeypatch):
    """Its closer is patient: a test that lets go of a connection may get its turn seconds later on a busy machine."""
    monkeypatch.setattr(closer, "BOUND", 30.0)
    made = Member(settings.load())
    yield made
    made.stop()


@pytest.fixture
def book() -> Book:
    return Book()
