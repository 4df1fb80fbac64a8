"""What pip installs in a root: the locked packages, fetched while it still has a network."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from tests.helpers import ROOT
from tests.matrix.machine import SHARED, TRUST, Machine
from tests.matrix.roots import CACHE, Say, UnavailableError, last_line

LOCKED = ("build", "test")
"""Locks of what ``make run`` and ``make test`` install."""

FREE = "upstash-redis==1.8.0"
FREE_OF_NODE = "@upstash/redis@1.39.0 @upstash/ratelimit@2.2.0"
"""What the tests install themselves (``tests/integration/test_upstash.py``)."""

FETCH = f"""\
set -eu
"$1" -m venv /tmp/fetch
pip="/tmp/fetch/bin/python -m pip --disable-pip-version-check download --no-cache-dir --dest /wheels"
$pip --no-deps --require-hashes {" ".join(f"-r locks/{name}.txt" for name in LOCKED)}
$pip {FREE}
mkdir /tmp/node
cd /tmp/node
npm install --cache=/wheels/node --no-audit --no-fund {FREE_OF_NODE}
rm -rf /wheels/node/_logs
"""

OFFLINE = {
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/wheels",
    "NPM_CONFIG_OFFLINE": "true",
    "NPM_CONFIG_CACHE": f"{SHARED}/node",
}
"""How pip and npm find them. npm writes to what it reads from, so it has a copy (:func:`fetch`)."""


def fetch(machine: Machine, name: str, python: str, say: Say) -> None:
    """Put the packages for that Python into the machine, from the cache if they are there.

    Raises:
        UnavailableError: the index does not give them.
    """
    locks = b"".join(path.read_bytes() for path in sorted((ROOT / "locks").glob("*.txt")))
    recipe = hashlib.sha256(locks + FETCH.encode()).hexdigest()[:12]
    home = CACHE / "wheels" / f"{name}-{recipe}"
    if home.is_dir():
        say(f"{len(list(home.iterdir()))} packages from the cache")
        _show(machine, home)
        return
    say("fetching packages ...")
    for old in home.parent.glob(f"{name}-*"):
        shutil.rmtree(old)
    unfinished = home.with_name(home.name + ".unfinished")
    unfinished.mkdir(parents=True)
    machine.wheels = unfinished
    log = CACHE / "logs" / f"{name}-wheels.log"
    log.unlink(missing_ok=True)
    if machine.call(["sh", "-c", FETCH, "fetch", python], log, environ=way_to_the_index(), network=True):
        raise UnavailableError(f"pip cannot fetch what is needed: {last_line(log.read_text())} (all of it: {log})")
    unfinished.rename(home)
    _show(machine, home)


def _show(machine: Machine, home: Path) -> None:
    machine.wheels = home
    shutil.copytree(home / "node", machine.shared / "node", dirs_exist_ok=True)


def way_to_the_index() -> dict[str, str]:
    """Of this machine's environment: how pip reaches an index. Its certificates are at the same place there."""
    names = ("PIP_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")
    found = {name: value for name, value in os.environ.items() if name in names or name.lower().endswith("_proxy")}
    return {**found, "PIP_CERT": TRUST, "NODE_EXTRA_CA_CERTS": TRUST}
