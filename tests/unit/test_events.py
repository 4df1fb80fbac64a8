"""docs/events.md and the code name the same events, with the same fields and levels."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.helpers import ROOT

DOCUMENT = ROOT / "docs" / "events.md"
NAME = re.compile(r"[a-z_]+(\.[a-z_]+)+|request")
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
LIMITED = {"limited", "_limited"}


class Event(msgspec.Struct):
    """``fields``: None where the code does not say them in place."""

    levels: set[str]
    fields: set[str] | None
    where: str


def documented() -> dict[str, tuple[str, set[str]]]:
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| ([^|]*)\| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(rows) == len({name for name, *_ in rows}), "an event is listed twice"
    assert all(meaning.strip() for *_, meaning in rows)
    return {name: (level, set(re.findall(r"`(\w+)`", fields))) for name, level, fields, _ in rows}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call that logs, with the name of the method."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Attribute(attr=name) if name in LEVELS and not isinstance(node.func.value, ast.Constant):
                owner = ast.unparse(node.func.value)
                if owner.split(".")[-1] in ("log", "_log", "access_log"):
                    yield name, node
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in LIMITED:
                yield name, node


def logged() -> dict[str, Event]:
    found: dict[str, Event] = {}
    for package in ("poolmgr", "worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for method, call in calls(path):
                where = f"{path.relative_to(ROOT)}:{call.lineno}"
                first = call.args[0] if call.args else None
                assert isinstance(first, ast.Constant), f"{where}: an event's name must stand where it is logged"
                name = str(first.value)
                assert NAME.fullmatch(name), f"{where}: {name!r} is no event's name"
                event = Event({level(method, call)}, fields(method, call), where)
                known = found.setdefault(name, event)
                known.levels |= event.levels
                if known.fields is not None and event.fields is not None:
                    known.fields |= event.fields
    return found


def level(method: str, call: ast.Call) -> str:
    if method in LEVELS:
        return LEVELS[method]
    given = call.args[1] if len(call.args) > 1 else None
    return ast.unparse(given).rpartition(".")[2].lower() if given is not None else "warning"


def fields(method: str, call: ast.Call) -> set[str] | None:
    if method in LIMITED:
        return {keyword.arg for keyword in call.keywords if keyword.arg}
    extra = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
    if extra is None:
        return set()
    if not isinstance(extra, ast.Dict) or None in extra.keys:
        return None
    return {str(key.value) for key in extra.keys if isinstance(key, ast.Constant)}


def test_every_event_that_is_logged_is_listed_and_the_other_way_round():
    code, document = logged(), documented()
    assert {name: code[name].where for name in code.keys() - document.keys()} == {}
    assert document.keys() - code.keys() == set()


def test_levels_and_fields_are_those_of_the_code():
    code = logged()
    for name, (listed, names) in documented().items():
        event = code[name]
        assert listed in event.levels, f"{name}: {event.where} says {event.levels}"
        if event.fields is not None:
            assert names == event.fields, f"{name}: {event.where}"
        else:
            assert names, f"{name}: fields are missing"


def test_no_field_overwrites_one_that_every_line_has():
    reserved = {"timestamp", "level", "event", "logger", "pid"}
    assert {name: event.where for name, event in logged().items() if event.fields and event.fields & reserved} == {}
