"""The terminal: a progress bar while it measures, tables when it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as Grid

from bench.lib.layout import heading, rows, spread
from bench.lib.results import Judged, Part, Table


class Ticker:
    """Reports the progress of a part: the number of steps, and each step when it is done."""

    def __init__(self, progress: Progress, whole: TaskID, weight: float) -> None:
        self._progress = progress
        self._whole = whole
        self._left = weight
        self._each = weight
        self._task: TaskID | None = None

    def steps(self, count: int, what: str) -> None:
        """So many steps in all."""
        self._each = self._left / max(1, count)
        self._task = self._progress.add_task(f"  {what}", total=count)

    def step(self, what: str = "") -> None:
        """One step is done; ``what`` is the next one."""
        taken = min(self._each, self._left)
        self._left -= taken
        self._progress.advance(self._whole, taken)
        if self._task is not None:
            self._progress.advance(self._task)
            if what:
                self._progress.update(self._task, description=f"  {what}")

    def close(self) -> None:
        self._progress.advance(self._whole, self._left)
        if self._task is not None:
            self._progress.remove_task(self._task)


class Screen:
    def __init__(self, total: float) -> None:
        self.console = Console()
        if not self.console.is_terminal:
            self.console = Console(width=120)  # a log is not as narrow as rich takes it for
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._whole = self._progress.add_task("benchmarks", total=total)

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def part(self, title: str, weight: float) -> Iterator[Ticker]:
        self._progress.update(self._whole, description=title)
        ticker = Ticker(self._progress, self._whole, weight)
        try:
            yield ticker
        finally:
            ticker.close()

    def show(self, part: Part) -> None:
        """A part's tables, facts and goals."""
        self.console.rule(f"[bold]{part.title}[/] [dim]{part.seconds:.0f} s")
        for table in part.tables:
            self.console.print(grid(table))
        for name, text in part.facts.items():
            self.console.print(f"  [dim]{name}:[/] {text}", highlight=False)
        for judged in part.judged():
            self.console.print("  " + verdict(judged), highlight=False)
        if part.error:
            self.console.print(f"  [bold red]not measured:[/] {part.error}", highlight=False, markup=True)


def verdict(judged: Judged) -> str:
    mark = {True: "[green]reached[/]", False: "[red]missed[/]", None: "[yellow]not measured[/]"}[judged.met]
    text = f"{mark}  {judged.goal.what}: {spread(judged.found, judged.unit)}, goal {judged.goal.bound}"
    if judged.met is False:
        text += "".join(f"; {does}: {spread(found, judged.unit)}" for found, does in judged.floors)
    return text


def grid(table: Table) -> Grid:
    """A table for the terminal."""
    head, body = rows(table, "\n")
    below = f"second lines: ÷ {table.reference}" if table.reference and len(table.places) > 1 else None
    shown = Grid(
        title=heading(table), title_justify="left", caption=below, caption_justify="left", show_lines=bool(below)
    )
    for number, name in enumerate(head):
        shown.add_column(name, justify="left" if number == 0 and not table.axis else "right")
    for row in body:
        shown.add_row(*row)
    return shown
