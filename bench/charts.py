"""Charts of a run: one for each table that wants one, as PNG and as SVG."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.lib.layout import number
from bench.lib.results import Cell, Run, Table

OURS = "#c0392b"
PEERS = ("#34495e", "#7f8c8d", "#2980b9", "#16a085", "#8e44ad", "#d68910")

mpl.rcParams.update(
    {
        "font.size": 9,
        "font.family": "DejaVu Sans",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "svg.hashsalt": "poolmgr",
        "svg.fonttype": "path",
    }
)


def write(run: Run, directory: Path) -> dict[str, str]:
    """Draw all charts into a directory; file names without ending by ``part-table``."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in (*directory.glob("*.png"), *directory.glob("*.svg")):
        old.unlink()
    names: dict[str, str] = {}
    for part in run.parts:
        for table in part.tables:
            if table.chart and any(cell.values for cell in table.cells):
                name = f"{part.key}-{table.key}"
                _draw(table, directory / name)
                names[name] = name
    return names


def _colours(table: Table) -> dict[str, str]:
    peers = iter(PEERS * 3)
    return {v: OURS if v.startswith("poolmgr") and "," not in v else next(peers) for v in table.variants}


def _draw(table: Table, path: Path) -> None:
    lines = table.chart == "lines"
    rows = sum(1 for cell in table.cells if cell.values)
    figure, axes = plt.subplots(figsize=(7.2, 3.6 if lines else 0.9 + 0.3 * rows), layout="constrained")
    (_lines if lines else _bars)(table, axes, _colours(table))
    axes.set_title(table.title)
    figure.text(0.995, 0.005, f"{table.better} is better", ha="right", va="bottom", fontsize=7, color="#7f8c8d")
    for ending in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{ending}"), dpi=144, metadata={"Date": None} if ending == "svg" else None)
    plt.close(figure)


def _cells(table: Table, variant: str) -> list[Cell]:
    return [cell for cell in table.cells if cell.variant == variant and cell.values]


def _lines(table: Table, axes: Axes, colours: dict[str, str]) -> None:
    for variant in table.variants:
        cells = sorted(_cells(table, variant), key=lambda cell: float(cell.place))
        places = [float(cell.place) for cell in cells]
        spreads = [cell.spread for cell in cells]
        middle = [spread.median for spread in spreads]
        axes.plot(places, middle, marker="o", markersize=3.5, linewidth=1.6, color=colours[variant], label=variant)
        low, high = [spread.low for spread in spreads], [spread.high for spread in spreads]
        axes.fill_between(places, low, high, color=colours[variant], alpha=0.15, linewidth=0)
    ticks = [float(place) for place in table.places]
    if len(ticks) > 2 and max(ticks) / max(min(ticks), 1e-9) > 8:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [number(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    _scale(table, axes, "y")
    axes.set_xlabel(table.axis)
    axes.set_ylabel(table.unit)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=8)


def _bars(table: Table, axes: Axes, colours: dict[str, str]) -> None:
    cells = [
        cell
        for place in table.places
        for variant in table.variants
        for cell in table.cells
        if (cell.variant, cell.place) == (variant, place) and cell.values
    ]
    at, ticks, y, last = [], [], 0.0, cells[0].place
    for cell in cells:
        y += 1.5 if cell.place != last else 1.0
        last = cell.place
        at.append(y)
        ticks.append(f"{cell.variant}  {cell.place}" if table.axis else cell.variant)
    spreads = [cell.spread for cell in cells]
    middle = [spread.median for spread in spreads]
    errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    axes.barh(at, middle, height=0.72, color=[colours[cell.variant] for cell in cells])
    axes.errorbar(middle, at, xerr=errors, fmt="none", ecolor="#2c3e50", elinewidth=0.8, capsize=2)
    axes.set_yticks(at, ticks)
    axes.invert_yaxis()
    _scale(table, axes, "x")
    ends = [spread.high for spread in spreads]
    for y, value, end in zip(at, middle, ends, strict=True):
        axes.annotate(number(value), (end, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.margins(x=0.12)
    axes.set_xlabel(table.unit)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def _scale(table: Table, axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    if table.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        axis.set_minor_formatter(NullFormatter())
    elif which == "y":
        axes.set_ylim(bottom=0)
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
