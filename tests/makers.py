"""All that users give as ``connection_class``: whatever makes connections, of a flavour's own class."""

from __future__ import annotations

import functools
from typing import Any


def makers(kind: Any) -> dict[str, Any]:
    """Makers of connections of this class, by what they are."""

    class Maker:
        def __call__(self, **kwargs: Any) -> Any:
            return kind(**kwargs)

        def method(self, **kwargs: Any) -> Any:
            return kind(**kwargs)

    class Another(kind):  # type: ignore[misc]
        pass

    class Choosing(kind):  # type: ignore[misc]
        """A class whose instances are another one's."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            made = Another.__new__(Another)
            made.__init__(*args, **kwargs)  # type: ignore[misc]
            return made

    def function(**kwargs: Any) -> Any:
        made = kind(**kwargs)
        made.client_name = "me"
        return made

    return {
        "function": function,
        "lambda": lambda **kwargs: kind(client_name="me", **kwargs),
        "partial": functools.partial(kind, client_name="me"),
        "object": Maker(),
        "method": Maker().method,
        "class that makes another": Choosing,
    }
