"""The table of variables as documents show it: made from the table that the loader uses."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from poolmgr.settings.table import VARIABLES


def markdown_table() -> str:
    """The README's table."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    lines += [f"| `{v.name}` | {v.default_text} | {v.meaning[0].upper()}{v.meaning[1:]} |" for v in VARIABLES]
    return "\n".join(lines)


HEAD = """\
# Settings of redis-poolmgr. A line that is commented out, or empty after the =, means the default.
# A wrong value stops the start with one line. `poolmgr config` shows the values that hold.
"""


def environment_file(head: str = HEAD, notes: Mapping[str, str] | None = None) -> str:
    """An environment file (systemd's ``EnvironmentFile=``) with every variable, each at its default.

    Args:
        notes: remarks on variables, by name.
    """
    lines = [head.rstrip()]
    for variable in VARIABLES:
        default = variable.default_text.replace("`", "")
        text = f"{variable.meaning.replace('`', '')}. Default: {default or 'none'}. Allowed: {variable.allowed}."
        text += f" {(notes or {}).get(variable.name, '')}"
        lines.append("")
        lines += [f"# {line}" for line in textwrap.wrap(text[0].upper() + text[1:], 98)]
        shown = variable.show(variable.default_value()) if "UID" not in default else ""
        lines.append(f"#{variable.name}={variable.example or shown}")
    return "\n".join(lines)
