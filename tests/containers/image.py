"""An image, built of a Dockerfile's own steps: each step that changes files makes a layer over those before it.

What a builder like Docker would do, as far as our file needs it: ``FROM debian:VERSION-slim`` is a bare root made by
debootstrap, ``RUN`` a shell in it as root, with this machine's network and way to the package index. A layer is kept in
the cache under a hash of all that it was made of. A step that is not known here is an error, not skipped.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dockerfile_parse import DockerfileParser

from tests.helpers import ROOT
from tests.matrix.machine import TRUST
from tests.matrix.packages import way_to_the_index
from tests.matrix.roots import CACHE, UnavailableError, bare_root, last_line

FILE = ROOT / "deploy" / "container" / "Dockerfile"

SUITES = {"12": "bookworm", "13": "trixie"}

LAYERS = CACHE / "image"

DAYS = 7
"""For how long a layer is kept that nothing uses."""

OVER = """\
set -eu
mount --make-rprivate /
m=$1
mount -t tmpfs tmpfs "$m"
mkdir "$m/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$3/upper,workdir=$3/work" "$m/root"
"""

RUN = (
    OVER
    + """\
r=$m/root
mount -t proc proc "$r/proc"
mount -t tmpfs -o mode=1777 tmpfs "$r/tmp"
mount -t tmpfs -o mode=755 tmpfs "$r/run"
mount --rbind /dev "$r/dev"
for file in /etc/resolv.conf /etc/pip.conf; do
  [ -e "$file" ] || continue
  mkdir -p "$r/$(dirname "$file")"
  [ -e "$r$file" ] || : >"$r$file"
  mount --bind "$(readlink -f "$file")" "$r$file"
done
cp {trust} "$r/run/trust.crt"  # the step may install its own at the usual place
shift 3
exec chroot "$r" "$@"
""".replace("{trust}", TRUST)
)

COPY = (
    OVER
    + """\
t=$m/root$4
shift 4
umask 022
case $t in */) mkdir -p "$t" ;; *) mkdir -p "$(dirname "$t")" ;; esac
cp -a --no-preserve=ownership "$@" "$t"
"""
)

COPY_FROM = (
    OVER
    + """\
mkdir "$m/from"
mount -t overlay overlay -o "lowerdir=$4" "$m/from"
mkdir -p "$(dirname "$m/root$6")"
cp -a "$m/from$5" "$m/root$6"
"""
)


@dataclass
class Image:
    """What a stage has come to.

    Attributes:
        layers: directories, the newest first, the bare root last.
    """

    layers: list[Path] = field(default_factory=list)
    made_of: str = ""
    environ: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    user: str = "0:0"
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    stop: str = "SIGTERM"
    ports: list[int] = field(default_factory=list)

    @property
    def lower(self) -> str:
        return ":".join(map(str, self.layers))


def steps(path: Path = FILE) -> Iterator[tuple[str, str]]:
    """Instructions and their text, continued lines joined, without comments."""
    for step in DockerfileParser(path=str(path), cache_content=True).structure:
        if step["instruction"] != "COMMENT":
            yield step["instruction"].upper(), step["value"].strip()


def build(path: Path = FILE) -> Image:
    """The last stage of the file.

    Raises:
        UnavailableError: a step needs what cannot be had here.
        AssertionError: a step fails, or is not known here.
    """
    LAYERS.mkdir(parents=True, exist_ok=True)
    with locked(str(LAYERS / ".lock")):
        return _build(path)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Two processes that build at the same time would do the same work twice."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(path: Path) -> Image:
    stages: dict[str, Image] = {}
    now = Image()
    for instruction, text in steps(path):
        match instruction:
            case "FROM":
                now = _from(text)
                stages[text.rpartition(" AS ")[2].strip()] = now
            case "RUN":
                _layer(now, f"RUN {text}", lambda layer: _run(now, layer, text))  # noqa: B023 (called at once)
            case "COPY":
                _copy(now, text, stages)
            case "ENV":
                for word in shlex.split(text):
                    name, _, value = word.partition("=")
                    now.environ[name] = value
            case "WORKDIR":
                now.directory = text
            case "USER":
                now.user = text
            case "EXPOSE":
                now.ports = [int(port) for port in text.split()]
            case "STOPSIGNAL":
                now.stop = text
            case "HEALTHCHECK":
                now.health = json.loads(text[text.index("CMD ") + 4 :])
            case "ENTRYPOINT":
                now.entry = json.loads(text)
            case "CMD":
                now.command = json.loads(text)
            case _:
                raise AssertionError(f"{instruction} is not known here")
    for layer in now.layers[:-1]:
        os.utime(layer.parent)
    _forget()
    return now


def _from(text: str) -> Image:
    image, _, tag = text.split(maxsplit=1)[0].partition(":")
    version, _, kind = tag.partition("-")
    assert (image, kind) == ("debian", "slim"), f"{text}: what is that made of?"
    root = bare_root(SUITES[version], print)
    return Image(layers=[root], made_of=root.name)


def _layer(image: Image, what: str, make: Any) -> None:
    """The layer of a step, from the cache if it is there."""
    image.made_of = hashlib.sha256(f"{image.made_of}\0{what}".encode()).hexdigest()[:16]
    home = LAYERS / image.made_of
    if not home.is_dir():
        new = LAYERS / f".{image.made_of}-{os.getpid()}"
        shutil.rmtree(new, ignore_errors=True)
        for name in ("upper", "work", "at"):
            (new / name).mkdir(parents=True)
        make(new)
        shutil.rmtree(new / "work")
        try:
            new.rename(home)
        except OSError:  # another run was quicker
            shutil.rmtree(new)
    image.layers = [home / "upper", *image.layers]


def _run(image: Image, layer: Path, text: str) -> None:
    environ = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    index = {**way_to_the_index(), "PIP_CERT": "/run/trust.crt"}
    words = [f"{name}={value}" for name, value in {**environ, **index, **image.environ}.items()]
    script = f"cd {shlex.quote(image.directory)}\n{text}"
    _namespaced(image, layer, RUN, "env", "-i", *words, "sh", "-euc", script)


def _copy(image: Image, text: str, stages: dict[str, Image]) -> None:
    words = text.split()
    if words[0].startswith("--from="):
        other = stages[words[0].partition("=")[2]]
        _, source, target = words
        _layer(
            image,
            f"COPY {other.made_of} {text}",
            lambda layer: _namespaced(image, layer, COPY_FROM, other.lower, source, target),
        )
        return
    *sources, target = words
    found = [name for source in sources for name in sorted(glob.glob(source, root_dir=ROOT))]
    assert found, text
    directory = image.directory.rstrip("/")
    many = len(found) > 1 or target.startswith(".")
    place = f"{directory}/{target.removeprefix('./')}" if not target.startswith("/") else target
    place = place.rstrip("/") + "/" if many else place
    digest = hashlib.sha256()
    for name in found:
        for path in _files(ROOT / name):
            digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_mode & 0o111}\0".encode() + path.read_bytes())
    _layer(image, f"COPY {text} {place} {digest.hexdigest()}", lambda layer: _put(image, layer, found, place))


def _files(path: Path) -> list[Path]:
    """What ``.dockerignore`` leaves of a part of the tree."""
    if path.is_file():
        return [path]
    return [file for file in sorted(path.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]


def _put(image: Image, layer: Path, names: list[str], place: str) -> None:
    aside = layer / "context"
    for name in names:
        for file in _files(ROOT / name):
            target = aside / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
    _namespaced(image, layer, COPY, place, *(str(aside / name) for name in names))
    shutil.rmtree(aside)


def _namespaced(image: Image, layer: Path, script: str, *words: str) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "build", str(layer / "at"),
         image.lower, str(layer), *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        said = done.stdout + done.stderr
        shutil.rmtree(layer, ignore_errors=True)
        if any(
            sign in said for sign in ("Could not resolve", "Temporary failure", "NewConnectionError", "Unable to fetch")
        ):
            raise UnavailableError(f"a step of {FILE.name} needs the package index: {last_line(said)}")
        raise AssertionError(f"status {done.returncode} of {words[-1]}\n{said[-3000:]}")


def _forget() -> None:
    for old in LAYERS.iterdir():
        if old.is_dir() and time.time() - old.stat().st_mtime > DAYS * 86400:
            shutil.rmtree(old, ignore_errors=True)
