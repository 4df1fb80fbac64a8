"""What a built site lacks: pages of public names, and ends of links.

mkdocs checks the links that it makes of Markdown. This reads what it has written, so HTML in a document counts too, and
so do public names that no document mentions.
"""

from __future__ import annotations

import ast
import importlib
import re
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent

LISTED = ("poolmgr", "poolmgr.asyncio")
"""Modules that list their public names. The others have those that they define."""

BY_ITSELF = ("poolmgr.conf",)
"""Modules whose names are somebody else's: gunicorn's settings."""

UNNAMED = ("poolmgr.status",)
"""Public modules that README does not name: the schema of `poolmgr status --json`."""

POOLS = ("poolmgr.ConnectionPool", "poolmgr.asyncio.ConnectionPool")


def missing(site: Path) -> list[str]:
    """What is wrong with a built site, one line for each."""
    placed = names_of(site / "objects.inv")
    return [f"{name} has no place: write '::: {name}' into a file of docs/api/" for name in public() - placed] + [
        f"{page.relative_to(site)} leads to {target}, which is not there" for page, target in dead_ends(site)
    ]


# ---- names -----------------------------------------------------------------------------------


def public() -> set[str]:
    readme = (ROOT / "README.md").read_text()
    named = {f"poolmgr.{name}" for name in re.findall(r"\bpoolmgr\.([a-z_]+)", readme)}
    modules = {name for name in named if find_spec(name)} | {*LISTED, *UNNAMED}
    calls = {*re.findall(r"`(?:with |async with |await )?pool\.([a-z_]+)\(", readme)}
    both = calls - {"close", "aclose"}
    methods = {f"{pool}.{call}" for pool in POOLS for call in both}
    methods |= {f"{POOLS[0]}.close", f"{POOLS[1]}.aclose"} if calls - both else set()
    return {f"{module}.{name}" for module in modules for name in _names(module)} | (modules - {*LISTED}) | methods


def _names(module: str) -> set[str]:
    if module in BY_ITSELF:
        return set()
    if module in LISTED:
        return {*importlib.import_module(module).__all__} - {"__version__"}
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text()).body
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in body if isinstance(node, defined) and not node.name.startswith("_")}


def names_of(inventory: Path) -> set[str]:
    """The names of an inventory as Sphinx has them: four lines, then the rest, compressed."""
    rest = inventory.read_bytes().split(b"\n", 4)[4]
    return {line.split(" ")[0] for line in zlib.decompress(rest).decode().splitlines()}


# ---- links -----------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value or "")
            elif name in ("href", "src") and value is not None:
                self.targets.append(value)


def dead_ends(site: Path) -> Iterator[tuple[Path, str]]:
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    for path, page in pages.items():
        for target in dict.fromkeys(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or target in ("#", ""):
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            to = to / "index.html" if to.is_dir() else to
            ids = pages[to].ids if to in pages else {unquote(parts.fragment)}
            if not to.is_file() or (parts.fragment and unquote(parts.fragment) not in ids):
                yield path, target
