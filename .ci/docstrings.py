"""For mkdocstrings, which reads sources: what is only known when a class is made, its options and their defaults."""

from __future__ import annotations

import inspect
from typing import Any

import griffe


class Completed(griffe.Extension):
    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        if any(str(decorator.value).endswith("documented") for decorator in cls.decorators) and cls.docstring:
            made = griffe.dynamic_import(cls.path)
            cls.docstring.value = inspect.cleandoc(made.__doc__)
            defaults = inspect.signature(made.__init__).parameters
            for parameter in cls.members["__init__"].parameters:
                if str(parameter.default).startswith("DEFAULT."):
                    parameter.default = repr(defaults[parameter.name].default)
