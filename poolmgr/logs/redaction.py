"""Removes from output what it may not hold: secrets, and characters that a terminal obeys. Pure text in and out.

Any caller can cause a line as long as a request's head may be. So all of this takes time in proportion to the text's
length, no more: nothing else runs in a process while an expression is matched.

It finds secrets in two ways: by their place (a URL's user part, ``?_token=``, ``Authorization:``), and by their
value, for secrets that this process knows (:func:`hide`), in any place and with any percent-encoding.

Used by :mod:`poolmgr.logs.structured` for every line, by the command line and by errors that end a start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

HIDDEN = "***"

SECRET_QUERY = frozenset({"_token", "token", "password", "access_token"})
"""Names in a query whose values are not shown."""

SHORTEST = 8
"""Characters of a secret that is looked for everywhere: a shorter one could be a part of any word."""

TOKENS = ("WORKER_TOKEN", "WORKER_READONLY_TOKEN")

_known: dict[str, None] = {}
"""Secrets of this process, each as it is and as JSON and Python would write it."""

_NAME = r"(?<![\w%.+-])([\w%.+-]{1,80})="

# In a field, whose ends are known, a value goes on until the next parameter. In a line of JSON, a quote ends it.
_FIELD_PAIR = re.compile(rf"{_NAME}([^&\s]+)")
_LINE_PAIR = re.compile(rf"{_NAME}((?:\\.|[^&\s\"\\])+)")
# Without a host after it a user part is none, nor is there another one in the same word: it is passed over as a whole.
_FIELD_USER = re.compile(r"(?<=://)([^\s/@:]*:)(\S*@(?=[^\s/@]))?(\S*)")
_LINE_USER = re.compile(r"(?<=://)([^\s/@:\"'<>]*:)([^\s\"'<>]*@(?=[^\s/@]))?([^\s\"'<>]*)")
_FIELD_HEADER = re.compile(r"(?i)(\bauthorization\W{1,5}(?:(?:bearer|basic)\s+)?)\S+")
_LINE_HEADER = re.compile(r"(?i)(\bauthorization\W{1,5}(?:(?:bearer|basic)\s+)?)[\w.~+/=-]+")
_FIELD_BEARER = re.compile(r"\b(Bearer|Basic) \S{12,}")  # shorter ones are words of a sentence
_LINE_BEARER = re.compile(r"\b(Bearer|Basic) [\w.~+/=-]{12,}")
_WORD = re.compile(r"[^\s\"'<>]+")

_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_TEXT = re.compile(f"[{_CONTROLS}]")
_LINE = re.compile(f"[{_CONTROLS}\t\n]")


# ---- secrets -----------------------------------------------------------------------------------


def hide(*secrets: str) -> None:
    """Have these not appear in any output of this process."""
    for secret in secrets:
        if len(secret) >= SHORTEST:
            for written in (secret, json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]):
                _known[written] = None


def hide_environment(environ: Mapping[str, str]) -> None:
    """The same for the tokens and the password that an environment sets."""
    hide(*(environ.get(name, "").strip() for name in TOKENS))
    try:
        parts = urlsplit(environ.get("REDIS_URL", "").strip())
    except ValueError:
        return
    hide(parts.password or "", unquote(parts.password or ""))
    hide(*(value for name, value in parse_qsl(parts.query) if name == "password"))


def redact(text: str) -> str:
    """A whole line as it will be written, without secrets."""
    return _redact(text, _LINE_USER, _LINE_PAIR, _LINE_HEADER, _LINE_BEARER)


def redact_field(text: str) -> str:
    """One value of a line, or a text alone, without secrets: here the end of a secret is easier to find."""
    return _redact(text, _FIELD_USER, _FIELD_PAIR, _FIELD_HEADER, _FIELD_BEARER)


def _redact(
    text: str, user: re.Pattern[str], pair: re.Pattern[str], header: re.Pattern[str], bearer: re.Pattern[str]
) -> str:
    text = _without_known(text)
    if "%" in text and _known and any(map(_has_known, _decodings(text))):
        text = _WORD.sub(_decoded, text)
    if "://" in text:
        text = user.sub(lambda found: f"{found[1]}{HIDDEN}@{found[3]}" if found[2] else found[0], text)
    if "=" in text:
        text = pair.sub(_redact_pair, text)
    return bearer.sub(rf"\1 {HIDDEN}", header.sub(rf"\1{HIDDEN}", text))


def _without_known(text: str) -> str:
    for secret in _known:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def _has_known(text: str) -> bool:
    return any(secret in text for secret in _known)


def _decoded(found: re.Match[str]) -> str:
    """A word, decoded if a secret comes out."""
    for word in _decodings(found[0]):
        if _has_known(word):
            return printable(_without_known(word), line=True)
    return found[0]


def _decodings(text: str) -> Iterator[str]:
    """What it says if it was percent-encoded, however often."""
    for decode in (unquote, unquote_plus):
        word = text
        for _ in range(3):
            before, word = word, decode(word)
            if word == before:
                break
            yield word


def _redact_pair(found: re.Match[str]) -> str:
    # A server takes %5Ftoken for _token, and so must this.
    secret = unquote_plus(found[1]).strip().lower() in SECRET_QUERY
    return f"{found[1]}={HIDDEN}" if secret else found[0]


# ---- terminals ---------------------------------------------------------------------------------


def printable(text: str, *, line: bool = False) -> str:
    """The text with an escape for every character that a terminal obeys or that changes the direction of text.

    Args:
        line: escape line ends and tabs too, so that no text can look like another line.
    """
    return (_LINE if line else _TEXT).sub(_escaped, text)


def printable_json(text: str) -> str:
    """The same for a text that is JSON, and stays it with the same meaning."""
    return _TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
