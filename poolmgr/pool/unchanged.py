"""Whether a method of redis-py's is still as redis-py wrote it.

A method counts as redis-py's if it is a plain function with the code that redis-py's module was loaded with. A wrapper
is another object; a tool that rewrites functions in place gives them other code. If an agent wrapped a method before
we were imported, the namespace of its function shows that.
"""

from __future__ import annotations

from types import FunctionType, ModuleType
from typing import Any


def codes(owner: type, names: tuple[str, ...], module: ModuleType) -> dict[str, Any]:
    """The code of redis-py's own methods, except those already wrapped."""
    found = {name: getattr(owner, name, None) for name in names}
    return {
        name: method.__code__
        for name, method in found.items()
        if type(method) is FunctionType and method.__globals__ is vars(module)
    }


def unchanged(method: object, code: object) -> bool:
    """Whether a method has this code."""
    return type(method) is FunctionType and method.__code__ is code
