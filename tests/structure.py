"""What holds for the imports of the whole package: no circle, and nothing that waits in what is called pure.

import-linter checks which room may use which. It leaves out what only types need, and does not see
:func:`poolmgr.lazy.load`; here both count, and so does an import inside a function. A file is pure if its docstring has
a sentence that begins with "Pure": neither it nor anything of ours that it imports may import what does I/O, tells the
time, or starts threads. Where a package's docstring says so, all its files are. A package whose docstring is a map of
its files ("- ``name``: what it is for") names all of them, and nothing else; that of :data:`PARTLY` may leave some out.
What runs in a user's process takes its locks as :mod:`poolmgr.taking` does.

``make lint`` runs it: ``python -m tests.structure [DIRECTORY]``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

IMPURE = frozenset(
    [
        "asyncio",
        "concurrent",
        "fcntl",
        "logging",
        "mmap",
        "os",
        "prometheus_client",
        "psutil",
        "queue",
        "redis",
        "resource",
        "select",
        "selectors",
        "signal",
        "socket",
        "ssl",
        "structlog",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
    ]
)
"""Top-level modules that a pure file has no business with."""

PARTLY = "poolmgr.pool"

OWN_PROCESS = ("poolmgr.supervisor", "poolmgr.cli")
"""Packages that run in processes of ours, in which no handler raises anything."""

OTHERWISE = {
    "poolmgr.taking": "takes them",
    "poolmgr.forklock": "replaces a lock that has lost its holder",
    "poolmgr.member.waker": "the lock is a bell: a waiting thread takes it, and another one releases it",
}
"""Who may take a lock in another way, and why."""

_PURE = re.compile(r"(?:^|[.:]\s+)(?:Pure|PURE)\b")


class Tree:
    """The modules of a package.

    Args:
        root: the package's directory.
    """

    def __init__(self, root: Path) -> None:
        self.parsed: dict[str, ast.Module] = {}
        for file in sorted(root.rglob("*.py")):
            parts = (root.name, *file.relative_to(root).with_suffix("").parts)
            name = ".".join(parts).removesuffix(".__init__")
            self.parsed[name] = ast.parse(file.read_text())
        self.ours = {name: self._ours(name) for name in self.parsed}
        self._runs = {name: self._ours(name, types=False) for name in self.parsed}

    def _named(self, name: str, *, types: bool = True) -> Iterator[str]:
        """All that a module imports, wherever; without ``types`` not what only types need."""
        skipped: set[int] = set()
        for node in ast.walk(self.parsed[name]):
            if not types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                skipped |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
            if id(node) in skipped:
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield full if full in self.parsed else node.module
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "load":
                yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))

    def _ours(self, name: str, *, types: bool = True) -> set[str]:
        return {found for found in self._named(name, types=types) if found in self.parsed and found != name}

    def circles(self) -> list[list[str]]:
        """Modules that import each other, directly or by way of others: one list for each knot."""
        reached = {name: _reached(name, self.ours) for name in self.parsed}
        knots = {frozenset(o for o in reached[name] if name in reached[o]) for name in self.parsed}
        return sorted(sorted(knot) for knot in knots if knot)

    def _is_pure(self, name: str) -> bool:
        parts = name.split(".")
        above = (self.parsed.get(".".join(parts[:count])) for count in range(2, len(parts) + 1))
        return any(_PURE.search(ast.get_docstring(parsed) or "") for parsed in above if parsed is not None)

    def impure(self) -> list[str]:
        """One line for each import that a pure file should not have."""
        wrong: list[str] = []
        for name in self.parsed:
            if not self._is_pure(name):
                continue
            for user in sorted({name, *_reached(name, self._runs)}):
                bad = {found for found in self._named(user, types=False) if found.partition(".")[0] in IMPURE}
                where = "" if user == name else f" by way of {user}"
                wrong.extend(f"{name} is called pure and imports {found}{where}" for found in sorted(bad))
        return wrong

    def left_taken(self) -> list[str]:
        """One line for each lock that a signal handler's exception could leave taken."""
        wrong: list[str] = []
        locks = {lock for parsed in self.parsed.values() for lock in _locks(parsed)}
        for name, parsed in self.parsed.items():
            if name.startswith(OWN_PROCESS) or name in OTHERWISE:
                continue
            for node in ast.walk(parsed):
                if isinstance(node, ast.With):
                    found = {_last(item.context_expr) for item in node.items} & locks
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    found = {_last(node.func.value)} & locks if node.func.attr == "acquire" else set()
                else:
                    continue
                wrong.extend(f"{name}:{node.lineno} takes {lock}, not by poolmgr.taking" for lock in sorted(found))
        return wrong

    def off_the_map(self) -> list[str]:
        """One line for each package whose map and files differ."""
        wrong: list[str] = []
        for package, parsed in self.parsed.items():
            lines = (ast.get_docstring(parsed) or "").splitlines()
            mapped = {word for line in lines if line[:2] in ("- ", "  ") for word in re.findall(r"``([a-z_]+)``", line)}
            files = {name.rpartition(".")[2] for name in self.parsed if name.rpartition(".")[0] == package}
            differ = mapped - files if package == PARTLY else mapped ^ (files - {"__main__"})
            if files and mapped and differ:
                wrong.append(f"{package}: its map and its files differ in {sorted(differ)}")
        return wrong


def _last(node: ast.expr) -> str:
    """The last word of ``self.word``, ``word``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _locks(parsed: ast.Module) -> Iterator[str]:
    """What a lock is assigned to."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if _last(node.value.func) in ("Lock", "RLock", "allocate_lock"):
                yield from (_last(target) for target in node.targets)


def _reached(name: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = list(imports[name])
    while ahead:
        following = ahead.pop()
        if following not in found:
            found.add(following)
            ahead.extend(imports[following])
    return found


def main(arguments: list[str]) -> int:
    tree = Tree(Path(arguments[0] if arguments else "poolmgr"))
    for knot in tree.circles():
        lines = (f"{name} -> {', '.join(sorted(tree.ours[name] & {*knot}))}" for name in knot)
        print("a circle of imports:", *lines, sep="\n  ")
    wrong = [*tree.impure(), *tree.off_the_map(), *tree.left_taken()]
    for line in wrong:
        print(line)
    return 1 if tree.circles() or wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
