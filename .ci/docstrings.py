"""For mkdocstrings, which reads sources: a class whose docstring is completed as it is made shows the completed one."""

from __future__ import annotations

import inspect
from typing import Any

import griffe


class Completed(griffe.Extension):
    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        if any(str(decorator.value).endswith("documented") for decorator in cls.decorators) and cls.docstring:
            made = griffe.dynamic_import(cls.path)
            cls.docstring.value = inspect.cleandoc(made.__doc__)
