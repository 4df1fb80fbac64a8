"""One environment variable: how its text becomes a value, and how its value becomes text without secrets."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from poolmgr.errors import SettingsError
from poolmgr.settings import parsers


class Variable(msgspec.Struct, frozen=True):
    """A variable, as :func:`setting` declares it.

    Attributes:
        name: in the environment.
        meaning: for people, one line.
        zero: whether a number or a time may be 0.
        most: the largest number.
        parse: text to value; raises ValueError, whose text (if any) is added to the message. Unset, the field's type
            says how: a whole number, seconds, a flag or one of some words.
        allowed: the values to set, for the message of an error; the type has them too if it says how to parse.
        default_text: the default as documents show it, where the value itself does not say it.
        secret: how much of the value is hidden: not at all, the whole, or a URL's credentials.
        example: a value for the example environment file.
        attribute: the field.
        default: its value if the variable is not set; a function if that depends on the machine.
    """

    name: str
    meaning: str
    zero: bool = True
    most: int = 1_000_000
    parse: Callable[[str], Any] | None = None
    allowed: str = ""
    default_text: str = ""
    secret: Literal["", "whole", "url"] = ""
    example: str = ""
    attribute: str = ""
    default: Any = None

    def by_type(self, kind: Any) -> tuple[Callable[[str], Any], str]:
        """The parser of a type, and the values that it allows."""
        if get_origin(kind) in (Union, types.UnionType):
            (kind,) = (one for one in get_args(kind) if one is not type(None))
        if kind is bool:
            return parsers.flag, "1 or 0"
        if kind is int:
            least = 0 if self.zero else 1
            return parsers.whole(least, self.most), f"a whole number from {least} to {self.most}"
        if kind is float:
            return parsers.seconds(zero=self.zero), f"a number of seconds{', 0 or more' if self.zero else ' above 0'}"
        *words, last = get_args(kind)
        return parsers.one_of(*words, last), f"{', '.join(words)} or {last}"

    def show(self, value: object) -> str:
        """The value as text, without its secrets."""
        if value is None:
            return ""
        if self.secret == "url":
            return parsers.mask_url(str(value))
        if self.secret:
            return parsers.HIDDEN
        if isinstance(value, bool):
            return "1" if value else "0"
        if isinstance(value, dict):
            return ",".join(f"{key}={number}" for key, number in value.items())
        if isinstance(value, float):
            return parsers.FOREVER if value == math.inf else f"{value:g}"
        return str(value)

    def show_wrong(self, text: str) -> str:
        """The same of a text that is not allowed: it may be anything."""
        return self.show(text) if self.secret else parsers.conceal(text)

    def default_value(self) -> Any:
        return self.default() if callable(self.default) else self.default

    def read(self, text: str) -> Any:
        """The value of a text that is set.

        Raises:
            SettingsError: one line with the name, the value (secrets hidden) and the values to set.
        """
        assert self.parse is not None
        try:
            return self.parse(text)
        except ValueError as error:
            shown = self.show_wrong(text)
            if len(shown) > 120:
                shown = shown[:117] + "..."
            detail = f" ({error})" if str(error) else ""
            raise SettingsError(
                f"{self.name}={shown!r} is not allowed{detail}; set it to {self.allowed}, or unset it"
            ) from None


_declared: dict[str, Variable] = {}


def setting(default: Any, name: str, meaning: str, **more: Any) -> Any:
    """A field of the settings for the variable of that name: its default, or a function if that depends on the machine;
    ``more`` is what :class:`Variable` has."""
    _declared[name] = Variable(name, meaning, default=default, **more)
    if callable(default):
        return msgspec.field(default_factory=default, name=name)
    return msgspec.field(default=default, name=name)


def declared(field: msgspec.structs.FieldInfo) -> Variable:
    """The variable of a field, with what follows from the field's name, type and default."""
    found = _declared[field.encode_name]
    parse, allowed = (found.parse, found.allowed) if found.parse else found.by_type(field.type)
    shown = found.show(found.default_value())
    text = found.default_text or (f"`{shown}`" if isinstance(found.default, str) else shown)
    return msgspec.structs.replace(found, attribute=field.name, parse=parse, allowed=allowed, default_text=text)
