"""The site's documents, put together: the files at the top and those of docs/, side by side, as mkdocs wants them.

Links keep leading where they lead in the repository; what they name of the sources comes along, under source/. mkdocs
also loads this file as its hooks (`mkdocs.yml`): docstrings name each other as Sphinx would have it, and the site shows
the name only.
"""

from __future__ import annotations

import logging
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MADE = ROOT / "build" / "documents"

LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(\))")
ROLE = re.compile(r":(?:func|class|mod|meth|data|attr|exc|const):(?=<code>)")
OURS = re.compile(ROLE.pattern.replace("(?=<code>)", r"<code>(poolmgr[\w.]*)</code>"))
FENCE = re.compile(r"(^```.*?^```\n)", re.DOTALL | re.MULTILINE)


def place(path: Path) -> Path:
    """Where a file of the repository is in the site."""
    inner = path.relative_to(ROOT)
    if inner == Path("README.md"):
        return Path("index.md")
    if inner.parts[0] == "docs":
        return inner.relative_to("docs")
    if inner.suffix == ".md" and len(inner.parts) == 1:
        return inner
    return Path("source", *(part.lstrip(".") for part in inner.parts))  # mkdocs leaves out what begins with a dot


def translated(path: Path, named: set[Path]) -> str:
    """A document, with its links as the site needs them; the files that they lead to are added to ``named``."""

    def link(match: re.Match[str]) -> str:
        target = (path.parent / match[2]).resolve()
        if not target.is_file():  # mkdocs says so
            return match[0]
        named.add(target)
        up = len(place(path).parent.parts)
        return f"{match[1]}{'../' * up}{place(target)}{match[3] or ''}{match[4]}"

    parts = FENCE.split(path.read_text())
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def assemble() -> None:
    shutil.rmtree(MADE, ignore_errors=True)
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    named: set[Path] = set()
    for path in documents:
        to = MADE / place(path)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(translated(path, named))
    for path in named.difference(documents):
        to = MADE / place(path)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Called by mkdocs."""
    for name in dict.fromkeys(OURS.findall(html)):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            logging.getLogger("mkdocs").warning(
                "%s: a docstring names %s, which is not there", page.file.src_path, name
            )
    return ROLE.sub("", html)


def main() -> int:
    assemble()
    # Not --quiet: what is not shown is not counted either.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout)
        return done.returncode
    import reference  # beside this file; mkdocs, which loads this file too, does not look there

    site = ROOT / "build" / "site"
    if wrong := reference.missing(site):
        print(*wrong, sep="\n")
        return 1
    print(site / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
