"""Whether gunicorn's heartbeat files can be made is tried before it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from poolmgr.gunicorn.checks import StartError, check_temporary
from tests.helpers import ROOT

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to mount file systems")

IN_NAMESPACE = """\
set -eu
mount --make-rprivate /
mount -t tmpfs -o size=4k,mode=1777 tmpfs "$1"
head -c 4096 /dev/zero >"$1/full"
for name in ".poolmgr-$$" "poolmgr-$$" "$$"; do ln -s full "$1/$name"; done
for place in /tmp /var/tmp /usr/tmp; do
  [ ! -d $place ] || { mount --bind $place $place; mount -o remount,bind,ro $place; }  # Python may be there
done
shift
cd /proc
exec "$@"
"""

TRIES = """\
import os, sys
from poolmgr.gunicorn.checks import StartError, check_temporary
for directory in (None, sys.argv[1]):
    try:
        check_temporary(directory)
        print("no objection")
    except StartError as error:
        print(error)
print(os.path.getsize(sys.argv[1] + "/full"))
"""


def test_a_directory_with_room_is_fine_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    check_temporary(str(tmp_path))
    check_temporary(None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for directory, why in ((tmp_path / "absent", "No such file or directory"), (file, "Not a directory")):
        with pytest.raises(StartError) as caught:
            check_temporary(str(directory))
        assert str(caught.value).startswith(f"no temporary file can be written to {directory} ({why})")


@pytest.mark.root
@needs_root
def test_a_full_directory_is_refused_with_its_reason_and_no_name_that_others_can_foresee_is_written_to() -> None:
    """A link of another user there could lead to a file of ours."""
    full = "/mnt"  # in the namespace only
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", IN_NAMESPACE, "sh", full, sys.executable, "-c", TRIES, full],
        env={**os.environ, "TMPDIR": full, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    first, second, size = done.stdout.splitlines()
    assert size == "4096", "the link was followed"
    assert first == second
    assert first.startswith(f"no temporary file can be written to {full} (No space left on device)"), done.stdout
