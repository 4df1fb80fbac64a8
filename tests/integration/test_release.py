"""A release: the same bytes wherever and by whom it is made, everything that is committed, and itself again from the
sdist. ``make release-check`` also installs the sdist and runs its unit tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.helpers import ROOT, SAFELY

pytest.importorskip("hatchling")

if not (ROOT / ".git").exists():
    pytest.skip("no repository: a release is made of what is committed", allow_module_level=True)


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True).stdout


def make(tree: Path, directory: Path, *, umask: int = 0o022, **environ: str) -> dict[str, bytes]:
    """The files of a release, made by a tree's own script."""
    command = [sys.executable, ".ci/release.py", "--without-bill", str(directory)]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environ}
    subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=120, umask=umask, env=env)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made")
    make(ROOT, directory / "dist")
    return directory / "dist"


def test_it_has_the_same_bytes_from_elsewhere(release: Path, tmp_path: Path):
    tree = tmp_path / "another place"
    subprocess.run(["git", "clone", "-q", ROOT, tree], check=True, umask=0o077)
    (tree / "poolmgr" / "junk.py").touch()
    (tmp_path / ".gitconfig").write_text(
        f"[core]\nautocrlf = true\nattributesFile = {tmp_path}/mine\n[tar]\numask = 077\n[safe]\ndirectory = *\n"
    )
    (tmp_path / "mine").write_text("*.md export-ignore\n*.py eol=crlf\n")
    odd = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "SOURCE_DATE_EPOCH": "12345", "GIT_CONFIG_SYSTEM": "/dev/null"}
    again = make(tree, tmp_path / "again", umask=0o077, HOME=str(tmp_path), **odd)
    assert again == {path.name: path.read_bytes() for path in release.iterdir()}


def unpacked(release: Path, directory: Path) -> Path:
    (sdist,) = release.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert {(member.uid, member.gid) for member in archive} == {(0, 0)}
        assert {member.mode & 0o777 for member in archive} <= {0o644, 0o755}
        archive.extractall(directory, **SAFELY)
    (tree,) = directory.iterdir()
    return tree


def test_the_sdist_has_all_that_is_committed_and_makes_the_wheel_without_git(release: Path, tmp_path: Path):
    tree = unpacked(release, tmp_path / "unpacked")
    there = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    assert {*git("ls-tree", "-r", "--name-only", "HEAD").split("\n")} - {""} - there == set()
    assert there - {*git("ls-tree", "-r", "--name-only", "HEAD").split("\n")} == {"PKG-INFO"}
    (tmp_path / "empty").mkdir()
    again = make(tree, tmp_path / "again", PATH=str(tmp_path / "empty"))
    (wheel,) = release.glob("*.whl")
    assert again[wheel.name] == wheel.read_bytes()


def test_the_sdist_runs_its_own_unit_tests(release: Path, tmp_path: Path):
    """Those about files that come with it; the others are collected. Nobody reads what an assertion says there, so none
    is rewritten."""
    tree = unpacked(release, tmp_path / "unpacked")
    files = [f"test_{name}.py" for name in ("documents", "locks", "structure", "wire")]
    assert all((tree / "tests" / "unit" / name).exists() for name in files)
    options = ["-p", "no:cacheprovider", "--assert=plain", "-q", "-k", " or ".join(files)]
    command = [sys.executable, "-m", "pytest", *options, "tests/unit"]
    environ = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
