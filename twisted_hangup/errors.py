"""Every error this package raises on purpose, and the status each answers with by default.

Nobody needs a parser, a reactor or a channel to catch one of these, nor what tells of them
to people: `twisted_hangup.report` puts itself into the slot that `RecordedError.report` asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias

from .events import Break, Part, RequestHead, ResponseHead

Phase: TypeAlias = Literal["handshake", "idle", "head", "body", "response"]
ServerPhase: TypeAlias = Literal["connecting", "request", "waiting", "head", "body"]

#: Code -> status of the default answer.  What is not listed is answered 400 when it is a
#: `ParseError`, and not at all otherwise.  Node's choices (of Node 26.10), then
#: those for refusals that Node does not make.
DEFAULT_STATUS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "HPE_HEADER_OVERFLOW": 431,
        "HPE_CHUNK_EXTENSIONS_OVERFLOW": 413,
        "ERR_HTTP_REQUEST_TIMEOUT": 408,
        "ERR_HTTP_BODY_TOO_LARGE": 413,
    }
)

#: Where a client has nothing under way: that it leaves then is nobody's fault.
QUIET_PHASES: Final = ("handshake", "idle")

#: The status in the place of that of ``HPE_HEADER_OVERFLOW``, where it is the target that is
#: too long.
TARGET_TOO_LONG: Final = 414

#: nginx's "client closed request": the status that the access log gives a request whose
#: client left before its response was finished.
CLIENT_LEFT: Final = 499

#: nginx's status for a connection that the server closed without a response.
NO_RESPONSE: Final = 444


class HangupError(Exception):
    """Base of all errors this package raises on purpose."""


class ReportWriter(Protocol):
    """What `RecordedError.report` asks: see `twisted_hangup.report.report_error`."""

    def __call__(self, error: RecordedError, *, masked: bool) -> str: ...


class RecordedError(HangupError):
    """What a site's journal keeps and its logs tell: see `ClientError`, `UpstreamError`.

    Attributes:
        code: Stable name, Node's where Node has one: ``HPE_*``, ``ERR_*`` or an errno name.
        reason: What happened, in llhttp's words where it has some.
        phase: ``"handshake"``, ``"idle"`` (between messages), ``"head"``, ``"body"`` or
            ``"response"`` (the request was complete, its response was not).
        request: Method, target and fields received so far; None before the target ended.
        field: Name of the header or trailer field it broke in, as received, or None.
        peer: Twisted's address of the client (an ``IAddress``), or None.
        status: Status code of the default answer, or None where nothing is written.
        quiet: Whether it is nobody's fault, as the client had nothing under way: a probe, a
            reset between requests, a connection on which nothing was ever sent.  Logs leave
            it out unless they are asked (`ConsoleLog`).
        errno: The operating system's error number, or None.
        raw_packet: The read that held the offending byte (at most 64 KiB); None for the
            end of input, timeouts, resets, TLS and HTTP/2.
        bytes_parsed: Node's offset inside *raw_packet*; 0 for the end of input; None
            without a packet.
        offset: The same place counted from the first byte after the previous message
            (empty lines before the request line count); for the end of input the bytes
            so far; else None.
        broke_at: The same place told independently of reads, or None; what `report` shows.
        masking: What `report` hides: the site's `MaskingPolicy`; None for the default one.
        settled: Whether all has been sent that will be.
        answered: Status code that was sent by then; None where none was, or none was yet.
        answered_bytes: Bytes of the body of that response.
    """

    # One is made per refused request, in two thirds of the time it takes without.
    __slots__ = (
        *("answered", "answered_bytes", "broke_at", "bytes_parsed", "code"),
        *("errno", "field", "masking", "offset", "peer", "phase", "raw_packet", "reason"),
        *("request", "settled"),
    )

    default_status: int | None = None

    #: What `report` tells of.
    about: Literal["request", "response"] = "request"

    #: What the default answer says in its body, as text; nothing, as in Node.
    default_body = b""

    #: Filled by `twisted_hangup.report`, which stands above this module.
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
        """The status for logs: the one that was sent; before anything was, the default one."""
        return self.answered if self.settled else self.status

    def __str__(self) -> str:
        """One line fit for a log: no byte of the peer's, whatever it sent."""
        where = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.code}: {self.reason} ({self.phase}{where})"

    def report(self, masked: bool = True) -> str:
        """Say in plain text what the client did wrong, with a caret under the byte.

        Args:
            masked: Hide the values of credentials, as `twisted_hangup.report` describes.

        Returns:
            Several lines of printable ASCII, the same however the bytes were cut.

        Raises:
            RuntimeError: What writes reports has not been imported.
        """
        write = RecordedError.report_writer
        if write is None:
            raise RuntimeError("import twisted_hangup.report first: it writes the reports")
        return write(self, masked=masked)


class ClientError(RecordedError):
    """A client went wrong: it sent bytes that are not HTTP, stalled, or hung up."""

    __slots__ = ()

    @property
    def refuses(self) -> bool:
        """Whether its request was not complete, or not fit for any resource to see.

        The access log then has a line for the error, and none for the request.
        """
        return self.status is not None and self.phase != "response"


class ParseError(ClientError):
    """The bytes break RFC 9112, or a limit: ``HPE_*``, or ``ERR_HTTP_*`` of our own."""

    default_status = 400


class HeaderOverflow(ParseError):
    """``HPE_HEADER_OVERFLOW``: head or trailers too long, or too many fields; 431.

    414 where it is the target that crosses the limit (RFC 9112, section 3).
    """

    @property
    def status(self) -> int | None:
        broke = self.broke_at
        in_line = self.request is None and broke is not None and broke.part is Part.REQUEST_LINE
        return TARGET_TOO_LONG if in_line or self.field == b":path" else super().status


class ChunkExtensionsOverflow(ParseError):
    """``HPE_CHUNK_EXTENSIONS_OVERFLOW``: the extensions of one chunk are too long; 413."""


class BodyTooLarge(ParseError):
    """``ERR_HTTP_BODY_TOO_LARGE``: the body is longer than its limit, or a form's is; 413."""


class UnexpectedEOF(ParseError):
    """``HPE_INVALID_EOF_STATE``: the client ended its input inside a message; 400."""


class ResponseParseError(ParseError):
    """The bytes of a server's response break RFC 9112, or a limit; nobody is answered.

    Codes and reasons are those of a `ParseError`, with ``HPE_INVALID_STATUS`` and ours for
    what no request asked for.  ``request`` is None, and *status* too.

    Attributes:
        response: Status and fields received so far; None before the status was complete.
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
    """``ERR_HTTP_REQUEST_TIMEOUT``: head or request not complete in time; 408.

    Whoever has sent nothing but empty lines (phase ``"idle"``) is not answered: it may be a
    browser that has connected ahead, and would take the 408 for the answer to its next request.
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

    #: True where its time was over before anything had come.
    quiet = False


class HTTP2Error(ClientError):
    """``ERR_HTTP2_*``: an HTTP/2 connection error."""


class ServerHangUp(HangupError):
    """A server hung up on us, the client ("socket hang up").

    What `HangupAgent` raises is also what Twisted's own client has for that phase, so that code
    which traps that goes on working: `ConnectError` (with `ConnectionRefusedError`,
    `TimeoutError` or `DNSLookupError` where it is that), `RequestTransmissionFailed`,
    `ResponseNeverReceived`, and `ResponseFailed` for head and body.

    Attributes:
        code: ``ECONNRESET``, ``EPIPE``, ``ETIMEDOUT``, ``ECONNREFUSED`` and the like.
        reason: What happened, in Node's words where it has some.
        phase: ``"connecting"``, ``"request"`` (being sent), ``"waiting"`` (for the first
            byte), ``"head"`` or ``"body"`` (of the response).
        reused: Whether the connection had carried a response before; None if unknown.
        bytes_received: Of the head of the response, or in its body of that, so far; None if
            unknown.
        reasons: What Twisted said, as a list of its Failures.
        response: The response whose body was cut short, or None.

    Pickled, it leaves *reasons* and *response* behind, which refer to the live connection.
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
        """Whether the server can have acted on the request: not if it never connected."""
        return self.phase != "connecting"

    def __str__(self) -> str:
        return f"{self.code}: {self.reason} ({self.phase})"


class UpstreamError(RecordedError):
    """A server that a proxy asked for its client's sake has failed.

    =========================  ========================================  ======
    ``ERR_UPSTREAM_REFUSED``   no connection to it                       502
    ``ERR_UPSTREAM_RESET``     it hung up before its response was whole  502
    ``ERR_UPSTREAM_RESPONSE``  its response is not HTTP                  502
    ``ERR_UPSTREAM_TIMEOUT``   it took too long                          504
    =========================  ========================================  ======

    The status is None where a part of the response had gone out: the client's connection
    is cut then, so that the part cannot be taken for the whole.  The cause is the
    `ServerHangUp` or `ParseError`.

    Attributes:
        upstream: The server's URL.
    """

    upstream = ""


class OutboxUnavailable(HangupError):
    """A request was not stored: the outbox's database is away, locked, full or not started.

    It may be sent again, with the same key if it had one: then it is not stored twice.

    Attributes:
        stored: False where it is not stored; None where that is not known, because the database
            has not answered or the connection to it was lost.
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
