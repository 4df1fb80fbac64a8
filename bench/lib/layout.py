"""How figures and tables are laid out, the same in the terminal and in the document."""

from __future__ import annotations

from bench.lib.results import Spread, Table


def number(value: float) -> str:
    """Three digits, for more would mean nothing."""
    if value != value:
        return "–"
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def spread(value: Spread | None, unit: str = "") -> str:
    """``median (low–high) unit``."""
    if value is None:
        return "–"
    tail = "×" if unit == "×" else f" {unit}" if unit else ""
    if value.count == 1 or value.low == value.high:
        return number(value.median) + tail
    return f"{number(value.median)}{tail} ({number(value.low)}–{number(value.high)})"


def heading(table: Table) -> str:
    return f"{table.title} ({table.unit}, {table.better} is better)"


def rows(table: Table, line: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table. Variants are below each other; if there are several places, places are below
    each other and variants side by side.

    Args:
        line: the text that begins a second line inside a field.
    """
    measured = {(cell.variant, cell.place): cell.spread for cell in table.cells if cell.values}
    against = f"÷ {table.reference}"

    def ratio(variant: str, place: str) -> str:
        return "1" if variant == table.reference else spread(table.ratio(variant, place), "×")

    if len(table.places) == 1 or not table.axis:
        head = ["", table.unit, *([against] if table.reference else [])]
        place = table.places[0]
        return head, [
            [variant, spread(measured[variant, place]), *([ratio(variant, place)] if table.reference else [])]
            for variant in table.variants
            if (variant, place) in measured
        ]
    body = []
    for place in table.places:
        row = [place]
        for variant in table.variants:
            found = spread(measured.get((variant, place)))
            if table.reference and variant != table.reference and (variant, place) in measured:
                found += line + ratio(variant, place)
            row.append(found)
        body.append(row)
    return [table.axis, *table.variants], body
