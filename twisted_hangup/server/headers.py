"""Converts the parser's fields to Twisted's `Headers`, and back."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from twisted.web.http_headers import Headers

from ..events import Field
from ..parser.framing import knows_expectation
from ..parser.grammar import CR, LF

#: The longest name that Twisted is asked to canonicalize.  Twisted keeps the first 10,000 names,
#: of any length, for as long as the process lives.
_KEPT_NAME: Final = 64

#: No fields, and the headers of none.
_NONE: Final[tuple[None, dict[bytes, list[bytes]]]] = None, {}

_EXPECT_BYTES: Final = len(b"expect")


class HeadersCache:
    """The last header section of one connection as `Headers`.

    A client repeats its header byte for byte.  The parser then returns the same list, and the
    headers are copied instead of built.

    Attributes:
        looked_at: The fields of the last `look_at`.
        expects: Whether they have an Expect.
        expectation_known: The result of `knows_expectation` for them.
        passed_on: What a proxy has made of them; None after another `look_at`.
    """

    __slots__ = ("_last", "expectation_known", "expects", "looked_at", "passed_on")

    def __init__(self) -> None:
        self._last: tuple[list[Field] | None, dict[bytes, list[bytes]]] = _NONE
        self.looked_at: list[Field] | None = None
        self.expects = False
        self.expectation_known = True
        self.passed_on: Any = None

    def look_at(self, fields: list[Field]) -> None:
        """Find out what *fields* expect of us."""
        self.looked_at = fields
        self.passed_on = None
        self.expects = False
        for name, _ in fields:
            # The length first: this is asked of every new header, and few names have it.
            if len(name) == _EXPECT_BYTES and name.lower() == b"expect":
                self.expects = True
        self.expectation_known = not self.expects or knows_expectation(fields)

    def headers(self, fields: list[Field]) -> Headers:
        """*fields* as a new `Headers` object."""
        last = self._last
        if fields is not last[0]:
            last = self._last = fields, headers_of(fields)._rawHeaders  # in one step, for threads
        copy = Headers()
        # Headers.copy() encodes each name and value anew, at five times this price.
        copy._rawHeaders = {name: values[:] for name, values in last[1].items()}
        return copy

    def give(self, request: Any, fields: list[Field]) -> None:
        """Add *fields* to the headers that the class of *request* has set, as Twisted does."""
        kept, received = request.requestHeaders, self.headers(fields)
        if kept.__class__ is Headers and not kept._rawHeaders:
            request.requestHeaders = received
        else:
            for name, values in received.getAllRawHeaders():
                for value in values:
                    kept.addRawHeader(name, value)


class FieldsOfStreams(HeadersCache):
    """As a `HeadersCache` for HTTP/2, where each request has a list of its own: keeps nothing."""

    __slots__ = ()

    def headers(self, fields: list[Field]) -> Headers:
        """*fields* as a new `Headers` object."""
        return headers_of(fields)


def headers_of(fields: Iterable[Field]) -> Headers:
    """*fields* as Twisted's `Headers`."""
    headers = Headers()
    raw = headers._rawHeaders
    for name, value in fields:
        if LF in value or CR in value:  # their numbers: bytes cost six times as much
            value = b" ".join(value.splitlines())  # as Twisted does
        name = _kept(name) if len(name) <= _KEPT_NAME else _canonical(name)
        if name in raw:
            raw[name].append(value)
        else:
            raw[name] = [value]
    return headers


def _canonical(name: bytes) -> bytes:
    return b"-".join([word.capitalize() for word in name.split(b"-")])


@lru_cache(maxsize=1024)
def _kept(name: bytes) -> bytes:
    """*name* in the form that Twisted gives it."""
    headers = Headers()
    headers.addRawHeader(name, b"")
    return next(iter(headers._rawHeaders))


def replace_fields(headers: Headers, fields: Iterable[Field]) -> None:
    """Put *fields* into *headers*, at the end, in place of those of the same names."""
    new = headers_of(fields)
    if headers.__class__ is Headers:
        raw = headers._rawHeaders
        for name in new._rawHeaders:
            raw.pop(name, None)
        raw.update(new._rawHeaders)
        return
    for name, values in new.getAllRawHeaders():
        headers.removeHeader(name)
        for value in values:
            headers.addRawHeader(name, value)


def fields_of(headers: Headers) -> list[Field]:
    """*headers* as fields; those of one name stand together."""
    return [(name, value) for name, values in headers.getAllRawHeaders() for value in values]
