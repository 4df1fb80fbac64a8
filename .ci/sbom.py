"""The software bill of materials of a release, in CycloneDX's JSON: what `pip install redis-poolmgr[service]` brings.

Versions and hashes are those of locks/service.txt, with which the release was tested; licences and who needs whom are
what the packages say of themselves, so it is made where they are installed. The same release has the same bytes, so it
tells neither of a package that only some Pythons or systems need: it may be installed here or not.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

SPECIFICATION = "1.6"

ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?: ; (?P<marker>.+?))? *\\$", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
NAME = re.compile(r"[A-Za-z0-9._-]+")


def locked(path: Path) -> list[tuple[str, str, str, list[str]]]:
    """Name, version, marker and hashes of each package of a lock, with those of the locks in it."""
    found = []
    for part in re.split(r"\n(?=\S)", path.read_text()):
        if part.startswith("-r "):
            found += locked(path.parent / part.removeprefix("-r ").strip())
        elif entry := ENTRY.match(part):
            found.append((entry["name"], entry["version"], entry["marker"] or "", HASH.findall(part)))
    return sorted({(n, v, m, tuple(h)) for n, v, m, h in found})  # type: ignore[arg-type]


def make(lock: Path, artifacts: list[Path], name: str, version: str, epoch: int) -> str:
    """The document.

    Args:
        artifacts: the release's own files.
        epoch: the time of the release.
    """
    packages = locked(lock)
    refs = {package: f"pkg:pypi/{package}@{number}" for package, number, _, _ in packages}
    everywhere = {package for package, _, marker, _ in packages if not marker} | {name}
    root = f"pkg:pypi/{name}@{version}"
    components = [_component(*package) for package in packages]
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPECIFICATION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "library",
                "bom-ref": root,
                "name": name,
                "version": version,
                "purl": root,
                "licenses": [{"license": {"id": "MIT", "acknowledgement": "declared"}}],
                "externalReferences": [
                    {
                        "type": "distribution",
                        "url": artifact.name,
                        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(artifact.read_bytes()).hexdigest()}],
                    }
                    for artifact in artifacts
                ],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": root, "dependsOn": _needed(name, refs, everywhere, extras=True)},
            *({"ref": ref, "dependsOn": _needed(package, refs, everywhere)} for package, ref in sorted(refs.items())),
        ],
    }
    text = json.dumps(document, sort_keys=True)
    return json.dumps({**document, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, text)}"}, indent=1) + "\n"


def _component(package: str, version: str, marker: str, hashes: tuple[str, ...]) -> dict[str, Any]:
    ref = f"pkg:pypi/{package}@{version}"
    found: dict[str, Any] = {"type": "library", "bom-ref": ref, "name": package, "version": version, "purl": ref}
    if marker:
        found["properties"] = [{"name": "cdx:python:marker", "value": marker}]
    elif licence := _licence(package):
        found["licenses"] = [licence]
    found["externalReferences"] = [
        {"type": "distribution", "url": ref, "hashes": [{"alg": "SHA-256", "content": each} for each in hashes]}
    ]
    return found


def _licence(package: str) -> dict[str, Any] | None:
    """What a package declares: by an SPDX expression, or in a word, or by its classifier; None if it declares none, or
    is not installed here (where no release is made)."""
    try:
        said = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return None
    if expression := said.get("License-Expression"):
        return {"expression": expression, "acknowledgement": "declared"}
    names = [
        said.get("License") or "",
        *(line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or () if line.startswith("License ::")),
    ]
    found = [name for name in names if name and "\n" not in name]
    return {"license": {"name": found[0], "acknowledgement": "declared"}} if found else None


def _needed(package: str, refs: dict[str, str], everywhere: set[str], *, extras: bool = False) -> list[str]:
    """What a package needs, of what is locked; for every system and version of Python, and with the extras that the
    others ask it for."""
    if package not in everywhere:
        return []
    wanted = {extra for other in everywhere for line in _requires(other) for extra in _extras(line, package)}
    names = {
        re.sub(r"[-_.]+", "-", match[0]).lower()
        for line in _requires(package)
        if (match := NAME.match(line))
        if extras or "extra ==" not in line or wanted & {*re.findall(r"extra == ['\"](.+?)['\"]", line)}
    }
    return sorted(refs[name] for name in names - {package} if name in refs)


def _requires(package: str) -> list[str]:
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []


def _extras(line: str, package: str) -> list[str]:
    found = re.match(rf"{re.escape(package)}\[([^\]]+)\]", line)
    return found[1].split(",") if found else []
