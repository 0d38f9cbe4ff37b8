"""The fields of a form, in time and room that are linear in its bytes, and bounded.

What comes out is what ``request.args`` has in Twisted; docs/forms.md says where it is not.
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

#: How long all forms together may keep everybody else waiting, each turn of the reactor:
#: what Twisted's `Cooperator` takes, too.
SLICE_SECONDS: Final = 0.01

#: Most fields in the head of a part, where `Limits` bounds their bytes; RFC 7578 has three.
_MOST_PART_FIELDS: Final = 64

#: How many forms of the largest size a process holds at a time.
LARGEST_AT_ONCE: Final = 16

_PARAMETER: Final = re.compile(rb';[ \t]*([^=; \t]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;]*)')

#: RFC 2046, section 5.1.1; what bytes it has is left to the client.
_MOST_BOUNDARY: Final = 70

#: RFC 7578, section 4.2: "name*" must not be used.
_EXTENDED_NAME: Final = re.compile(r";[ \t]*name\*", re.ASCII | re.IGNORECASE)


class FormRefused(Exception):
    """The form breaks its grammar, or a limit; *why* says which."""

    def __init__(self, why: Why) -> None:
        super().__init__(why.reason)
        self.why = why


class TooManyForms(Exception):
    """This process holds as much of forms as it may."""


class Room:
    """How many bytes of forms this process holds: being read, or their requests answered."""

    bytes = 0


ROOM: Final = Room()


class Form:
    """The body of a request, if it is a form, from its first byte to the end of the response.

    Args:
        content: Stands where the body begins, and is *size* bytes long.
        content_type: What the client says that it is.

    Attributes:
        fields: What has been read of it; nothing where it is no form.
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
        """Read it, for a slice of time; what then remains is read in turns with other forms.

        Returns:
            A Deferred that fires when it has been read or closed, and fails with
            `FormRefused` or `TooManyForms`; None where it is no form.
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
        """Read no further, and give back its room; harmless when that has been done."""
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
        if len(data) == _SLICE:  # what fits in one is read at once, however slow the machine is
            yield
    field.add_to(fields)


class _Field:
    """One field, decoded as it comes: a long one would be copied, and made of many objects."""

    def __init__(self) -> None:
        self._name: bytes | None = None
        self._decoded: list[bytes] = []
        #: The beginning of an escape.
        self._rest = b""

    def feed(self, data: bytes) -> None:
        if self._name is None and b"=" in data:
            encoded_name, _, data = data.partition(b"=")
            self._decode(encoded_name)
            self._name = self._all()
        self._decode(data)

    def add_to(self, fields: Fields) -> None:
        """The field has ended; without a "=" it is none."""
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
    """Accepts parts as Twisted does, and no more of them or of their heads than *limits* say."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        if len(boundary) > _MOST_BOUNDARY:
            raise ParserError("Boundary too long")
        super().__init__(
            boundary,
            max_header_size=limits.part_head_bytes,
            max_header_count=_MOST_PART_FIELDS,
            header_charset="latin-1",  # any byte, and the same back again
            # Without it a head may be folded, at the cost of a copy of the line for each fold.
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
            pass  # after the end anything may follow; before it, close() raises
        parser.close()
    except ParserLimitReached:
        raise FormRefused(PART_HEAD_TOO_LARGE) from None
    except MultipartError:
        raise FormRefused(MULTIPART) from None


def _decoded(data: bytes, part: MultipartSegment) -> bytes:
    """*data* without its transfer encoding; as it is where it does not decode."""
    encoding = part.header("Content-Transfer-Encoding", "").strip().lower()
    if encoding == "quoted-printable":
        return a2b_qp(data)
    if encoding == "base64":
        with suppress(Base64Error):
            return a2b_base64(data + b"==")  # which does not mind more than is missing
    return data
