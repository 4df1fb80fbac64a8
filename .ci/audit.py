"""Ask for known vulnerabilities of every locked package, whichever Pythons and systems it is for.

The status is 1 if there is one, and 2 if advisories could not be had: then nothing has been checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sbom import locked

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    packages = {package for path in sorted((ROOT / "locks").glob("*.txt")) for package in locked(path)}
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for path in written(packages, Path(work)):
            command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner=off"]
            done = subprocess.run(
                [*command, "-f", "json", "-r", str(path)], capture_output=True, text=True, check=False
            )
            try:
                found += json.loads(done.stdout)["dependencies"]
            except (ValueError, KeyError):
                print(f"advisories could not be had, so nothing was checked:\n{done.stderr.strip()}", file=sys.stderr)
                return 2
    skipped = {f"{one['name']}: {one['skip_reason']}" for one in found if "skip_reason" in one}
    asked = {(one["name"], one["version"]) for one in found if "version" in one}
    wrong = sorted(
        f"{one['name']} {one['version']}: {each['id']}, mended in {', '.join(each['fix_versions']) or 'no version yet'}"
        for one in found
        for each in one.get("vulns", ())
    )
    print(*dict.fromkeys(wrong), sep="\n", end="\n" if wrong else "")
    versions = {(name, version) for name, version, _, _ in packages}
    if not asked:
        print(f"advisories could not be had, so nothing was checked: {min(skipped, default='')}", file=sys.stderr)
        return 2
    print(f"{len(asked)} of {len(versions)} packages have an answer, {len(set(wrong))} vulnerabilities")
    if skipped:
        print(f"the index has no advisories for the others, for example {min(skipped)}", file=sys.stderr)
    return 1 if wrong else 2 if len(asked) < len(versions) else 0


def written(packages: set[tuple[str, str, str, tuple[str, ...]]], directory: Path) -> list[Path]:
    """Files of requirements with every package in one of them, and without its marker: pip-audit leaves out what this
    Python would not install, and takes one version of a package at a time."""
    files: list[dict[str, str]] = []
    for name, version, hashes in sorted({(name, version, hashes) for name, version, _, hashes in packages}):
        lines = " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{each}" for each in hashes)])
        place = next((file for file in files if name not in file), None)
        if place is None:
            files.append(place := {})
        place[name] = lines
    paths = [directory / f"{number}.txt" for number in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_text("\n".join([*file.values(), ""]))
    return paths


if __name__ == "__main__":
    sys.exit(main())
