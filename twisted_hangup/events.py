"""What the parser emits: small records with the RFC's words.

They hold bytes as the client sent them and know nothing of connections.  All are
plain slotted dataclasses: the parser builds two or three per request, and a frozen one
costs three times as much to build.  Treat them as read-only all the same.
"""

from __future__ import annotations

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


class Part(Enum):
    """The part of a message a byte stands in."""

    EMPTY_LINE = "empty line before the request"
    REQUEST_LINE = "request line"
    FIELD = "header field"
    CHUNK_SIZE = "chunk size line"
    BODY = "body"
    TRAILER = "trailer field"


@dataclass(slots=True)
class Break:
    """Where in its message a request broke, told independently of how the bytes were cut.

    Attributes:
        part: What the line that broke is.
        request_line: The request line as received, without its line end; so far, where
            it is the line that broke.
        line: The line that broke, from its first byte up to and including the byte that
            broke it (all of it where no single byte is to blame).
        caret: Index in *line* of the byte that broke it; ``len(line)`` where no byte did.
        packet_prefix: The bytes of an unfinished line that earlier reads had brought when
            the packet began; ``b""`` where it began with a fresh line or inside a body.
        packet_part: The part that the first byte of the packet stands in.
        message_at: Index in the packet of the broken message's first byte; 0 where the
            message began in an earlier read.  Behind another message nothing is told of
            the packet's first byte: *packet_prefix* and *packet_part* are the defaults.
    """

    part: Part
    request_line: bytes
    line: bytes
    caret: int
    packet_prefix: bytes = b""
    packet_part: Part = Part.EMPTY_LINE
    message_at: int = 0
