"""The check of imports finds what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.structure import Tree


def tree(root: Path, **files: str) -> Tree:
    package = root / "house"
    package.mkdir()
    for name, text in {"__init__": "", **files}.items():
        (package / f"{name}.py").write_text(text)
    return Tree(package)


@pytest.mark.parametrize(
    "back",
    [
        "import house.first",
        "from house import first",
        "from house.first import thing",
        "def later():\n    from house import first",
        'from house.lazy import load\ndef later():\n    load("house.first")',
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.first import thing",
    ],
)
def test_a_circle_however_it_is_closed(tmp_path: Path, back: str) -> None:
    found = tree(tmp_path, first="from house import second", second="from house.third import thing", third=back)
    assert found.circles() == [["house.first", "house.second", "house.third"]]


def test_two_circles_are_two(tmp_path: Path) -> None:
    found = tree(
        tmp_path, a="import house.b", b="import house.a", c="import house.d", d="import house.c", e="import house.a"
    )
    assert found.circles() == [["house.a", "house.b"], ["house.c", "house.d"]]


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"rules": '"""Rules.\n\nPure: numbers in and out."""\nimport time'}, 1),
        ({"rules": '"""Rules.\n\nPURE. No clock."""\ndef f():\n    from socket import socket'}, 1),
        ({"rules": '"""Pure."""\nfrom house import helper', "helper": "import threading, os"}, 2),
        ({"rules": '"""Pure."""\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import socket'}, 0),
        ({"rules": '"""Pure."""\nimport math, random, msgspec'}, 0),
        ({"rules": '"""It keeps purely to itself."""\nimport time'}, 0),
    ],
)
def test_what_a_pure_file_may_not_import(tmp_path: Path, files: dict[str, str], count: int) -> None:
    assert len(tree(tmp_path, **files).impure()) == count


LOCK = "import threading\nlock = threading.RLock()\n"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (LOCK + "with lock: pass", 1),
        (LOCK + "lock.acquire()", 1),
        (LOCK + "class One:\n def f(self):\n  with open('x'), self.lock: pass", 1),
        (LOCK + "for _ in taken(lock):\n try: pass\n finally: lock.release()", 0),
        ("import asyncio\nlock = object()\nwith lock: pass", 0),
    ],
)
def test_what_could_leave_a_lock_taken(tmp_path: Path, text: str, count: int) -> None:
    assert len(tree(tmp_path, one=text).left_taken()) == count


@pytest.mark.parametrize(
    ("docstring", "differ"),
    [
        ("- ``first``: this; ``second``: that", []),
        ("- ``first``: this\n  and ``second``", []),
        ("- ``first``: this", ["second"]),
        ("- ``first``: this; ``second``: that; ``third``: gone", ["third"]),
        ("Only words of ``first``.", []),
    ],
)
def test_a_map_of_files_that_lies(tmp_path: Path, docstring: str, differ: list[str]) -> None:
    found = tree(tmp_path, __init__=f'"""A house.\n\n{docstring}\n"""', first="", second="", __main__="")
    wrong = [f"house: its map and its files differ in {differ}"] if differ else []
    assert found.off_the_map() == wrong


def test_the_pure_rooms_say_so() -> None:
    """Else nothing would be checked of them."""
    house = Tree(Path("poolmgr"))
    called = {line.partition(" ")[0] for line in _with_a_clock(house).impure()}
    assert called >= {"poolmgr.budget.ledger", "poolmgr.member.core.process", "poolmgr.pool.queue"}


def _with_a_clock(house: Tree) -> Tree:
    """As if each file imported the clock."""

    for parsed in house.parsed.values():
        parsed.body.append(ast.parse("import time").body[0])
    return house
