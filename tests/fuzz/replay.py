"""``python -m tests.fuzz.replay TARGET [FILE]...``: play files to a target, or its whole corpus, without atheris.

Each file that finds a fault is named, with the fault; the status is 1 then.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from tests.fuzz import targets


def main(arguments: list[str]) -> int:
    name, *files = arguments
    play, close = targets.load(name)
    failed = 0
    try:
        for path in map(Path, files) if files else targets.entries(name):
            try:
                play(path.read_bytes())
            except Exception:
                failed = 1
                print(f"{path}:\n{traceback.format_exc()}")
    finally:
        close()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
