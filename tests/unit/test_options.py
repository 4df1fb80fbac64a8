"""Each option of the pool is declared once; what has to repeat it says the same."""

from __future__ import annotations

import inspect
from typing import get_args, get_type_hints

import msgspec
import pytest

import poolmgr
from poolmgr import settings
from poolmgr.pool.default import options_of
from poolmgr.pool.options import DEFAULT, OPTIONS, PARSERS, Options, split

DECLARED = {field.name: get_args(field.type)[0] for field in msgspec.structs.fields(Options)}


@pytest.mark.parametrize("pool", [poolmgr.ConnectionPool])
def test_a_constructor_takes_them_all_with_their_types_and_defaults(pool: type) -> None:
    signature, types = inspect.signature(pool), get_type_hints(pool.__init__)  # type: ignore[misc]
    own = {name for name, given in signature.parameters.items() if given.kind is given.KEYWORD_ONLY} - {"member"}
    assert own | {"max_connections"} == set(DECLARED)
    for name, kind in DECLARED.items():
        assert signature.parameters[name].default == getattr(DEFAULT, name), name
        assert types[name] == kind, name


@pytest.mark.parametrize("pool", [poolmgr.ConnectionPool])
def test_a_constructor_documents_them_all(pool: type) -> None:
    shown = inspect.getdoc(pool)
    assert shown is not None
    for name, option in OPTIONS.items():
        assert f"\n    {name}: {option.meaning}\n" in shown
    assert "OPTIONS" not in shown


def test_the_environment_has_the_same_defaults() -> None:
    by_environment = options_of(settings.load({}))
    assert by_environment.pop("name") == "default"
    for name in PARSERS.keys() - {"name"}:
        assert by_environment[name] == getattr(DEFAULT, name), name


WRONG: dict[str, tuple[object, str]] = {
    "max_connections": (-1, '"max_connections" must be a positive integer or None, not -1'),
    "min_idle": (1.5, '"min_idle" must be a whole number, 0 or more, not 1.5'),
    "max_waiting": (-2, '"max_waiting" must be a whole number, 0 or more, not -2'),
    "max_reply": ("1K", "\"max_reply\" must be a whole number, 0 or more, not '1K'"),
    "max_connecting": (0, '"max_connecting" must be a whole number, 1 or more, not 0'),
    "idle_timeout": (None, '"idle_timeout" must be a number of seconds, 0 or more, not None'),
    "max_lifetime": (float("nan"), '"max_lifetime" must be a number of seconds, 0 or more, not nan'),
    "leak_after": (-0.5, '"leak_after" must be a number of seconds, 0 or more, not -0.5'),
    "timeout": ("5", "\"timeout\" must be a number of seconds, 0 or more, not '5'"),
    "order": ("random", "\"order\" must be fifo or lifo, not 'random'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_is_not_allowed(name: str) -> None:
    value, error = WRONG[name]
    with pytest.raises(ValueError) as caught:
        poolmgr.ConnectionPool(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value) == error


def test_more_kept_idle_than_may_be() -> None:
    with pytest.raises(ValueError, match=r'^"min_idle" \(3\) must not be more than "max_connections" \(2\)$'):
        Options(max_connections=2, min_idle=3)
    assert Options(max_connections=0, min_idle=3).min_idle == 3, "0 is no bound"


def test_all_but_functions_may_stand_in_a_url() -> None:
    assert PARSERS.keys() == DECLARED.keys() - {"hooks"}
    url, ours = split("redis://h/0?min_idle=2&timeout=none&db=1&order=lifo&min_idle=3")
    assert (url, ours) == ("redis://h/0?db=1", {"min_idle": 2, "timeout": None, "order": "lifo"})
    with pytest.raises(ValueError, match=r"^Invalid value for 'max_waiting' in connection URL\.$"):
        split("redis://h?max_waiting=many")
