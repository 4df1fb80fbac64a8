"""The examples of ``docs/http.md``, run by a shell as they are printed."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.helpers import ROOT

_PAIR = re.compile(r"```sh\n((?:(?!```).)*)```\n+```json\n(.*?)```", re.DOTALL)


@pytest.fixture
def service(make):
    return make().start()


def test_the_examples_do_what_they_show(service):
    examples = _PAIR.findall((ROOT / "docs" / "http.md").read_text())
    assert len(examples) > 8
    environ = {**os.environ, "URL": f"http://127.0.0.1:{service.port}", "TOKEN": service.token}
    for command, expected in examples:
        # A caller's shell starts each answer on a line of its own; curl ends none.
        lines = [line for line in command.splitlines() if line]
        script = "\n".join(f"{line}; echo" for line in lines)
        done = subprocess.run(
            ["bash", "-c", script], env=environ, capture_output=True, text=True, timeout=30, check=True
        )
        assert done.stdout == expected, command
