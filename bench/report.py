"""The document: ``docs/benchmarks.md`` and its charts, made from the JSON of a run and from nothing else.

No figure is typed by hand. To get other figures, run ``make bench``.
"""

from __future__ import annotations

from bench import charts
from bench.lib.layout import heading, rows, spread
from bench.lib.results import Judged, Part, Run, Table
from tests.helpers import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
CHARTS = ROOT / "docs" / "benchmarks"

_MARKS = {True: "reached", False: "**missed**", None: "not measured"}


def write(run: Run) -> None:
    """Write charts and document."""
    drawn = charts.write(run, CHARTS)
    DOCUMENT.write_text(document(run, drawn))


def document(run: Run, drawn: dict[str, str]) -> str:
    """The document's text."""
    lines = [
        "# Benchmarks",
        "",
        "<!-- Made by `make bench` from docs/benchmarks/results.json. Edits are lost. -->",
        "",
        "Made by `make bench`, which runs on your machine too. Contestants take turns, so that what slows the machine "
        "down slows all of them; a ratio is taken round by round. Figures are medians, with the spread of the rounds "
        "in brackets: of all rounds, or with ten rounds or more, of the middle eight tenths. `bench/lib/pools.py` and "
        "the part that uses a peer say how it is set up, and why.",
        "",
    ]
    if run.quick:
        lines += ["**A quick run: these figures mean little.**", ""]
    lines += _machine(run)
    judged = [(part, one) for part in run.parts for one in part.judged()]
    if judged:
        lines += ["## Goals", "", "| goal | bound | found | |", "|---|---|---|---|"]
        lines += [
            f"| {_what(one)} | {one.goal.bound} | {spread(one.found, one.unit)} | {_verdict(one)} |"
            for _, one in judged
        ]
        lines += [""]
    for part in run.parts:
        lines += _part(part, drawn)
    return "\n".join(lines).rstrip() + "\n"


def _what(judged: Judged) -> str:
    goal = judged.goal
    return goal.what[:1].upper() + goal.what[1:]


def _verdict(judged: Judged) -> str:
    """Whether it was reached; beside a goal that was missed, the least that there is to do."""
    if judged.met is not False:
        return _MARKS[judged.met]
    floors = (f"{does}: {spread(found, judged.unit)}" for found, does in judged.floors)
    return "; ".join([_MARKS[False], *floors])


def _machine(run: Run) -> list[str]:
    stamp = f"{run.when}, version {run.version}" + (f" ({run.revision})" if run.revision else "")
    rows = [("measured", f"{stamp}, in {run.seconds / 60:.1f} minutes"), *run.machine.items()]
    rows.append(("software", ", ".join(f"{name} {version}" for name, version in run.software.items())))
    return ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows), ""]


def _part(part: Part, drawn: dict[str, str]) -> list[str]:
    lines = [f"## {part.title}", ""]
    if part.text:
        lines += [part.text, ""]
    if part.error:
        lines += [f"**Not measured:** {part.error}", ""]
    for table in part.tables:
        lines += _table(table)
        name = drawn.get(f"{part.key}-{table.key}")
        if name:
            lines += [f"![{table.title}](benchmarks/{name}.svg)", ""]
    if part.facts:
        lines += [*(f"- {name}: {text}" for name, text in part.facts.items()), ""]
    return lines


def _table(table: Table) -> list[str]:
    head, body = rows(table, "<br>")
    lines = [f"**{heading(table)}**", ""]
    if table.reference and len(table.places) > 1:
        lines = [f"**{heading(table)}**; second lines: ÷ {table.reference}", ""]
    lines.append(f"| {' | '.join(head)} |")
    lines.append(
        "|" + "|".join("---" if number == 0 and not table.axis else "---:" for number in range(len(head))) + "|"
    )
    lines += [f"| {' | '.join(row)} |" for row in body]
    return [*lines, ""]
