"""The state of the exact reader in one message, and the line that it is in.

A state is a function ``(scan, data, at) -> at``.  It judges ``data[at:]`` as far as it can, sets
``scan.state`` if another state goes on, and returns the index of the first byte that it has not
judged.  The states are in `start_line`, `fields` and `body`, in the order of a message; this module
knows none of them.

Bytes of earlier reads are never judged again.  Within one read, a line that cannot be taken in one
step is read once more.  Only the unfinished line is kept from earlier reads: for the field or
target that it becomes, and for the report if it breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final, Generic, TypeAlias, TypeVar

from ..errors import Phase
from ..events import BodyData, Break, Field, Part, RequestHead, ResponseHead
from ..limits import LONGEST_METHOD, AnyMethod, Limits
from . import grammar, target
from .refusals import HEADER_OVERFLOW, Refusal, at_byte

if TYPE_CHECKING:
    from typing_extensions import Self

Head = TypeVar("Head", bound=RequestHead | ResponseHead)

_HEAD_PARTS: Final = (Part.EMPTY_LINE, Part.REQUEST_LINE, Part.STATUS_LINE, Part.FIELD)


class Scan(Generic[Head]):
    """One message being read by the exact reader.

    Attributes:
        state: The function that judges the next byte.
        part: The kind of the current line; `Part.BODY` inside a body.
        head: The request once its target has ended, the response once its status has.
        start_line: The start line once it is complete, without its line end.
        event: The event that was made and not fetched.
        finished: Whether the message has ended.
        trailers: The trailer fields so far; None before the trailer section.
        spent: Bytes of this section (head, trailers, one chunk's extensions) that count against a
            limit.
        count: Field lines of this section; before the start line, line ends.
        flags: The flags that the header fields have set; trailers set none.
        number: A number being read: Content-Length, or a chunk's size; then what is left of the
            chunk or the body.
        step: How far into a word or number the state is.
        word: Method or protocol; then the name of the current field in lower case.
        name: Name of the current field as received; None outside of fields.
        total: Bytes of the body so far, if it is chunked.
        coding_line: The last Transfer-Encoding line, which the end of the head may have to blame;
            likewise *host_line* and *length_line* (Content-Length).
        end_of_fields: Called at the empty line after the fields.
    """

    __slots__ = (
        *("coding_line", "count", "end_of_fields", "event", "finished", "flags", "head"),
        *("held", "host_line", "length_line", "limits", "line_at", "name", "number"),
        *("packet_part", "part", "spent", "start_line", "state", "step", "total"),
        *("trailers", "word"),
    )

    #: The kind of the start line.
    START: ClassVar[Part]

    def __init__(self, limits: Limits, state: Callable[[Self, bytes, int], int]) -> None:
        self.limits = limits
        self.state = state
        self.part = self.packet_part = Part.EMPTY_LINE
        self.held: bytearray | None = None
        self.line_at = 0
        self.head: Head | None = None
        self.start_line = b""
        self.event: Head | BodyData | None = None
        self.finished = False
        self.trailers: list[Field] | None = None
        self.spent = 0
        self.count = 0
        self.flags = 0
        self.number = 0
        self.step = 0
        self.word = b""
        self.name: bytes | None = None
        self.total = 0
        self.coding_line = self.host_line = self.length_line = b""
        self.end_of_fields: Callable[[Self, int], None] | None = None

    def advance(self: Self, data: bytes, at: int) -> int:
        """Judge ``data[at:]`` up to the next event, the message's end, or the data's end.

        Returns:
            Index of the first byte that has not been judged.

        Raises:
            Refusal: A byte, or the line or head that it ends, is not accepted.
        """
        end = len(data)
        while at < end and self.event is None and not self.finished:
            at = self.state(self, data, at)
        return at

    # --- the current line -----------------------------------------------------------------

    def column(self, at: int) -> int:
        """How many bytes of the current line come before ``data[at]``."""
        if self.line_at < 0:
            assert self.held is not None
            return len(self.held) + at
        return at - self.line_at

    def line(self, data: bytes, at: int) -> bytes:
        """The current line, as far as ``data[:at]`` goes."""
        if self.line_at < 0:
            assert self.held is not None
            return bytes(self.held + data[:at])
        return data[self.line_at : at]

    def hold(self, data: bytes) -> None:
        """Keep the bytes of *data* that the next packet needs; *data* is read to its end."""
        if self.line_at < 0:
            assert self.held is not None
            self.held += data
        else:
            self.held = bytearray(data[self.line_at :])
        self.line_at = -1
        self.packet_part = self.part

    # --- limits ---------------------------------------------------------------------------

    def spend(self, start: int, end: int) -> None:
        """Count the head or trailer bytes from index *start* to *end*.

        Raises:
            Refusal: They reach ``Limits.head_bytes``; at the byte that does.
        """
        self.spent += end - start
        if self.spent >= self.limits.head_bytes:
            beyond = self.spent - self.limits.head_bytes
            raise at_byte(HEADER_OVERFLOW, max(start, end - 1 - beyond))

    # --- reports --------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """The phase of the message."""
        return "head" if self.part in _HEAD_PARTS else "body"

    @property
    def field(self) -> bytes | None:
        """The name of the field that is being read, or None."""
        return self.name if self.part in (Part.FIELD, Part.TRAILER) else None

    def broke_at(self, data: bytes, refusal: Refusal, message_at: int) -> Break:
        """Where the message broke, for `ClientError.broke_at`."""
        if refusal.culprit is not None:
            line = self.line(data, refusal.culprit + 1)
            caret = len(line) - 1
        else:
            whole = self.line(data, refusal.offset) if refusal.line is None else refusal.line
            line = whole.rstrip(b"\r\n")
            caret = len(line)
        broke = Break(self.part, self._start_line(line), line, caret)
        broke.message_at = message_at
        if message_at:
            return broke
        if self.held is not None:
            broke.packet_part = self.packet_part
            if self.packet_part not in (Part.EMPTY_LINE, Part.BODY):
                broke.packet_prefix = bytes(self.held)
        if broke.packet_part is Part.EMPTY_LINE and data[0] not in b"\r\n":
            broke.packet_part = self.START
        return broke

    def ended_at(self) -> Break:
        """The same for the end of input, where no byte is to blame."""
        line = bytes(self.held or b"")
        return Break(self.part, self._start_line(line), line, len(line))

    def _start_line(self, line: bytes) -> bytes:
        return line if self.part is self.START else self.start_line


class _Tokens(Container[bytes]):
    """Every token of up to *longest* bytes except *others* (RFC 9110, section 5.6.2)."""

    def __init__(self, longest: int, *others: bytes) -> None:
        self._longest = longest
        self._others = others

    def __contains__(self, word: object) -> bool:
        return (
            isinstance(word, bytes)
            and len(word) <= self._longest
            and grammar.TOKEN.fullmatch(word) is not None
            and word not in self._others
        )


class Methods:
    """The methods that a parser accepts; `methods_of` makes them.

    Attributes:
        http: Those that an ``HTTP/`` version may follow.
        known: Those and the ones that llhttp knows from other protocols, so that the reason of a
            refusal is Node's.
        starts: Every start of a known method.
        common: Those that the exact reader need not look at.
    """

    __slots__ = ("common", "http", "known", "starts")

    #: RTSP's methods in llhttp 9.4; a method that HTTP has too is in both.
    RTSP: Final = frozenset(
        b"ANNOUNCE DESCRIBE FLUSH GET GET_PARAMETER OPTIONS PAUSE PLAY POST RECORD REDIRECT "
        b"SETUP SET_PARAMETER TEARDOWN".split()
    )
    ICE: Final = frozenset({b"SOURCE"})
    #: How HTTP/2 starts, so that an old server notices (RFC 9113, section 3.4).
    HTTP2: Final = b"PRI"

    http: Container[bytes]
    known: Container[bytes]
    starts: Container[bytes]
    common: Container[bytes]

    def __init__(self, http: frozenset[bytes] | AnyMethod) -> None:
        if isinstance(http, AnyMethod):
            self.http = self.known = _Tokens(LONGEST_METHOD)
            # A longer one is not known: the exact reader refuses it.
            self.starts = _Tokens(LONGEST_METHOD + 1)
            self.common = _Tokens(LONGEST_METHOD, self.HTTP2, b"CONNECT")
            return
        self.http = http | {self.HTTP2}
        self.known = self.http | (self.RTSP - {b"GET", b"OPTIONS", b"POST"})
        self.starts = frozenset(
            method[:length] for method in self.known for length in range(1, len(method) + 1)
        )
        self.common = http - {self.HTTP2, b"CONNECT"}


methods_of: Final = lru_cache(maxsize=16)(Methods)


class RequestScan(Scan[RequestHead]):
    """One request being read by the exact reader.

    Attributes:
        methods: The methods that are accepted.
        target_at: Column where the target began.
        target_part: The part of a URL that the target has come to.
        spaces: Whether the request line has had a space too many.
    """

    __slots__ = ("methods", "spaces", "target_at", "target_part")

    START = Part.REQUEST_LINE

    def __init__(self, limits: Limits, state: RequestState, methods: Methods) -> None:
        super().__init__(limits, state)
        self.methods = methods
        self.target_at = 0
        self.spaces = False
        self.target_part = target.START


class ResponseScan(Scan[ResponseHead]):
    """One response being read by the exact reader.

    Attributes:
        method: The method of the request that it answers.
        asked_upgrade: Whether that request asked for another protocol.
    """

    __slots__ = ("asked_upgrade", "method")

    START = Part.STATUS_LINE

    def __init__(
        self, limits: Limits, state: ResponseState, method: bytes, asked_upgrade: bool
    ) -> None:
        super().__init__(limits, state)
        self.method = method
        self.asked_upgrade = asked_upgrade

    @property
    def phase(self) -> Phase:
        return "idle" if self.part is Part.EMPTY_LINE else super().phase

    def broke_at(self, data: bytes, refusal: Refusal, message_at: int) -> Break:
        broke = super().broke_at(data, refusal, message_at)
        if message_at:
            broke.packet_part = self.START
        return broke


State: TypeAlias = Callable[[Scan[Head], bytes, int], int]
RequestState: TypeAlias = Callable[[RequestScan, bytes, int], int]
ResponseState: TypeAlias = Callable[[ResponseScan, bytes, int], int]
