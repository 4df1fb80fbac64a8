"""Ask for known vulnerabilities of every locked package.

The status is 1 if there is one, and 2 if advisories could not be had: then nothing has been checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    locks = [argument for path in sorted((ROOT / "locks").glob("*.txt")) for argument in ("-r", str(path))]
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner=off"]
    done = subprocess.run([*command, "-f", "json", *locks], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
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
    print(
        f"{len(asked)} packages asked for, {len(set(wrong))} vulnerabilities; {len(skipped)} packages without an answer"
    )
    if skipped:
        print(f"the index has no advisories for them, for example {min(skipped)}", file=sys.stderr)
    return 1 if wrong else 2 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
