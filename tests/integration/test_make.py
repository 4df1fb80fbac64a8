"""The two commands on machines that are not ready for them: one line, and nothing half-made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.helpers import ROOT, status_of, wait_for

PYTHON = """#!/bin/sh
# A Python that behaves as a test wants.
case "$*" in
    *version_info*"< (3, 11)"*) exit {old} ;;
    *"import ensurepip, venv"*) exit {no_venv} ;;
    *"-m venv"*) mkdir -p "$3/bin"; touch "$3/bin/python"; {making} ;;
    *) exec {real} "$@" ;;
esac
"""


@pytest.fixture
def fake(tmp_path: Path):
    """Writes such a Python; its path."""

    def write(*, old: int = 0, no_venv: int = 0, making: str = "exit 0") -> str:
        path = tmp_path / "python3"
        path.write_text(PYTHON.format(old=old, no_venv=no_venv, making=making, real=sys.executable))
        path.chmod(0o755)
        return str(path)

    return write


def venv(directory: Path, python: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(ROOT / ".ci" / "venv"), str(directory), python],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_venv_one_line_names_the_package_and_nothing_is_left(tmp_path, fake):
    done = venv(tmp_path / "v", fake(no_venv=1))
    version = "{}.{}".format(*sys.version_info)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"{tmp_path}/python3 has no venv: install it (Debian, Ubuntu: apt install python{version}-venv)\n"
    )
    assert not (tmp_path / "v").exists()


def test_an_old_python_is_told(tmp_path, fake):
    done = venv(tmp_path / "v", fake(old=1))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Python 3.11 or later is needed, and" in done.stderr
    assert not (tmp_path / "v").exists()


def test_without_any_python_it_is_told(tmp_path):
    (tmp_path / "bin").mkdir()
    done = subprocess.run(
        ["/bin/sh", str(ROOT / ".ci" / "venv"), "v"],
        env={"PATH": str(tmp_path / "bin")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "Python 3.11 or later is needed: install it (Debian, Ubuntu: apt install python3 python3-venv)\n",
    )


def test_a_failure_while_it_is_made_leaves_nothing(tmp_path, fake):
    done = venv(tmp_path / "v", fake(making="echo no space left; exit 1"))
    assert (done.returncode, done.stderr) == (1, f"{tmp_path}/python3 cannot make {tmp_path}/v: no space left\n")
    assert not (tmp_path / "v").exists()


def test_an_interruption_leaves_nothing(tmp_path, fake):
    making = subprocess.Popen(
        ["sh", str(ROOT / ".ci" / "venv"), str(tmp_path / "v"), fake(making="kill -INT $PPID $$; sleep 60")],
        start_new_session=True,
        # Where the tests run in the background of a script it is ignored, and a shell cannot undo that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert status_of(making, 30) == 130
    wait_for(lambda: not (tmp_path / "v").exists())


def test_one_that_was_killed_half_way_is_made_anew(tmp_path, fake):
    (tmp_path / "v" / "bin").mkdir(parents=True)
    (tmp_path / "v" / ".unfinished").touch()
    (tmp_path / "v" / "bin" / "python").touch()
    (tmp_path / "v" / "rest").touch()
    assert venv(tmp_path / "v", fake()).returncode == 0
    assert (tmp_path / "v" / ".whole").exists()
    assert not (tmp_path / "v" / "rest").exists()


def test_one_that_somebody_made_is_used_as_it_is(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True, timeout=100)
    (packages,) = (tmp_path / "v").glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib"))  # pip is there
    assert venv(tmp_path / "v", sys.executable).returncode == 0
    assert (tmp_path / "v" / ".whole").exists()


def test_something_else_in_its_place_is_left_alone(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "thesis.txt").touch()
    done = venv(tmp_path / "v", sys.executable)
    assert done.returncode == 1
    assert done.stderr.endswith("is there and is no virtual environment of Python 3.11 or later with pip: remove it\n")
    assert (tmp_path / "v" / "thesis.txt").exists()


def test_help_names_every_target():
    done = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, timeout=30, check=True)
    shown = {line.split()[0] for line in done.stdout.splitlines() if line and not line.startswith("make")}
    assert {"help", "run", "test", "lint", "types", "format", "clean"} <= shown
