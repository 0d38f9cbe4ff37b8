"""The formats of the access log other than the combined one.

A format is ``json``, or a text with Apache's directives, such as ``%h %t "%r" %>s %B %D``.
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
    """A request and its result, as far as they are known.

    Attributes:
        time: When it was over, in seconds since the epoch.
        peer: The client's Twisted address, or None.
        method: The method, in printable ASCII; or None.
        target: The target, in printable ASCII; or None.
        protocol: The version of HTTP, in printable ASCII; or None.
        status: The status that was sent; 499 and 444 as in the combined format.
        length: Bytes of the response's body that were sent; None if nobody has counted.
        seconds: How long the application took; None if it did not get the request.
        code: The code of the error that refused it; or None.
        request_field: Returns the value of a request header by its name, masked; or None.
        response_field: Returns the value of a response header by its name, masked; or None.
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


#: Makes a line, without its line end.
Format: TypeAlias = Callable[[Exchange], str]


def json_line(exchange: Exchange) -> str:
    """A JSON object in one line; its names are the error log's where that has them."""
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
    """The format in *text*; None for ``combined``, which `AccessLog` writes itself.

    Raises:
        ValueError: *text* is not a format.
    """
    if text in ("combined", "json"):
        return json_line if text == "json" else None
    if "%" not in text:
        raise ValueError(f"{text!r} is not combined, not json, and has no directive such as %h")
    if not text.replace("\t", " ").isprintable():
        raise ValueError("a format may not have control characters or line ends")
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
    raise ValueError(f"{directive!r} is not one of {known}, %{{NAME}}i and %{{NAME}}o")


def _host(exchange: Exchange) -> str | None:
    return getattr(exchange.peer, "host", None)


def request_line(exchange: Exchange) -> str | None:
    """Method, target and protocol, as far as they arrived; None if nothing did."""
    if exchange.method is None:
        return None
    line = f"{exchange.method} {exchange.target or '-'}"
    return f"{line} {exchange.protocol}" if exchange.protocol else line


def _query(exchange: Exchange) -> str:
    return "".join((exchange.target or "").partition("?")[1:])


def _took(seconds: float | None, unit: float) -> int | None:
    return None if seconds is None else round(seconds / unit)


#: Letter -> its value, with Apache's meaning; E is ours.
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
    """Printable *text*, escaped for quotes around it."""
    return text.replace('"', r"\x22")
