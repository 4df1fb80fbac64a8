"""Who may write beside the supervisor's socket: nobody but us and root. The line that refuses names the owner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, RedisServer, Servers, free_port, python, wait_for

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make files of another user")

NOBODY = 65534

USES = """
import poolmgr
try:
    print(poolmgr.get_client().ping())
except Exception as error:
    print(error)
"""


def refusal(path: Path) -> str:
    """Why no supervisor starts there; empty if one does."""
    done = subprocess.run(
        [sys.executable, "-m", "poolmgr.supervisor", "--socket", str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HASTY": ""},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_directory_that_others_may_write_to_is_refused(short_dir: Path, redis_server: Servers) -> None:
    directory = short_dir / "shared"
    directory.mkdir()
    for mode in (0o777, 0o1777, 0o770):
        directory.chmod(mode)
        said = refusal(directory / "s")
        assert f"{directory} (of " in said
        assert f"mode {mode:04o}) can be written to by others" in said
    assert not list(directory.iterdir()), "nothing was made there"
    server = redis_server(port=free_port())
    done = python(USES, environ={"POOLMGR_SOCKET": str(directory / "s"), "REDIS_URL": server.url})
    assert "can be written to by others" in done.stdout, "and who wants a connection is told so at once"


def test_a_directory_above_that_others_may_replace_is_refused(short_dir: Path) -> None:
    (short_dir / "open" / "ours").mkdir(parents=True, mode=0o700)
    (short_dir / "open").chmod(0o777)
    assert "another directory in the place of" in refusal(short_dir / "open" / "ours" / "s")


@pytest.mark.root
@needs_root
def test_another_users_directory_is_refused(short_dir: Path) -> None:
    directory = short_dir / "theirs"
    directory.mkdir(mode=0o700)
    os.chown(directory, NOBODY, -1)
    assert f"belongs to nobody (uid {NOBODY})" in refusal(directory / "s")
    (directory / "below").mkdir(mode=0o700)
    os.chown(directory, 12345, -1)
    assert f"{directory} belongs to uid 12345" in refusal(directory / "below" / "s")


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("suffix", ["", ".lock", ".snapshot", ".scope", ".redis"])
def test_a_file_of_another_user_is_refused(short_dir: Path, suffix: str) -> None:
    file = short_dir / f"s{suffix}"
    file.touch()
    os.chown(file, NOBODY, -1)
    assert f"{file} belongs to nobody (uid {NOBODY})" in refusal(short_dir / "s")


@pytest.mark.root
@needs_root
def test_another_users_server_is_not_taken_for_the_embedded_one(short_dir: Path) -> None:
    directory = short_dir / "shared"
    directory.mkdir()
    directory.chmod(0o777)
    server = RedisServer(directory)
    server.path = str(directory / "s.redis")
    code = "import os, sys\nos.setgid(65534); os.setuid(65534)\nos.execv(sys.argv[1], sys.argv[1:])"
    short_dir.chmod(0o755)
    command = ["--port", "0", "--unixsocket", server.path, "--save", "", "--dir", str(directory)]
    with subprocess.Popen([sys.executable, "-c", code, server.binary, *command], stdout=subprocess.DEVNULL) as theirs:
        try:
            server.process = theirs
            wait_for(server._answers, 10)
            done = python(USES, environ={"POOLMGR_SOCKET": str(directory / "s")})
            assert f"{directory} (of root" in done.stdout
            assert "mode 0777) can be written to by others" in done.stdout
        finally:
            theirs.kill()
