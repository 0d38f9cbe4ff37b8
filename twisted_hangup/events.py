"""What the parsers return: small records, named after RFC 9110 and 9112.

They hold bytes as the peer sent them.  They are slotted dataclasses and not frozen: the parser
builds two or three per request, and a frozen one takes three times as long to build.  Treat them as
read-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

Field: TypeAlias = tuple[bytes, bytes]
"""One field line of a header: name as received, value without the white space around it."""


@dataclass(slots=True)
class RequestHead:
    """A request line and its header (RFC 9112, sections 3 and 5).

    As `ClientError.request` it holds what was complete when the request broke: the request line
    once its target had ended, and the header fields so far.

    Attributes:
        method: Case-sensitive, as received.
        target: As received, not decoded.
        version: ``b"1.0"`` or ``b"1.1"``; ``b""`` if the line broke before its end.
        fields: Header fields in the order received.
        content_length: Length of the body that the client announced, in bytes; None without
            Content-Length.
        chunked: Whether the body is chunked.
        keep_alive: Whether the client keeps the connection open for more (RFC 9112, section 9.3).
        upgrade: Whether the client asked for another protocol (RFC 9110, section 7.8).
    """

    method: bytes
    target: bytes
    version: bytes = b""
    fields: list[Field] = field(default_factory=list)
    content_length: int | None = None
    chunked: bool = False
    keep_alive: bool = True
    upgrade: bool = False

    @property
    def has_body(self) -> bool:
        """Whether a body follows (a chunked one may still be empty)."""
        return self.chunked or bool(self.content_length)


@dataclass(slots=True)
class ResponseHead:
    """A status line and its header (RFC 9112, sections 4 and 5).

    Attributes:
        status: 100 to 999.  A status of 600 or more means 500 (RFC 9110, section 15).
        reason: The reason phrase as received, often empty.  It has no meaning.
        version: ``b"1.0"`` or ``b"1.1"``; ``b""`` if the line broke before its end.
        fields: Header fields in the order received.
        content_length: The Content-Length, or None without one.  In the answer to HEAD, and in a
            304, no body of that length follows.
        chunked: Whether Transfer-Encoding is ``chunked``.  As above, a body need not follow.
        keep_alive: Whether the connection can carry another request after this message (RFC 9112,
            section 9.3).  False if the body ends with the connection.
        upgrade: Whether the connection belongs to another protocol after this message: a 101, or a
            2xx that answers CONNECT.
        has_body: Whether a body follows, which may still turn out to be empty.
    """

    status: int
    reason: bytes = b""
    version: bytes = b""
    fields: list[Field] = field(default_factory=list)
    content_length: int | None = None
    chunked: bool = False
    keep_alive: bool = True
    upgrade: bool = False
    has_body: bool = False

    @property
    def interim(self) -> bool:
        """Whether another head follows, and no `EndOfMessage` (RFC 9110, section 15.2).

        A 101 is not interim.
        """
        return 100 <= self.status < 200 and self.status != 101

    @property
    def until_close(self) -> bool:
        """Whether the body ends where the connection does (RFC 9112, section 6.3)."""
        return self.has_body and not self.chunked and self.content_length is None


@dataclass(slots=True)
class BodyData:
    """Some bytes of the body, without the chunked framing; never empty."""

    data: bytes


@dataclass(slots=True)
class EndOfMessage:
    """The message is complete.

    Attributes:
        trailers: Trailer fields in the order received (RFC 9110, section 6.5).  The parser never
            adds them to the header, and they never change framing.
    """

    trailers: list[Field] = field(default_factory=list)


class NeedData(Enum):
    """The type of `NEED_DATA`: no more events until you call ``receive()`` again."""

    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA

Event: TypeAlias = RequestHead | BodyData | EndOfMessage | NeedData
ResponseEvent: TypeAlias = ResponseHead | BodyData | EndOfMessage | NeedData


class Part(Enum):
    """The part of a message that a byte belongs to."""

    EMPTY_LINE = "empty line before the message"
    REQUEST_LINE = "request line"
    STATUS_LINE = "status line"
    FIELD = "header field"
    CHUNK_SIZE = "chunk size line"
    BODY = "body"
    TRAILER = "trailer field"


@dataclass(slots=True)
class Break:
    """Where in its message a request or response broke, however its bytes were cut into reads.

    Attributes:
        part: The kind of line that broke.
        request_line: The request line (of a response: its status line) as received, without its
            line end; if this line broke, its bytes so far.
        line: The line that broke, up to and including the byte that broke it.  The whole line if no
            single byte is to blame.
        caret: Index in *line* of the byte that broke it; ``len(line)`` if no byte did.
        packet_prefix: The start of the line that the packet continues, from earlier reads; ``b""``
            if the packet begins with a new line or inside a body.
        packet_part: The part of the message that the packet's first byte belongs to.
        message_at: Index in the packet of the broken message's first byte; 0 if the message began
            in an earlier read.  If another message ends in the packet, *packet_prefix* and
            *packet_part* have their defaults.
        fields: The field lines before the line that broke, of its own section: of the trailers if a
            trailer broke, else of the header.  If a start line broke, those of the message before
            it.  None if they are not known.
    """

    part: Part
    request_line: bytes
    line: bytes
    caret: int
    packet_prefix: bytes = b""
    packet_part: Part = Part.EMPTY_LINE
    message_at: int = 0
    fields: Sequence[Field] | None = field(default=(), repr=False, compare=False)
