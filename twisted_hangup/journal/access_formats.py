"""What a line of the access log looks like, where it is not to be the combined format.

A format is JSON, or a text with Apache's directives, such as ``%h %t "%r" %>s %B %D``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from twisted.web.http import datetimeToLogString

from ..report.text import peer_text, timestamp, visible


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what became of it, as far as that is known.

    Attributes:
        time: When it was over, in seconds since the epoch.
        peer: Whose it was; an address of Twisted's, or None.
        method, target, protocol: The request line, in printable ASCII; or None.
        status: What was sent; 499 and 444 as in the combined format.
        length: Bytes of the response's body that were sent; None where nobody has counted.
        seconds: How long it took from when the application was asked; None where it was not.
        code: Of the error that refused it; or None.
        request_field, response_field: The value of the field of that name, masked; or None.
    """

    time: float
    peer: Any
    method: str | None
    target: str | None
    protocol: str | None
    status: int
    length: int | None
    seconds: float | None
    code: str | None
    request_field: Callable[[bytes], bytes | None]
    response_field: Callable[[bytes], bytes | None]


#: A line without its line end.
Format: TypeAlias = Callable[[Exchange], str]


def json_line(exchange: Exchange) -> str:
    """An object in one line; the names are those of the error log where it has them."""
    seconds = exchange.seconds
    return json.dumps(
        {
            "time": timestamp(exchange.time),
            "peer": None if exchange.peer is None else peer_text(exchange.peer),
            "method": exchange.method,
            "target": exchange.target,
            "protocol": exchange.protocol,
            "status": exchange.status,
            "bytes": exchange.length,
            "seconds": None if seconds is None else round(seconds, 6),
            "host": _text(exchange.request_field(b"host")),
            "referer": _text(exchange.request_field(b"referer")),
            "user_agent": _text(exchange.request_field(b"user-agent")),
            "code": exchange.code,
        }
    )


def access_format(text: str) -> Format | None:
    """The format that *text* names or is; None for ``combined``, which `AccessLog` has itself.

    Raises:
        ValueError: It is none.
    """
    if text in ("combined", "json"):
        return json_line if text == "json" else None
    if "%" not in text:
        raise ValueError(f"{text!r} is neither combined nor json, nor has it a directive (%h)")
    if not text.replace("\t", " ").isprintable():
        raise ValueError("a line has neither control characters nor line ends")
    pieces: list[str | _Piece] = []
    for literal, directive, name, letter in _PIECES.findall(text):
        pieces.append(literal or _directive(directive, name, letter))
    return lambda exchange: "".join(
        [piece if isinstance(piece, str) else _shown(piece(exchange)) for piece in pieces]
    )


_Piece: TypeAlias = Callable[[Exchange], object]
_PIECES: Final = re.compile(r"([^%]+)|(%(?:\{([^}]*)\})?>?(.?))")


def _directive(directive: str, name: str, letter: str) -> _Piece:
    if name:
        field = name.lower().encode("utf-8")
        if letter == "i":
            return lambda exchange: _text(exchange.request_field(field))
        if letter == "o":
            return lambda exchange: _text(exchange.response_field(field))
    elif letter in _DIRECTIVES and "{" not in directive:
        return _DIRECTIVES[letter]
    known = ", ".join(f"%{known}" for known in _DIRECTIVES)
    raise ValueError(f"{directive!r} is none of {known}, %{{NAME}}i and %{{NAME}}o")


def _host(exchange: Exchange) -> str | None:
    return getattr(exchange.peer, "host", None)


def request_line(exchange: Exchange) -> str | None:
    """Method, target and protocol, as far as they had come; None where nothing had."""
    if exchange.method is None:
        return None
    line = f"{exchange.method} {exchange.target or '-'}"
    return f"{line} {exchange.protocol}" if exchange.protocol else line


def _query(exchange: Exchange) -> str:
    return "".join((exchange.target or "").partition("?")[1:])


def _took(seconds: float | None, unit: float) -> int | None:
    return None if seconds is None else round(seconds / unit)


#: Letter -> what it stands for, with Apache's meaning; E is ours.
_DIRECTIVES: Final[dict[str, _Piece]] = {
    "h": _host,
    "l": lambda exchange: None,
    "u": lambda exchange: None,
    "t": lambda exchange: datetimeToLogString(int(exchange.time)),
    "r": request_line,
    "m": lambda exchange: exchange.method,
    "U": lambda exchange: exchange.target and exchange.target.partition("?")[0],
    "q": _query,
    "H": lambda exchange: exchange.protocol,
    "s": lambda exchange: exchange.status,
    "b": lambda exchange: exchange.length or None,
    "B": lambda exchange: exchange.length or 0,
    "D": lambda exchange: _took(exchange.seconds, 1e-6),
    "T": lambda exchange: _took(exchange.seconds, 1),
    "E": lambda exchange: exchange.code,
    "%": lambda exchange: "%",
}


def _text(value: bytes | None) -> str | None:
    return None if value is None else visible(value)


def _shown(value: object) -> str:
    return "-" if value is None else quotable(str(value))


def quotable(text: str) -> str:
    """Printable *text* as it may stand between quotes."""
    return text.replace('"', r"\x22")
