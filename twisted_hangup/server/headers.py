"""From the parser's fields to Twisted's `Headers`, and back."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.web.http_headers import Headers

from ..events import Field
from ..parser.framing import knows_expectation


class HeadersCache:
    """The last field block of one connection as `Headers`.

    A client repeats its fields byte for byte, the parser then gives the same list, and
    the headers are copied rather than built.

    Attributes:
        expectation_known: What `knows_expectation` says of the last fields.
    """

    __slots__ = ("_fields", "_headers", "expectation_known")

    def __init__(self) -> None:
        self._fields: list[Field] | None = None
        self._headers: dict[bytes, list[bytes]] = {}
        self.expectation_known = True

    def headers(self, fields: list[Field]) -> Headers:
        """*fields* as headers that nobody else holds."""
        if fields is not self._fields:
            headers = headers_of(fields)
            self.expectation_known = knows_expectation(fields)
            self._fields, self._headers = fields, headers._rawHeaders
        copy = Headers()
        # Headers.copy() encodes each name and value anew, at five times this price.
        copy._rawHeaders = {name: values[:] for name, values in self._headers.items()}
        return copy


def headers_of(fields: Iterable[Field]) -> Headers:
    """*fields* as Twisted has them."""
    headers = Headers()
    for name, value in fields:
        headers.addRawHeader(name, value)
    return headers


def fields_of(headers: Headers) -> list[Field]:
    """*headers* as lines, those of one name together."""
    return [(name, value) for name, values in headers.getAllRawHeaders() for value in values]
