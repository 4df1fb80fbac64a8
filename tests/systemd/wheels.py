"""Wheels of what is installed here, so that an installation needs no network.

The project's own wheel is made from the tree, with the metadata of pyproject.toml; the others are
packed again from the files that pip has installed. pip then resolves and installs them as ever.
"""

from __future__ import annotations

import re
import stat
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import poolmgr
from tests.helpers import ROOT


def make_project(directory: Path, version: str = poolmgr.__version__) -> None:
    """The project's own wheel, if wanted under another version."""
    directory.mkdir(parents=True, exist_ok=True)
    _pack_project(directory, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], version)


def make(directory: Path, extra: str) -> None:
    """Wheels of the project and of everything that its ``extra`` needs.

    Raises:
        LookupError: something of it is not installed.
    """
    make_project(directory)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    done: set[str] = set()
    waiting = [*project["dependencies"]]
    extras = [extra]
    while extras:
        for text in project["optional-dependencies"][extras.pop()]:
            needed = Requirement(text)
            if needed.name == project["name"]:
                extras += needed.extras
            else:
                waiting.append(text)
    while waiting:
        needed = Requirement(waiting.pop())
        key = f"{_canonical(needed.name)}[{','.join(sorted(needed.extras))}]"
        if key in done:
            continue
        done.add(key)
        found = metadata.distribution(needed.name)
        if f"{_canonical(needed.name)}[]" not in done or not needed.extras:
            _pack_installed(directory, found)
        for text in found.requires or ():
            other = Requirement(text)
            wanted = [{"extra": name} for name in needed.extras] or [{"extra": ""}]
            if other.marker is None or any(other.marker.evaluate(environment) for environment in wanted):
                waiting.append(text)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pack_project(directory: Path, project: dict[str, object], version: str) -> None:
    name = str(project["name"]).replace("-", "_")
    stem = f"{name}-{version}"
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {version}"]
    dependencies = project["dependencies"]
    optional = project["optional-dependencies"]
    scripts = project["scripts"]
    assert isinstance(dependencies, list)
    assert isinstance(optional, dict)
    assert isinstance(scripts, dict)
    lines += [f"Requires-Dist: {text}" for text in dependencies]
    for extra, texts in optional.items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {text}; extra == "{extra}"' for text in texts]
    members: dict[str, bytes] = {
        f"{stem}.dist-info/METADATA": ("\n".join(lines) + "\n").encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/entry_points.txt": (
            "[console_scripts]\n" + "".join(f"{key} = {value}\n" for key, value in scripts.items())
        ).encode(),
    }
    for package in ("poolmgr", "worker"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix in (".py", ".typed", ".lua", ".json"):
                members[str(path.relative_to(ROOT))] = path.read_bytes()
    where = "poolmgr/__init__.py"
    said = f'__version__ = "{poolmgr.__version__}"'.encode()
    assert said in members[where]
    members[where] = members[where].replace(said, f'__version__ = "{version}"'.encode())
    _write(directory / f"{stem}-py3-none-any.whl", members, f"{stem}.dist-info")


def _pack_installed(directory: Path, found: metadata.Distribution) -> None:
    tags = re.findall(r"^Tag: *(\S+)-(\S+)-(\S+)$", str(found.read_text("WHEEL")), re.MULTILINE)
    tag = "-".join(".".join(dict.fromkeys(words)) for words in zip(*tags, strict=True))
    members: dict[str, bytes] = {}
    info = ""
    for file in found.files or ():
        parts = file.parts
        if (
            ".." in parts
            or "__pycache__" in parts
            or parts[-1] in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
        ):
            continue
        if parts[0].endswith(".dist-info"):
            info = parts[0]
        members[str(file)] = Path(str(found.locate_file(file))).read_bytes()
    stem = info.removesuffix(".dist-info")
    _write(directory / f"{stem}-{tag}.whl", members, info)


def _write(path: Path, members: dict[str, bytes], info: str) -> None:
    record = "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in {**members, f"{info}/RECORD": record.encode()}.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o755) << 16  # a package may bring a program
            wheel.writestr(entry, data)
