"""The fields of a form, read in bounded time and memory, both linear in its bytes.

The result is Twisted's ``request.args``; the docs' page "Forms" lists the differences.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_qp
from collections.abc import Generator
from contextlib import suppress
from time import monotonic
from typing import Any, BinaryIO, Final, TypeAlias
from urllib.parse import unquote_to_bytes

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserError,
    ParserLimitReached,
    PushMultipartParser,
    StrictParserError,
)
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure

from ..limits import KIB, Limits
from ..parser.refusals import FORM_FIELDS, FORM_TOO_LARGE, MULTIPART, PART_HEAD_TOO_LARGE, Why

Fields: TypeAlias = dict[bytes, list[bytes]]

#: Bytes that are read at a time.
_SLICE: Final = 32 * KIB

#: How long all forms together may occupy the reactor in each turn; as long as a task of Twisted's
#: `Cooperator`.
SLICE_SECONDS: Final = 0.01

#: Most fields in the header of a part; `Limits` bounds their bytes.  RFC 7578 has three.
_MOST_PART_FIELDS: Final = 64

#: How many forms of the largest size a process holds at a time.
LARGEST_AT_ONCE: Final = 16

_PARAMETER: Final = re.compile(rb';[ \t]*([^=; \t]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;]*)')

#: RFC 2046, section 5.1.1; the client chooses its bytes.
_MOST_BOUNDARY: Final = 70

#: RFC 7578, section 4.2: "name*" must not be used.
_EXTENDED_NAME: Final = re.compile(r";[ \t]*name\*", re.ASCII | re.IGNORECASE)


class FormRefused(Exception):
    """The form is malformed or exceeds a limit; *why* says which."""

    def __init__(self, why: Why) -> None:
        super().__init__(why.reason)
        self.why = why


class TooManyForms(Exception):
    """This process holds as many bytes of forms as it may."""


class Room:
    """How many bytes of forms this process holds, until their requests are answered."""

    bytes = 0


ROOM: Final = Room()


class Form:
    """The body of a request, if it is a form, from its first byte to the end of the response.

    Args:
        content: The body, at its beginning; it is *size* bytes long.
        content_type: The client's Content-Type.

    Attributes:
        fields: The fields that were read so far; empty if it is not a form.
    """

    def __init__(self, content: BinaryIO, size: int, content_type: bytes, limits: Limits) -> None:
        self.fields: Fields = {}
        self._size = size
        self._limits = limits
        self._held = 0
        self._slices: Generator[None, None, None] | None = None
        kind = content_type.partition(b";")[0].strip().lower()
        if kind == b"application/x-www-form-urlencoded":
            self._slices = _urlencoded(content, limits, self.fields)
        elif kind == b"multipart/form-data":
            self._slices = _multipart(content, _boundary(content_type), limits, self.fields)

    def read(self, cooperator: Cooperator) -> Deferred[Any] | None:
        """Read the form for a slice of time; the rest is read in turns with other forms.

        Returns:
            A Deferred that fires when the form has been read or closed, and fails with
            `FormRefused` or `TooManyForms`.  None if it is not a form.
        """
        slices, most = self._slices, self._limits.form_bytes
        if slices is None:
            return None
        if most and self._size > most:
            return fail(FormRefused(FORM_TOO_LARGE))
        if most and ROOM.bytes + self._size > most * LARGEST_AT_ONCE:
            return fail(TooManyForms())
        self._held = self._size
        ROOM.bytes += self._held
        due = monotonic() + SLICE_SECONDS
        try:
            for _ in slices:
                if monotonic() >= due:
                    return cooperator.cooperate(slices).whenDone()
        except Exception:
            return fail(Failure())
        return succeed(None)

    def close(self) -> None:
        """Stop reading, and release its room; harmless if that was done before."""
        if self._slices is not None:
            self._slices.close()
        ROOM.bytes -= self._held
        self._held = 0

    #: A request may be forgotten before it has ended: another protocol took the connection.
    __del__ = close


def _boundary(content_type: bytes) -> bytes:
    for name, value in _PARAMETER.findall(content_type):
        if name.lower() == b"boundary":
            quoted = value.startswith(b'"')
            boundary: bytes = value[1:-1].replace(b"\\", b"") if quoted else value.rstrip()
            return boundary
    return b""


# application/x-www-form-urlencoded


def _urlencoded(content: BinaryIO, limits: Limits, fields: Fields) -> Generator[None, None, None]:
    count = 1
    field = _Field()
    while data := content.read(_SLICE):
        first, *others = data.replace(b";", b"&").split(b"&")
        count += len(others)
        if limits.form_fields and count > limits.form_fields:
            raise FormRefused(FORM_FIELDS)
        field.feed(first)
        for piece in others:
            field.add_to(fields)
            field = _Field()
            field.feed(piece)
        if len(data) == _SLICE:  # a form of one slice is read at once, on any machine
            yield
    field.add_to(fields)


class _Field:
    """One field, decoded piece by piece: in one piece a long one would take many copies."""

    def __init__(self) -> None:
        self._name: bytes | None = None
        self._decoded: list[bytes] = []
        #: The start of an escape that the piece cuts.
        self._rest = b""

    def feed(self, data: bytes) -> None:
        if self._name is None and b"=" in data:
            encoded_name, _, data = data.partition(b"=")
            self._decode(encoded_name)
            self._name = self._all()
        self._decode(data)

    def add_to(self, fields: Fields) -> None:
        """The field has ended; without a "=" it is not a field."""
        if self._name is not None:
            fields.setdefault(self._name, []).append(self._all())

    def _decode(self, data: bytes) -> None:
        data = self._rest + data
        escape = data.rfind(b"%", max(0, len(data) - 2))
        end = len(data) if escape == -1 else escape
        self._decoded.append(unquote_to_bytes(data[:end].replace(b"+", b" ")))
        self._rest = data[end:]

    def _all(self) -> bytes:
        self._decoded.append(self._rest.replace(b"+", b" "))
        whole = b"".join(self._decoded)
        self._decoded, self._rest = [], b""
        return whole


# multipart/form-data


class _Parser(PushMultipartParser):  # type: ignore[misc]  # untyped
    """Accepts parts as Twisted does, but no more and no larger ones than *limits* allow."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        if len(boundary) > _MOST_BOUNDARY:
            raise ParserError("Boundary too long")
        super().__init__(
            boundary,
            max_header_size=limits.part_head_bytes,
            max_header_count=_MOST_PART_FIELDS,
            header_charset="latin-1",  # keeps any byte
            # Else a header may be folded, and each fold costs a copy of the line.
            strict=True,
        )
        self._limits = limits
        self._parts = 0

    def _create_segment(self, headerlist: list[tuple[str, str]]) -> MultipartSegment:
        limits = self._limits
        self._parts += 1
        if limits.form_fields and self._parts > limits.form_fields:
            raise FormRefused(FORM_FIELDS)
        if sum(len(f"{name}: {value}\r\n") for name, value in headerlist) > limits.part_head_bytes:
            raise FormRefused(PART_HEAD_TOO_LARGE)
        if [name for name, _ in headerlist].count("Content-Disposition") > 1:
            raise ParserError("Two names for a part")
        segment = MultipartSegment(headerlist)
        if segment.name is None and _EXTENDED_NAME.search(
            segment.header("Content-Disposition", "")
        ):
            raise ParserError("Extended parameter")
        return segment


def _multipart(
    content: BinaryIO, boundary: bytes, limits: Limits, fields: Fields
) -> Generator[None, None, None]:
    part: Any = None
    pieces: list[bytes] = []
    try:
        parser = _Parser(boundary, limits)
        try:
            while data := content.read(_SLICE):
                for event in parser.parse(data):
                    if isinstance(event, MultipartSegment):
                        part, pieces = event, []
                    elif not part.name:
                        continue
                    elif event is None:
                        name = part.name.encode("latin-1")
                        fields.setdefault(name, []).append(_decoded(b"".join(pieces), part))
                    else:
                        pieces.append(event)
                if len(data) == _SLICE:
                    yield
        except StrictParserError:
            pass  # anything may follow the end; before it, close() raises
        parser.close()
    except ParserLimitReached:
        raise FormRefused(PART_HEAD_TOO_LARGE) from None
    except MultipartError:
        raise FormRefused(MULTIPART) from None


def _decoded(data: bytes, part: MultipartSegment) -> bytes:
    """*data* without its transfer encoding; unchanged if it does not decode."""
    encoding = part.header("Content-Transfer-Encoding", "").strip().lower()
    if encoding == "quoted-printable":
        return a2b_qp(data)
    if encoding == "base64":
        with suppress(Base64Error):
            return a2b_base64(data + b"==")  # more padding than needed does no harm
    return data
