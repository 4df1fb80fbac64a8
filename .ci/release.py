"""Make a release: dist/ with a wheel, an sdist, the bill of materials and their checksums.

    release.py [--without-bill] [DIRECTORY]
    release.py --check

It is made of what is committed, not of what lies around, and the same commit gives the same bytes, whatever the
directory, the umask and the time: hatchling sorts files and makes owners, modes and times equal; the time is the
commit's. Without git, in an unpacked sdist, the files are those of the directory, and the time is that of
pyproject.toml, which the sdist gives the commit's.

With --check, the sdist is unpacked in a directory by itself, where no git is found. It installs what it needs, passes
its unit tests, and makes the same wheel.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

SAFELY: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""How an archive is unpacked. Python has filters from 3.11.4 on, and Debian 12 has 3.11.2."""

AS_COMMITTED = ("-c", "core.autocrlf=false", "-c", "core.eol=lf", "-c", f"core.attributesFile={os.devnull}")
"""Whatever the packager's own configuration of git does to files."""


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        return check()
    bill = "--without-bill" not in arguments
    names = [name for name in arguments if not name.startswith("--")]
    for path in make(Path(names[0] if names else ROOT / "dist").absolute(), bill=bill):
        print(path)
    return 0


def make(directory: Path, *, bill: bool = True) -> list[Path]:
    """The files of a release, in a directory that is emptied first."""
    with tempfile.TemporaryDirectory() as work:
        tree, epoch = source(Path(work))
        made = Path(work) / "made"
        command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(made)]
        environ = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
        subprocess.run(command, cwd=tree, env=environ, check=True, stdout=subprocess.DEVNULL)
        artifacts = sorted(made.iterdir())
        if bill:
            artifacts.append(bill_of_materials(tree, made, artifacts, epoch))
        sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in artifacts)
        (made / "SHA256SUMS").write_text(sums)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        return [Path(shutil.copyfile(path, directory / path.name)) for path in sorted(made.iterdir())]


def source(work: Path) -> tuple[Path, int]:
    """The files to be packed, and their time."""
    try:
        top = _git("rev-parse", "--show-toplevel")
    except (OSError, subprocess.CalledProcessError):
        top = ""
    if not top or Path(top) != ROOT:  # an sdist, perhaps within another repository
        return ROOT, int((ROOT / "pyproject.toml").stat().st_mtime)
    if changes := _git("status", "--porcelain", "--untracked-files=no"):
        print(f"not in this release, because it is not committed:\n{changes}", file=sys.stderr)
    tree = work / "tree"
    subprocess.run(["git", *AS_COMMITTED, "-C", ROOT, "archive", f"--output={work}/tree.tar", "HEAD"], check=True)
    with tarfile.open(work / "tree.tar") as archive:
        archive.extractall(tree, **SAFELY)  # noqa: S202 (filtered, where Python can)
    return tree, int(_git("log", "-1", "--format=%ct"))


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", ROOT, *arguments], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout.strip()


def bill_of_materials(tree: Path, directory: Path, artifacts: list[Path], epoch: int) -> Path:
    """Raises ValueError if it is not valid by the schema."""
    import sbom
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    name, version = "redis-poolmgr", version_of(tree)
    text = sbom.make(tree / "locks" / "service.txt", artifacts, name, version, epoch)
    if wrong := JsonStrictValidator(SchemaVersion.from_version(sbom.SPECIFICATION)).validate_str(text):
        raise ValueError(wrong)
    path = directory / f"{name.replace('-', '_')}-{version}.cdx.json"
    path.write_text(text)
    return path


def version_of(tree: Path) -> str:
    found = re.search(r'^__version__ = "([^"]+)"', (tree / "poolmgr" / "__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def unpack(sdist: Path, directory: Path) -> Path:
    """The directory that the sdist makes in another."""
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, **SAFELY)  # noqa: S202 (likewise)
    (tree,) = directory.iterdir()
    return tree


def check() -> int:
    with tempfile.TemporaryDirectory(prefix="release") as name:
        work = Path(name)
        wheel, sdist = (next(path for path in make(work / "release") if path.suffix == end) for end in (".whl", ".gz"))
        (work / "bin").mkdir()
        for directory in reversed(os.environ["PATH"].split(":")):
            for program in Path(directory).glob("*"):
                link = work / "bin" / program.name
                if program.name != "git" and os.access(program, os.X_OK) and program.is_file():
                    link.unlink(missing_ok=True)
                    link.symlink_to(program)
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "MAKE", "PYTHON"))}
        environ.update(PATH=str(work / "bin"), HOME=str(work))
        tree = unpack(sdist, work / "unpacked")

        def run(*command: str) -> None:
            print("+", *command, flush=True)
            subprocess.run(command, cwd=tree, env=environ, check=True)

        assert shutil.which("git", path=environ["PATH"]) is None
        run("make", f"PYTHON={os.path.realpath(sys.executable)}", ".venv/.have-test")
        run(".venv/bin/python", "-m", "pytest", "-q", "-n2", "tests/unit")
        run(".venv/bin/python", ".ci/release.py", "--without-bill", str(work / "again"))
        again = work / "again" / wheel.name
        assert again.read_bytes() == wheel.read_bytes(), "the sdist makes another wheel"
        print("the sdist installs, passes its unit tests, and makes the same wheel")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
