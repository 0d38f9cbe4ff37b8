"""What the parser emits: small records with the RFC's words.

They hold bytes as the peer sent them and know nothing of connections.  All are
plain slotted dataclasses: the parser builds two or three per request, and a frozen one
costs three times as much to build.  Treat them as read-only all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

Field: TypeAlias = tuple[bytes, bytes]
"""One field line: name as received, value without the white space around it."""


@dataclass(slots=True)
class RequestHead:
    """A request line and its field section (RFC 9112, sections 3 and 5).

    On a :class:`~twisted_hangup.errors.ClientError` it holds what was complete when the
    request broke: the request line once its target had ended, and the fields so far.

    Attributes:
        method: Token, case-sensitive, as received.
        target: Request target, undecoded, as received.
        version: ``b"1.0"`` or ``b"1.1"``; ``b""`` where the line broke before its end.
        fields: Field lines in the order received.
        content_length: Octets of body the client announced, or None without the field.
        chunked: Whether the body is framed by the chunked transfer coding.
        keep_alive: Whether the client lets the connection persist (RFC 9112, section 9.3).
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
        """Whether any octet of body is to come (a chunked one may still be empty)."""
        return self.chunked or bool(self.content_length)


@dataclass(slots=True)
class ResponseHead:
    """A status line and its field section (RFC 9112, sections 4 and 5).

    Attributes:
        status: From 100 to 999; what is 600 or more means 500 (RFC 9110, section 15).
        reason: The reason phrase as received, often empty; it means nothing.
        version: ``b"1.0"`` or ``b"1.1"``; ``b""`` where the line broke before its end.
        fields: Field lines in the order received.
        content_length: The Content-Length, or None without the field.  In the answer to
            HEAD, and in a 304, it is that of a body which does not come.
        chunked: Whether Transfer-Encoding is ``chunked``; the same is true of it.
        keep_alive: Whether another request may be sent on the connection when this message
            has ended (RFC 9112, section 9.3): never where the body ends with it.
        upgrade: Whether the connection belongs to another protocol after this message:
            a 101, or a 2xx that answers CONNECT.
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
        """Whether no `EndOfMessage` follows, but the head of the response itself, or
        one more of this kind (RFC 9110, section 15.2; a 101 is not interim).
        """
        return 100 <= self.status < 200 and self.status != 101

    @property
    def until_close(self) -> bool:
        """Whether the body ends where the connection does (RFC 9112, section 6.3)."""
        return self.has_body and not self.chunked and self.content_length is None


@dataclass(slots=True)
class BodyData:
    """Some octets of the body, transfer coding removed; never empty."""

    data: bytes


@dataclass(slots=True)
class EndOfMessage:
    """The message is complete.

    Attributes:
        trailers: Trailer fields in the order received (RFC 9110, section 6.5).  They are
            never merged into the head's fields and never change framing.
    """

    trailers: list[Field] = field(default_factory=list)


class NeedData(Enum):
    """The one value, `NEED_DATA`, that says: nothing more until :meth:`receive`."""

    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA

Event: TypeAlias = RequestHead | BodyData | EndOfMessage | NeedData
ResponseEvent: TypeAlias = ResponseHead | BodyData | EndOfMessage | NeedData


class Part(Enum):
    """The part of a message a byte stands in."""

    EMPTY_LINE = "empty line before the message"
    REQUEST_LINE = "request line"
    STATUS_LINE = "status line"
    FIELD = "header field"
    CHUNK_SIZE = "chunk size line"
    BODY = "body"
    TRAILER = "trailer field"


@dataclass(slots=True)
class Break:
    """Where in its message a request or response broke, however its bytes were cut.

    Attributes:
        part: What the line that broke is.
        request_line: The request line (of a response: its status line) as received,
            without its line end; so far, where it is the line that broke.
        line: The line that broke, from its first byte up to and including the byte that
            broke it (all of it where no single byte is to blame).
        caret: Index in *line* of the byte that broke it; ``len(line)`` where no byte did.
        packet_prefix: The bytes of an unfinished line that earlier reads had brought when
            the packet began; ``b""`` where it began with a fresh line or inside a body.
        packet_part: The part that the first byte of the packet stands in.
        message_at: Index in the packet of the broken message's first byte; 0 where the
            message began in an earlier read.  After another message nothing is told of
            the packet's first byte: *packet_prefix* and *packet_part* are the defaults.
        fields: The field lines before the line that broke: those of the trailers where a
            trailer broke, of the message before where a start line did, else of the head.
            None where they are not known.
    """

    part: Part
    request_line: bytes
    line: bytes
    caret: int
    packet_prefix: bytes = b""
    packet_part: Part = Part.EMPTY_LINE
    message_at: int = 0
    fields: Sequence[Field] | None = field(default=(), repr=False, compare=False)
