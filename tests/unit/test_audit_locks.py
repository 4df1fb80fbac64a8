"""`make audit` asks for everything that is locked, and says so where it gets no answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

LOCKED = {
    found
    for path in (ROOT / "locks").glob("*.txt")
    for found in re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE)
}

STANDING_IN = """
import json, pathlib, re, sys
sys.path.insert(0, "")
answer = json.loads(pathlib.Path({answers!r}).read_text())
text = pathlib.Path(sys.argv[sys.argv.index("-r") + 1]).read_text()
found = re.findall(r"^([\\w.-]+)==(\\S+)", text, re.MULTILINE)
assert len(dict(found)) == len(found) and " ; " not in text, "as pip-audit would refuse it, or leave it out"
if answer is None:
    sys.exit("no network")
print(json.dumps({{"dependencies": [
    {{"name": name, "skip_reason": "not on PyPI"}} if answer == "none" or name == answer
    else {{
        "name": name, "version": version,
        "vulns": [{{"id": "X-1", "fix_versions": []}}] if [name, version] == answer else [],
    }}
    for name, version in found
]}}))
"""


def audit(directory: Path, answer: object) -> tuple[int, str]:
    (directory / "answer").write_text(json.dumps(answer))
    (directory / "pip_audit.py").write_text(STANDING_IN.format(answers=str(directory / "answer")))
    environ = {**os.environ, "PYTHONPATH": str(directory)}
    command = [sys.executable, str(ROOT / ".ci" / "audit.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_all_that_is_locked_is_asked_for(tmp_path):
    assert audit(tmp_path, "") == (0, f"{len(LOCKED)} of {len(LOCKED)} packages have an answer, 0 vulnerabilities\n")


@pytest.mark.parametrize("package", sorted(found for found in LOCKED if found[0] in ("numpy", "async-timeout")))
def test_a_vulnerability_of_what_another_python_installs_is_found(tmp_path, package):
    status, said = audit(tmp_path, list(package))
    assert status == 1
    assert f"{package[0]} {package[1]}: X-1" in said


@pytest.mark.parametrize("answer", ["none", None])
def test_no_answer_at_all_is_no_check(tmp_path, answer):
    status, said = audit(tmp_path, answer)
    assert status == 2
    assert said.startswith("advisories could not be had, so nothing was checked: ") or "checked:\nno network" in said


def test_one_package_without_an_answer_is_named(tmp_path):
    status, said = audit(tmp_path, "redis")
    assert status == 2
    assert f"{len(LOCKED) - 1} of {len(LOCKED)} packages have an answer" in said
    assert "for example redis: not on PyPI" in said
