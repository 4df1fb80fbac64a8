"""``docs/platforms.md``, made of the results."""

from __future__ import annotations

from tests.helpers import ROOT
from tests.matrix.results import Figures, Results
from tests.matrix.systems import SYSTEMS

FILE = ROOT / "docs" / "platforms.md"

SERVER = "server "
FOLDERS = ("unit", "integration", "systemd", "simulation", "chaos")

HEAD = """\
# Platforms

<!-- Made by `make matrix` from docs/platforms/results.json. Edits are lost. -->

`make matrix` makes a root of each system from Debian's archive, shows it a fresh clone and packages that were fetched
before, and runs README's two commands there, in namespaces of their own without a network. The kernel is the one of the
machine that ran them. A cell says how many tests have passed, were skipped and have failed. An empty cell has not been
run. [servers.md](servers.md) says what each server lacks, and what that means.
"""


def cell(figures: Figures | None) -> str:
    if figures is None:
        return ""
    numbers = f"{figures.passed} / {figures.skipped} / {figures.failed}"
    return numbers if figures.well else f"**{numbers}**" + ("" if figures.failed else f", status {figures.status}")


def minute(figures: Figures | None) -> str:
    if figures is None:
        return ""
    return f"{figures.seconds:.0f} s" if figures.well else "**failed**"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def ran(figures: list[Figures]) -> str:
    """When, and of which commit; the first and the last where they differ."""
    ordered = sorted(figures, key=lambda each: each.date)
    said = list(dict.fromkeys(f"{each.date}, {each.commit}" for each in (ordered[0], ordered[-1])))
    return " to ".join(said)


def ordered(results: Results) -> Results:
    """The oldest system first, whatever order a file has."""
    order = [*SYSTEMS]
    return dict(sorted(results.items(), key=lambda item: (order.index(item[0].split()[0]), item[0])))


def document(results: Results) -> str:
    results = ordered(results)
    lines = [HEAD, "## Systems", ""]
    folders = [name for name in FOLDERS if any(name in found.parts for found in results.values())]
    known = {*folders, "run"}
    more = sorted(
        {
            name
            for found in results.values()
            for name in found.parts
            if name not in known and not name.startswith(SERVER)
        }
    )
    lines.append(row("system", "Python", "systemd", "kernel", "`make run` serves after", *folders, *more, "run"))
    lines.append(row(*["---"] * (6 + len(folders) + len(more))))
    for found in results.values():
        parts = [part for name, part in found.parts.items() if not name.startswith(SERVER)]
        if not parts:
            continue
        cells = [cell(found.parts.get(name)) for name in (*folders, *more)]
        system = f"{found.title} ({found.release})"
        lines.append(
            row(system, found.python, found.systemd, found.kernel, minute(found.parts.get("run")), *cells, ran(parts))
        )
    lines += ["", "## Servers", ""]
    lines.append(
        "The files about permits, proof, pools, the service and fleets (`tests/matrix/served.py`), with each server."
    )
    lines += ["", row("system", "Python", "server", "tests", "run"), row(*["---"] * 5)]
    for found in results.values():
        for name, part in sorted(found.parts.items()):
            if name.startswith(SERVER):
                server = name.removeprefix(SERVER)
                lines.append(row(found.title, found.python, server, cell(part), ran([part])))
    return "\n".join(lines) + "\n"


def write(results: Results) -> None:
    FILE.write_text(document(results))
