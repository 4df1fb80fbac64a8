"""What redis-py's tests expect around them: its sources, servers on the usual ports, certificates.

A run has a network namespace to itself, with a server on port 6379 (some tests ignore the port they are
given), and one on 6380 that three Sentinels on 26379 to 26381 watch as ``redis-py-test``. Sentinels
subscribe and publish at what they watch, which other tests count, so they have a server of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import redis

from tests.helpers import SAFELY

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "redis-poolmgr"


class Unavailable(Exception):
    """Something that the tests need is not to be had here; says what."""


def sources() -> Path:
    """The unpacked source distribution of the installed redis-py: from the cache, or else from the index.

    Raises:
        Unavailable: neither has it.
    """
    version = redis.__version__
    home = CACHE / f"redis-{version}"
    if (home / "tests").is_dir():
        return home
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        fetched = subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--no-binary", "redis", "--dest", place, f"redis=={version}",
            ],
            capture_output=True,
            text=True,
        )  # fmt: skip
        if fetched.returncode:
            words = fetched.stderr.strip().splitlines() or ["pip says nothing"]
            raise Unavailable(f"the index has no sources of redis {version}, and {home} is not there: {words[-1]}")
        with tarfile.open(next(Path(place).glob("redis-*.tar.gz"))) as archive:
            archive.extractall(place, **SAFELY)
        shutil.rmtree(home, ignore_errors=True)
        (Path(place) / home.name).rename(home)
    return home


def unshare() -> list[str]:
    """The command that gives another one a network of its own.

    Raises:
        Unavailable: not allowed here.
    """
    command = ["unshare", "--net"] if os.getuid() == 0 else ["unshare", "--net", "--map-root-user"]
    try:
        tried = subprocess.run([*command, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Unavailable(f"{error.filename} is not installed") from None
    if tried.returncode:
        raise Unavailable(f"no network namespace can be made here: {tried.stderr.strip()}")
    return command


def version_of(server: str) -> str:
    """A server's program and minor version, as ``redis 7.0``."""
    text = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(\w+) server v=(\d+\.\d+)", text)
    return f"{found[1].lower()} {found[2]}" if found else text.strip()


SCRIPT = r"""
server=$1 place=$2 home=$3
shift 3
ip link set lo up
mkdir -p "$place"
cd "$place"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait "${pids[@]}" 2>/dev/null' EXIT
common=(--bind 127.0.0.1 ::1 --save '')
"$server" --port 6379 "${common[@]}" --enable-debug-command yes >6379.log 2>&1 & pids+=($!)
"$server" --port 6380 "${common[@]}" >6380.log 2>&1 & pids+=($!)
for port in 26379 26380 26381; do
    printf 'port %s\nsentinel monitor redis-py-test 127.0.0.1 6380 2\n' $port >$port.conf
    "$server" $port.conf --sentinel >$port.log 2>&1 & pids+=($!)
done
for port in 6379 6380 26379 26380 26381; do
    for _ in {1..400}; do (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null && continue 2; sleep 0.05; done
    echo "nothing listens on $port:"; tail $port.log; exit 99
done
cd "$home"
"$@"
"""


def inside(server: str, home: Path, command: list[str], environ: dict[str, str], *, patience: float) -> str:
    """Run a command beside its servers, alone in a network namespace; its output.

    That goes through a pipe: some of the tests' mock sockets say that their descriptor is 1, and a file there
    would always be readable.

    Args:
        server: program of the server.
        home: directory to run it in; the servers' files are put below it.
        patience: seconds after which it is ended.
    """
    with subprocess.Popen(
        [*unshare(), "bash", "-c", SCRIPT, "run", server, str(home / "servers"), str(home), *command],
        cwd=home,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=patience)
        except BaseException as error:
            os.killpg(process.pid, 9)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            output = f"{process.communicate()[0]}\nended after {patience:g} s"
    return output


def certify(home: Path) -> bool:
    """Make the certificates that the tests look for; whether ``openssl`` is there to do it."""
    if shutil.which("openssl") is None:
        return False
    place = home / "dockers" / "standalone" / "tls"
    place.mkdir(parents=True)
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "redis.key", "-out", "redis.crt",
        ],
        cwd=place, check=True, capture_output=True,
    )  # fmt: skip
    for name in ("ca.crt", "client.crt"):
        shutil.copy(place / "redis.crt", place / name)
    shutil.copy(place / "redis.key", place / "client.key")
    return True
