"""The response heads that we write in HTTP/1.1, and the default answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

from twisted.web.http import RESPONSES
from twisted.web.http_headers import Headers

from ..events import Field
from ..parser.grammar import TOKEN

ResponseFields: TypeAlias = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]

#: Statuses whose phrase in Node's ``http.STATUS_CODES`` differs from Twisted's.
NODE_PHRASES: Final[Mapping[int, bytes]] = {
    408: b"Request Timeout",
    413: b"Payload Too Large",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
}

#: Headers that a handler may not set: respond() adds them, or they would contradict what it adds.
_OURS: Final = frozenset({b"connection", b"content-length", b"transfer-encoding"})


def status_line(status: int) -> bytes:
    """The status line for *status* in HTTP/1.1, with Node's reason phrase."""
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase_of(status))


def phrase_of(status: int) -> bytes:
    """Node's reason phrase for *status*."""
    return NODE_PHRASES.get(status) or RESPONSES.get(status, b"Unknown Status")


@cache
def default_answer(status: int) -> bytes:
    """What a client gets when no handler answers it: Node's bytes."""
    return status_line(status) + b"Connection: close\r\n\r\n"


def closing_head(status: int, body: bytes, fields: ResponseFields) -> bytes:
    """The head of a handler's response; the connection closes after it.

    Raises:
        ValueError: See `handler_fields`.
    """
    lines = [status_line(status), b"Connection: close\r\n"]
    lines += [b"%b: %b\r\n" % field for field in handler_fields(status, body, fields)]
    lines.append(b"\r\n")
    return b"".join(lines)


def handler_fields(status: int, body: bytes, fields: ResponseFields) -> list[Field]:
    """The header of a handler's response, with the type and length of *body*.

    Raises:
        ValueError: *status* is not a final one, a name is not a token, a value holds CR, LF or NUL,
            or a header is one that respond() sets.
    """
    if not 200 <= status <= 599:
        raise ValueError(f"{status!r} is not the status of a final response")
    result: list[Field] = []
    names = set()
    for raw_name, raw_value in fields.items() if isinstance(fields, Mapping) else fields:
        name, value = _field_bytes(raw_name), _field_bytes(raw_value)
        if not TOKEN.fullmatch(name):
            raise ValueError(f"{raw_name!r} is not a field name")
        if any(byte in value for byte in b"\r\n\0"):
            raise ValueError(f"the value of {raw_name!r} would break the response: {raw_value!r}")
        if name.lower() in _OURS:
            raise ValueError(f"{raw_name!r} is set by respond() itself")
        names.add(name.lower())
        result.append((name, value))
    if body and b"content-type" not in names:
        result.append((b"Content-Type", b"text/plain; charset=utf-8"))
    result.append((b"Content-Length", b"%d" % len(body)))
    return result


def response_head(version: bytes, code: bytes, reason: bytes, headers: Headers) -> bytes:
    """The status line and header of a resource's response, with the empty line."""
    lines = [b"%b %b %b" % (version, code, reason)]
    for name, values in headers.getAllRawHeaders():
        lines += [b"%b: %b" % (name, value) for value in values]
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _field_bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("latin-1")
