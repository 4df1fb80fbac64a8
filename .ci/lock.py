"""Make locks/*.txt: each package that development and CI install, with its version and the hashes of its files.

    lock.py [--upgrade]

One file for each extra of pyproject.toml, base.txt for what a pool's user installs, and build.txt for what builds the
package. A file begins with those that it contains, so few packages stand twice. The versions are resolved together, for
all Pythons from `requires-python` on, and pip reads the files with --require-hashes. What is locked stays at its
version while it fits; --upgrade takes the newest of everything.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
HEAD = "# Made by `make lock`.\n"

APART = ("agents", "audit", "lock")
"""Extras that are installed without the package."""

ENTRY = re.compile(r"^(?!-r )[^\s#].*\n(?:[ \t].*\n)*", re.MULTILINE)
"""A package with its marker and hashes."""


def main(arguments: list[str]) -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    name = project["project"]["name"]
    requirements = {
        "base": project["project"]["dependencies"],
        "build": [
            *project["build-system"]["requires"],
            "editables",
        ],  # hatchling asks for it where a checkout is installed
        **extras,
    }
    contained: dict[str, list[str]] = {"base": [], "build": []}
    for extra, lines in extras.items():
        within = [line.partition("[")[2].rstrip("]").split(",") for line in lines if line.startswith(f"{name}[")]
        contained[extra] = [*itertools.chain(*within)] or ([] if extra in APART else ["base"])
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        for part, lines in requirements.items():
            own = [line for line in lines if not line.startswith(f"{name}[")]
            (work / f"{part}.in").write_text("\n".join([*(f"-r {of}.in" for of in contained[part]), *own, ""]))
        every = work / "all.txt"
        if "--upgrade" not in arguments:
            every.write_text("".join(path.read_text() for path in sorted(LOCKS.glob("*.txt"))).replace("-r ", "# "))
        compile_(every, *(str(work / f"{part}.in") for part in requirements))
        entries = {}
        for part in requirements:
            compile_(work / f"{part}.txt", str(work / f"{part}.in"), f"--constraints={every}")
            entries[part] = ENTRY.findall((work / f"{part}.txt").read_text())
    LOCKS.mkdir(exist_ok=True)
    for path in LOCKS.glob("*.txt"):
        path.unlink()
    for part, found in entries.items():
        there = {entry for of in contained[part] for entry in entries[of]}
        lines = [HEAD, *(f"-r {of}.txt\n" for of in contained[part]), *(entry for entry in found if entry not in there)]
        (LOCKS / f"{part}.txt").write_text("".join(lines))
    print(f"{len(set().union(*entries.values()))} packages in {len(entries)} files")
    return 0


def oldest() -> str:
    """The oldest Python that there is a version for."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    return required.removeprefix(">=")


def compile_(output: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
    command += [
        "--no-header",
        "--no-annotate",
        "--no-emit-index-url",
        f"--python-version={oldest()}",
        f"--output-file={output}",
        *arguments,
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
