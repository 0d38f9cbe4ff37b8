"""Every error that this package raises on purpose, and the status each is answered with by default.

Catching one needs no parser, reactor or channel.  `twisted_hangup.report` writes the text: it sets
`RecordedError.report_writer` when it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias

from .events import Break, Part, RequestHead, ResponseHead

Phase: TypeAlias = Literal["handshake", "idle", "head", "body", "response"]
ServerPhase: TypeAlias = Literal["connecting", "request", "waiting", "head", "body"]

#: Code -> status of the default answer, as in Node 26.10; then the codes that Node does not have.
#: A `ParseError` with any other code is answered 400, any other error not at all.
DEFAULT_STATUS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "HPE_HEADER_OVERFLOW": 431,
        "HPE_CHUNK_EXTENSIONS_OVERFLOW": 413,
        "ERR_HTTP_REQUEST_TIMEOUT": 408,
        "ERR_HTTP_BODY_TOO_LARGE": 413,
    }
)

#: The client has no request under way: if it leaves in one of these phases, nothing is wrong.
QUIET_PHASES: Final = ("handshake", "idle")

#: The status of ``HPE_HEADER_OVERFLOW`` if the target alone is too long (RFC 9110, 15.5.15).
TARGET_TOO_LONG: Final = 414

#: nginx's "client closed request": the status that the access log gives a request whose
#: client left before its response was finished.
CLIENT_LEFT: Final = 499

#: nginx's status for a connection that the server closed without a response.
NO_RESPONSE: Final = 444


class HangupError(Exception):
    """Base of all errors that this package raises on purpose."""


class ReportWriter(Protocol):
    """The type of `RecordedError.report_writer`; see `twisted_hangup.report.report_error`."""

    def __call__(self, error: RecordedError, *, masked: bool) -> str: ...


class RecordedError(HangupError):
    """An error that a site's journal keeps: a `ClientError` or an `UpstreamError`.

    Attributes:
        code: Stable name: ``HPE_*``, ``ERR_*`` or an errno name.  Node's name if Node has one.
        reason: What happened, in llhttp's words if llhttp has some.
        phase: ``"handshake"``, ``"idle"`` (between messages), ``"head"``, ``"body"`` or
            ``"response"`` (the request was complete, its response was not).
        request: Method, target and header received so far; None before the target ended.
        field: Name of the header or trailer field that is wrong, as received, or None.
        peer: Address of the client (Twisted's ``IAddress``), or None.
        status: Status code of the default answer; None if the client gets no answer.
        quiet: True if nothing is wrong, because the client had no request under way: a probe, a
            reset between requests, a connection that never sent a byte.  Logs leave these out by
            default (`ConsoleLog` has a switch).
        errno: The operating system's error number, or None.
        raw_packet: The read with the offending byte (at most 64 KiB).  None for the end of input,
            timeouts, resets, TLS and HTTP/2.  Node's ``rawPacket``.
        bytes_parsed: Index of the offending byte in *raw_packet*; 0 for the end of input; None
            without a packet.  Node's ``bytesParsed``.
        offset: The same place, counted from the first byte after the previous message (empty lines
            before the request line count).  For the end of input: the number of bytes so far.  Else
            None.
        broke_at: The same place, however the bytes were cut into reads, or None; `report` shows it.
        masking: The site's `MaskingPolicy`, which `report` follows; None means the default one.
        settled: True once the client's answer is complete: nothing more will be sent.
        answered: Status code of the answer that was sent; None before, and if none was sent.
        answered_bytes: Bytes of the body of that answer.
    """

    # Slots: the server makes one per refused request, and they save a third of the time.
    __slots__ = (
        *("answered", "answered_bytes", "broke_at", "bytes_parsed", "code"),
        *("errno", "field", "masking", "offset", "peer", "phase", "raw_packet", "reason"),
        *("request", "settled"),
    )

    default_status: int | None = None

    #: Whether `report` describes a request or a response.
    about: Literal["request", "response"] = "request"

    #: The body of the default answer, as text.  Empty, as in Node.
    default_body = b""

    #: Set by `twisted_hangup.report`, which this module does not import.
    report_writer: ClassVar[ReportWriter | None] = None

    def __init__(
        self,
        reason: str,
        *,
        code: str,
        phase: Phase,
        request: RequestHead | None = None,
        field: bytes | None = None,
        peer: Any = None,
        errno: int | None = None,
        raw_packet: bytes | None = None,
        bytes_parsed: int | None = None,
        offset: int | None = None,
        broke_at: Break | None = None,
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.phase: Phase = phase
        self.request = request
        self.field = field
        self.peer = peer
        self.errno = errno
        self.raw_packet = raw_packet
        self.bytes_parsed = bytes_parsed
        self.offset = offset
        self.broke_at = broke_at
        self.masking: Any = None
        self.settled = False
        self.answered: int | None = None
        self.answered_bytes = 0

    @property
    def status(self) -> int | None:
        return DEFAULT_STATUS.get(self.code, self.default_status)

    @property
    def quiet(self) -> bool:
        return False

    @property
    def shown_status(self) -> int | None:
        """The status for logs: the one that was sent, or the default one until then."""
        return self.answered if self.settled else self.status

    def __str__(self) -> str:
        """One line for a log, such as ``HPE_INVALID_METHOD: Invalid method encountered (head)``.

        It holds no bytes of the peer's.
        """
        where = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.code}: {self.reason} ({self.phase}{where})"

    def report(self, masked: bool = True) -> str:
        """What the client did wrong, as plain text with a caret under the offending byte.

        Args:
            masked: Hide credentials, as `twisted_hangup.report` describes.

        Returns:
            Several lines of printable ASCII, the same however the bytes were cut into reads.

        Raises:
            RuntimeError: `twisted_hangup.report` has not been imported.
        """
        write = RecordedError.report_writer
        if write is None:
            raise RuntimeError("import twisted_hangup.report first: it writes the reports")
        return write(self, masked=masked)


class ClientError(RecordedError):
    """A client went wrong: it sent bytes that are not HTTP, stalled, or hung up.

    Handlers get it as ``failure.value``.  Trap a subclass to answer one kind only.
    """

    __slots__ = ()

    @property
    def refuses(self) -> bool:
        """Whether the server refused the request before any resource saw it.

        The access log then has a line for the error, and none for the request.
        """
        return self.status is not None and self.phase != "response"


class ParseError(ClientError):
    """The request breaks RFC 9112, or a limit: ``HPE_*``, or ``ERR_HTTP_*`` of our own; 400."""

    default_status = 400


class HeaderOverflow(ParseError):
    """``HPE_HEADER_OVERFLOW``: header or trailers too long, or too many fields; 431.

    The status is 414 if the target alone crosses the limit (RFC 9110, section 15.5.15).
    """

    @property
    def status(self) -> int | None:
        broke = self.broke_at
        in_line = self.request is None and broke is not None and broke.part is Part.REQUEST_LINE
        return TARGET_TOO_LONG if in_line or self.field == b":path" else super().status


class ChunkExtensionsOverflow(ParseError):
    """``HPE_CHUNK_EXTENSIONS_OVERFLOW``: the extensions of one chunk are too long; 413."""


class BodyTooLarge(ParseError):
    """``ERR_HTTP_BODY_TOO_LARGE``: the body, or a form in it, is longer than its limit; 413."""


class UnexpectedEOF(ParseError):
    """``HPE_INVALID_EOF_STATE``: the client sent FIN inside a message; 400."""


class ResponseParseError(ParseError):
    """A server's response breaks RFC 9112, or a limit.  Its codes are those of a `ParseError`.

    In addition there are ``HPE_INVALID_STATUS`` and a few codes of our own, such as
    ``ERR_HTTP_UNREQUESTED_RESPONSE``.  *request* and *status* are None.

    Attributes:
        response: Status and header received so far; None before the status was complete.
    """

    about = "response"

    def __init__(
        self, reason: str, *, response: ResponseHead | None = None, **attributes: Any
    ) -> None:
        super().__init__(reason, **attributes)
        self.response = response

    @property
    def status(self) -> None:
        return None


class RequestTimeout(ClientError):
    """``ERR_HTTP_REQUEST_TIMEOUT``: the head or the request was not complete in time; 408.

    In phase ``"idle"`` (the client has sent nothing but empty lines) the status is None.  A browser
    that connects ahead would take a 408 for the answer to its next request.
    """

    default_status: int | None = DEFAULT_STATUS["ERR_HTTP_REQUEST_TIMEOUT"]

    @property
    def status(self) -> int | None:
        return None if self.quiet else self.default_status

    @property
    def quiet(self) -> bool:
        return self.phase == "idle"


class ClientHangUp(ClientError):
    """``ECONNRESET``, ``EPIPE`` or ``ETIMEDOUT``: the client reset the connection or left."""

    @property
    def quiet(self) -> bool:
        return self.phase in QUIET_PHASES

    @property
    def refuses(self) -> bool:
        return self.phase in ("head", "body")


class TLSError(ClientError):
    """``ERR_SSL_*`` or ``ERR_TLS_*``: the handshake failed, or a record was corrupt."""

    #: True if the handshake timed out before the client sent a byte.
    quiet = False


class HTTP2Error(ClientError):
    """``ERR_HTTP2_*``: a connection error of HTTP/2 (RFC 9113, section 5.4.1)."""


class ServerHangUp(HangupError):
    """A server hung up on us, the client: Node's "socket hang up".

    `HangupAgent` raises it for every way in which a server goes away.  The error is also an
    instance of Twisted's own class for that phase, so code that traps those goes on working:
    `ConnectError` (or `ConnectionRefusedError`, `TimeoutError`, `DNSLookupError`) while connecting,
    `RequestTransmissionFailed`, `ResponseNeverReceived`, and `ResponseFailed` in head and body.

    Attributes:
        code: ``ECONNRESET``, ``EPIPE``, ``ETIMEDOUT``, ``ECONNREFUSED`` and the like.
        reason: What happened, in Node's words if Node has some.
        phase: ``"connecting"``, ``"request"`` (being sent), ``"waiting"`` (for the first byte),
            ``"head"`` or ``"body"`` (of the response).
        reused: Whether the connection had carried a response before; None if unknown.
        bytes_received: Bytes received of the response's head, or of its body in phase ``"body"``;
            None if unknown.
        reasons: Twisted's Failures, as a list.
        response: The response whose body was cut short, or None.

    A pickled copy has no *reasons* and no *response*: these refer to the live connection.
    """

    def __init__(
        self,
        reason: str,
        *,
        code: str,
        phase: ServerPhase,
        reused: bool | None = None,
        bytes_received: int | None = None,
    ) -> None:
        Exception.__init__(self, reason)  # not Twisted's, which may come next and take other things
        self.reason = reason
        self.code = code
        self.phase: ServerPhase = phase
        self.reused = reused
        self.bytes_received = bytes_received
        self.reasons: list[Any] = []
        self.response: Any = None

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        names = ("code", "phase", "reused", "bytes_received")
        return partial(type(self), **{name: getattr(self, name) for name in names}), (self.reason,)

    @property
    def acted_on(self) -> bool:
        """Whether the server may have acted on the request: always, unless it never connected."""
        return self.phase != "connecting"

    def __str__(self) -> str:
        return f"{self.code}: {self.reason} ({self.phase})"


class UpstreamError(RecordedError):
    """A server that the proxy forwards to has failed.

    - ``ERR_UPSTREAM_REFUSED``: there is no connection to it; 502.
    - ``ERR_UPSTREAM_RESET``: it hung up before its response was complete; 502.
    - ``ERR_UPSTREAM_RESPONSE``: its response is not HTTP; 502.
    - ``ERR_UPSTREAM_TIMEOUT``: it took too long; 504.
    - ``ERR_UPSTREAM_BUSY``: all connections to it are in use; 503.

    *status* is None if the client has got a part of the response: the proxy then cuts the client's
    connection, so that the client cannot take the part for the whole.  ``__cause__`` is the
    `ServerHangUp`, the `ResponseParseError`, or an endpoint's own error.

    Attributes:
        upstream: The server's URL.
    """

    upstream = ""


class OutboxUnavailable(HangupError):
    """A request was not stored: the outbox's database is away, locked, full or not started.

    You may send it again.  With the same key it is not stored twice.

    Attributes:
        stored: False if it is not stored.  None if that is unknown, because the database has not
            answered or its connection was lost.
    """

    def __init__(self, reason: str, *, stored: bool | None = False) -> None:
        super().__init__(reason)
        self.stored = stored


class KeyInUse(HangupError, ValueError):
    """A request was not stored: its key belongs to another request that is still queued."""


#: Code -> class, for the place that turns a refusal into an error.
PARSE_ERRORS: Final[Mapping[str, type[ParseError]]] = MappingProxyType(
    {
        "HPE_HEADER_OVERFLOW": HeaderOverflow,
        "HPE_CHUNK_EXTENSIONS_OVERFLOW": ChunkExtensionsOverflow,
        "ERR_HTTP_BODY_TOO_LARGE": BodyTooLarge,
        "HPE_INVALID_EOF_STATE": UnexpectedEOF,
    }
)
