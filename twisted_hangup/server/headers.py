"""From the parser's fields to Twisted's `Headers`, and from those to a response head."""

from __future__ import annotations

from twisted.web.http_headers import Headers

from ..events import Field


class HeadersCache:
    """The last field block of one connection as `Headers`.

    A client repeats its fields byte for byte, the parser then gives the same list, and
    the headers are copied rather than built.

    Attributes:
        expectation_known: Whether the last fields expect nothing but ``100-continue``
            (RFC 9110, section 10.1.1).
    """

    __slots__ = ("_fields", "_headers", "expectation_known")

    def __init__(self) -> None:
        self._fields: list[Field] | None = None
        self._headers: dict[bytes, list[bytes]] = {}
        self.expectation_known = True

    def headers(self, fields: list[Field]) -> Headers:
        """*fields* as headers that nobody else holds."""
        if fields is not self._fields:
            headers = Headers()
            for name, value in fields:
                headers.addRawHeader(name, value)
            expected = headers.getRawHeaders(b"Expect", ())
            self.expectation_known = all(value.lower() == b"100-continue" for value in expected)
            self._fields, self._headers = fields, headers._rawHeaders
        copy = Headers()
        # Headers.copy() encodes each name and value anew, at five times this price.
        copy._rawHeaders = {name: values[:] for name, values in self._headers.items()}
        return copy


def response_head(version: bytes, code: bytes, reason: bytes, headers: Headers) -> bytes:
    """The status line and field section of a response, up to and including the empty line."""
    lines = [b"%b %b %b" % (version, code, reason)]
    for name, values in headers.getAllRawHeaders():
        lines += [b"%b: %b" % (name, value) for value in values]
    lines.append(b"\r\n")
    return b"\r\n".join(lines)
