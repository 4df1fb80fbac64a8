"""The HTTP side's shapes: requests to commands, replies to JSON. No I/O, and no judgement of commands.

A command is a list of byte strings. A reply is what a RESP2 connection gives, undecoded: an integer,
None, bytes, an error, or a list of these.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from redis.exceptions import RedisError

from worker.errors import Problem, words

Command = list[bytes]

TOKEN_PARAMETER = b"_token"
"""The query's parameter that carries a token. It is not part of a command."""


MAX_DEPTH = 128
"""Arrays in each other that an answer may have; only scripts make more than a few."""

TOO_DEEP = f"ERR the reply is nested more than {MAX_DEPTH} arrays deep"


# ---- requests ----------------------------------------------------------------------------------


def command_of(body: bytes) -> Command:
    """One command: a JSON array of text and numbers.

    Raises:
        Problem: it is anything else (400).
    """
    return _command(_json(body), "the body")


def commands_of(body: bytes, most: int) -> list[Command]:
    """Many commands: a JSON array of such arrays.

    Raises:
        Problem: it is anything else (400), or longer than ``most`` (413).
    """
    found = _json(body)
    if not isinstance(found, list) or not found:
        raise Problem(400, 'ERR the body must be a JSON array of commands: [["SET", "k", "v"], ["GET", "k"]]')
    if len(found) > most:
        raise Problem(413, f"ERR {len(found)} commands in one request: allowed are {most}")
    return [_command(item, f"command {number}") for number, item in enumerate(found, 1)]


def command_of_path(path: str, query: str, body: bytes) -> Command:
    """The path style: ``/SET/key/value?EX=60``, the body after the path, the query's pairs after it.

    Args:
        path: as it was sent, percent-encoded, so that an encoded slash stays inside its argument.
        query: likewise. A name without a value gives one argument (``?NX``).

    Raises:
        Problem: there is no command in it (400).
    """
    command = [unquote_to_bytes(part) for part in path.removeprefix("/").split("/")]
    if not command[0]:
        raise Problem(400, "ERR no command: the path is /COMMAND/ARGUMENT/..., or POST a JSON array to /")
    if body:
        command.append(body)
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if not pair or is_token(name):
            continue
        command.append(_unquote_query(name))
        if value:
            command.append(_unquote_query(value))
    return command


def is_token(name: str) -> bool:
    """Whether a query's parameter, percent-encoded or not, carries the token."""
    return _unquote_query(name) == TOKEN_PARAMETER


def _unquote_query(text: str) -> bytes:
    return unquote_to_bytes(text.replace("+", " "))


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _json(body: bytes) -> Any:
    """Numbers stay as they are written: ``1.0`` is not ``1``, and 2^64 is not rounded."""
    if not body:
        raise Problem(400, "ERR the body is empty: send a JSON array")
    try:
        return json.loads(body.decode(), parse_int=str, parse_float=str, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise Problem(400, "ERR the body is not UTF-8") from None
    except RecursionError:
        raise Problem(400, "ERR the body is nested too deeply") from None
    except ValueError as error:
        raise Problem(400, f"ERR the body is not JSON: {error}") from None


def _command(found: Any, where: str) -> Command:
    if not isinstance(found, list):
        raise Problem(400, f'ERR {where} must be a JSON array: ["SET", "k", "v"]')
    if not found:
        raise Problem(400, f"ERR {where} is an empty command")
    return [_argument(value, where) for value in found]


def _argument(value: Any, where: str) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise Problem(400, f"ERR {where} has half of a surrogate pair: that is not text") from None
    if isinstance(value, bool):
        return b"true" if value else b"false"
    raise Problem(400, f"ERR {where} has an argument that is {_kind(value)}: send text or a number")


def _kind(value: Any) -> str:
    return "null" if value is None else "an array" if isinstance(value, list) else "an object"


# ---- replies -----------------------------------------------------------------------------------

Encoder = Callable[[bytes], str]


def as_text(value: bytes) -> str:
    """UTF-8; other bytes become the replacement character. Ask for base64 to get bytes as they are."""
    return value.decode("utf-8", "replace")


def as_base64(value: bytes) -> str:
    """Base64, but for a plain OK, which the clients expect as it is."""
    return "OK" if value == b"OK" else b64encode(value).decode("ascii")


def encoder_for(header: str | None) -> Encoder:
    """From ``Upstash-Encoding``; an unknown value is not an error, as with Upstash."""
    return as_base64 if header is not None and header.strip().lower() == "base64" else as_text


def item(reply: Any, encode: Encoder) -> dict[str, Any]:
    """``{"result": ...}``, or ``{"error": ...}`` for an error reply."""
    if isinstance(reply, Exception):
        return {"error": words(reply)}
    try:
        return {"result": value_of(reply, encode)}
    except TooDeepError:
        return {"error": TOO_DEEP}


class TooDeepError(Exception):
    """A reply has more than :data:`MAX_DEPTH` arrays in each other."""


def value_of(reply: Any, encode: Encoder, depth: int = MAX_DEPTH) -> Any:
    if isinstance(reply, bytes):
        return encode(reply)
    if isinstance(reply, list):
        if not depth:
            raise TooDeepError
        return [value_of(element, encode, depth - 1) for element in reply]
    if isinstance(reply, RedisError):  # inside an array, where RESP2 allows it
        return words(reply)
    return reply


def to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
