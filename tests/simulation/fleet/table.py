"""The table's real script, in virtual time: Lua 5.1 in this process, as Redis has it, over a dictionary.

The commands are those that the script uses; another one is an error, so that the script cannot come to rely on what is
not modelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lupa.lua51 import LuaRuntime  # type: ignore[import-untyped]

from poolmgr.fleet import source


class Table:
    """One server process's keys, and its script.

    Args:
        clock: milliseconds since the epoch, by this server's clock.
        edit: changes the script's text: a mutant.
        later: the script of a later version; every other question is answered by it.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        edit: Callable[[str], str] = lambda text: text,
        later: Callable[[str], str] | None = None,
    ) -> None:
        self.clock = clock
        self.hash: dict[str, str] = {}
        """The fleet's key; empty: it does not exist."""
        self._run = _compiled(edit(source.text(6)))
        self._next = self._run if later is None else _compiled(later(source.text(6)))

    def call(self, *arguments: str | int) -> Any:
        """EVALSHA: one step."""
        run, self._run, self._next = self._run, self._next, self._run
        return run(self, [str(a) for a in arguments])

    def command(self, name: str, *rest: str) -> Any:
        """What the script may ask of the server."""
        match (name, *rest):
            case ("TIME",):
                now = self.clock()
                return (str(now // 1000), str(now % 1000 * 1000))
            case ("HGET", _, field):
                return self.hash.get(field, False)
            case ("HMGET", _, *fields):
                return [self.hash.get(field, False) for field in fields]
            case ("HGETALL", _):
                return [text for pair in self.hash.items() for text in pair]
            case ("HSET", _, *pairs):
                self.hash.update(zip(pairs[::2], pairs[1::2], strict=True))
                return len(pairs) // 2
            case ("HDEL", _, *fields):
                return sum(self.hash.pop(field, None) is not None for field in fields)
            case ("DEL", _):
                self.hash.clear()
                return 1
        raise AssertionError(f"the script calls {name} {rest}, which is not modelled")


_SCRIPTS: dict[str, Callable[[Table, list[str]], Any]] = {}


def _compiled(text: str) -> Callable[[Table, list[str]], Any]:
    known = _SCRIPTS.get(text)
    if known is None:
        known = _SCRIPTS[text] = _compile(text)
    return known


def _compile(text: str) -> Callable[[Table, list[str]], Any]:
    lua = LuaRuntime(unpack_returned_tuples=True)
    now: list[Table] = []

    def call(name: str, *rest: Any) -> Any:
        answer = now[-1].command(name, *[_text(r) for r in rest])
        return lua.table_from(answer) if isinstance(answer, list | tuple) else answer

    body = lua.execute(f"return function(KEYS, ARGV, redis)\n{text}\nend")
    redis = lua.table_from({"call": call, "error_reply": lambda words: f"error: {words}"})
    keys = lua.table_from(["t"])

    def run(table: Table, arguments: list[str]) -> Any:
        now.append(table)
        try:
            return _python(body(keys, lua.table_from(arguments), redis))
        finally:
            now.pop()

    return run


def _text(value: Any) -> str:
    return f"{value:.17g}" if isinstance(value, float) else str(value)


def _python(value: Any) -> Any:
    """As the server converts a script's answer: numbers lose what is behind the point, tables end at the first nil."""
    if isinstance(value, float):
        return int(value)
    if isinstance(value, int | str):
        return value
    answer = []
    for place in range(1, len(value) + 1):
        if value[place] is None:
            break
        answer.append(_python(value[place]))
    return answer
