"""What an operator can change: limits, timeouts and leniences, with units and precedents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from ._arguments import check_fields, must_be, names_in

#: The methods that llhttp 9.4 knows and allows with ``HTTP/`` (Node's ``http.METHODS``).
NODE_METHODS: Final = frozenset(
    b"ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY "
    b"MKCALENDAR MKCOL MOVE NOTIFY OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY "
    b"REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE".split()
)


class AnyMethod(Enum):
    """The type of `ANY`, the value of ``Limits.methods`` that accepts every method."""

    ANY = "any"


#: Accept every token of up to `LONGEST_METHOD` bytes as a method; the resource judges it.
ANY: Final = AnyMethod.ANY

#: The longest method that `ANY` accepts, in bytes.  No other limit counts the method.  The longest
#: registered method has 17 bytes.
LONGEST_METHOD: Final = 64


def method_names(name: str, value: object) -> frozenset[bytes]:
    """The methods in *value*, as bytes.

    Args:
        name: The argument's name, for error messages.

    Raises:
        TypeError: *value* is a single method, or holds something other than str and bytes.
        ValueError: A method is not a token, or is one of Node's in lower case.  Methods are
            case-sensitive (RFC 9110, section 9.1).
    """
    methods = names_in(name, value)
    for method in methods - NODE_METHODS:
        if method.upper() in NODE_METHODS:
            came = method.decode("ascii")
            known = came.upper()
            raise ValueError(
                f"{name}: method names are case-sensitive: write {known}, not {came!r}"
            )
    return methods


KIB: Final = 1024
MIB: Final = 1024 * KIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Lenience:
    """What old clients send although HTTP/1.1 forbids it: a switch for each, all off.

    A switch lets the parser accept bytes that another parser on the way refuses, or reads
    differently.  Request smuggling is made of such differences (RFC 9112, section 11.2).  Turn
    a switch on only for clients that cannot be fixed, and only if nothing in front of this server
    reads requests, or if it reads them in the same way.  The page "Lenience" of the docs has
    Node's name of each switch, and the faults for which there is none.

    No switch lets CR, LF or NUL into a value.  No switch changes how these headers are read, which
    frame or route a message: Connection, Content-Length, Host, Proxy-Connection,
    Transfer-Encoding, Upgrade.

    Attributes:
        bare_lf: A line, or the data of a chunk, may end with LF alone (RFC 9112, section 2.2,
            allows it in the head).  Danger: a parser that takes the LF for a part of a value or of
            a chunk extension misses the headers, or the next request, that this server sees.
        control_bytes: Header values may hold control bytes other than CR, LF and NUL.  Danger:
            escape sequences in a terminal, forged lines in a log (0x0b, 0x0c and 0x1c to 0x1e end a
            line for `str.splitlines`), and values that an application's own parser cuts short.
        obs_fold: A header value may continue on the next line, after white space (RFC 9112, section
            5.2); each such line end becomes one space.  Danger: a parser that does not know folding
            takes the second line for another header, or misses it.
        spaces_after_chunk_size: Spaces and tabs may follow the size of a chunk.  They count against
            ``Limits.chunk_extension_bytes``.  Danger: another parser may end the number or the line
            elsewhere, and then see the next request start in another place.
    """

    bare_lf: bool = False
    control_bytes: bool = False
    obs_fold: bool = False
    spaces_after_chunk_size: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one connection may send, and what it may cost.

    Attributes:
        head_bytes: Bytes of target, header names and header values; a head with this many is
            refused with 431, or 414 if the target alone has them.  Trailers are counted on their
            own.  Node's ``maxHeaderSize`` counts the same way: 16 KiB.  Apache and nginx: 8 KiB a
            line; Twisted: 16 KiB in all.
        head_fields: Most header fields, and most trailer fields; more is a 431.  0 = no limit.
            Node 26: 1000; Twisted: 500; Apache and HAProxy: 100.
        chunk_extension_bytes: Most bytes in the names and values of one chunk's extensions; more is
            a 413.  Node: 16 KiB.
        body_bytes: Largest body in bytes, without the chunked framing; more is a 413, at once if
            Content-Length announces it.  0 = no limit, as in Node and Twisted; nginx: 1 MiB.
        form_bytes: Largest body that is read as a form, for ``request.args``; more is a 413.  0 =
            no limit.  All forms of a process together may hold 16 times as much; then it answers
            503.  PHP: 8 MiB; Django: 2.5 MiB without files.
        form_fields: Most fields of a form, with the parts that have no name; more is a 413.  0 = no
            limit.  PHP, Django and Werkzeug: 1000.
        part_head_bytes: Largest header of one part of a multipart form; more is a 413.  The library
            `multipart`: 4 KiB a line, eight lines.
        leading_crlf: Most empty lines before a request line (RFC 9112, section 2.2, asks for "at
            least one").  Node: no limit; Apache: 10.
        backlog_bytes: Most bytes of pipelined requests that are read while a request is being
            answered; then the server stops reading.  Twisted: 16 KiB.
        linger_bytes: Most bytes that the server reads and drops after the answer to an error, so
            that the client can read the answer.  0 = none; the client may then lose the answer.
            Our choice: a large upload.  nginx bounds the time only.
        require_host: Whether a request needs exactly one valid Host, or at most one in HTTP/1.0
            (RFC 9112, section 3.2).  Node's ``requireHostHeader`` only asks that it be there.
        allow_half_open: Whether a client that half-closes (sends FIN) still gets the response to
            its complete request.  Node's ``httpAllowHalfOpen``; off in both.
        methods: The methods that are accepted; the default is Node's list.  You may add any token.
            `ANY` accepts all.
        lenience: Which rules clients may break; none by default.  See `Lenience`.
    """

    head_bytes: int = 16 * KIB
    head_fields: int = 1000
    chunk_extension_bytes: int = 16 * KIB
    body_bytes: int = 0
    form_bytes: int = 16 * MIB
    form_fields: int = 1000
    part_head_bytes: int = 8 * KIB
    leading_crlf: int = 16
    backlog_bytes: int = 16 * KIB
    linger_bytes: int = 64 * MIB
    require_host: bool = True
    allow_half_open: bool = False
    methods: frozenset[bytes] | AnyMethod = NODE_METHODS
    lenience: Lenience = Lenience()

    def __post_init__(self) -> None:
        check_fields(self, {"head_bytes": 1, "part_head_bytes": 1})
        must_be("lenience", self.lenience, Lenience, "Lenience(bare_lf=True)")
        if self.methods is not NODE_METHODS and not isinstance(self.methods, AnyMethod):
            object.__setattr__(self, "methods", method_names("methods", self.methods))


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """How long a client may take, in seconds; 0 turns a deadline off (except ``linger_*``).

    Each deadline is fixed when it starts: a byte now and then does not extend it.

    Attributes:
        head_seconds: From the first byte of a message (empty lines do not count) to the end of its
            head; after that 408.  The first byte of a connection has the same time, from accept.
            Node's ``headersTimeout``: 60; Apache's ``RequestReadTimeout header``: 20 to 40; nginx:
            60.
        request_seconds: From the same start to the end of the body; after that 408.  Node's
            ``requestTimeout``: 300.
        handshake_seconds: From accept to the end of the TLS handshake; after that the server
            closes.  The first message gets no extra time for the handshake.  Node's
            ``handshakeTimeout``: 120; nginx's ``client_header_timeout``: 60.
        keep_alive_seconds: How long a connection may stay idle after a response; after that the
            server closes it quietly.  65 is longer than the 60 of common load balancers, which
            should close first.  Node: 65 since Node 26; nginx: 75; Apache: 5.
        handler_seconds: How long the handlers of one error may take together.  Node has no bound
            and leaks the socket.
        send_seconds: How long the client may take no byte of a response that is waiting for it.
            nginx's ``send_timeout``: 60.
        linger_seconds: How long the server reads and drops input after the answer to an error, in
            all (RFC 9112, section 9.6).  0 = not at all; the client may then lose the answer.
            nginx's ``lingering_time``: 30.
        linger_silence_seconds: How much silence ends that earlier.  nginx's ``lingering_timeout``:
            5.
    """

    head_seconds: float = 60.0
    request_seconds: float = 300.0
    handshake_seconds: float = 30.0
    keep_alive_seconds: float = 65.0
    handler_seconds: float = 30.0
    send_seconds: float = 60.0
    linger_seconds: float = 30.0
    linger_silence_seconds: float = 5.0

    def __post_init__(self) -> None:
        check_fields(self)

    def with_keep_alive(self, seconds: float | None) -> Timeouts:
        """A copy with another keep-alive time; None means no limit, as in Twisted."""
        return replace(self, keep_alive_seconds=seconds or 0.0)


#: Repeating one of these does no more than sending it once (RFC 9110, section 9.2.2).
IDEMPOTENT_METHODS: Final = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"TRACE"})

#: Methods that define a meaning for content.  Without content they send Content-Length: 0
#: (RFC 9110, section 8.6).
CONTENT_METHODS: Final = frozenset({b"PATCH", b"POST", b"PUT"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboundTimeouts:
    """How long another server may take, in seconds; 0 turns a deadline off, but see idle_seconds.

    `HangupAgent` and `ProxyResource` take these.

    Attributes:
        connect_seconds: To connect, with the TLS handshake.  nginx has 60; we take what a person
            waits.
        head_seconds: From the end of the request to the end of the response's head.  nginx's
            ``proxy_read_timeout``: 60.
        silence_seconds: Between two reads of the body.  Time in which the client does not read does
            not count.  In a tunnel: of silence from either end.  nginx's ``proxy_read_timeout``:
            60.
        idle_seconds: How long a connection is kept for the next request.  Shorter than the 5
            seconds of Node's servers before Node 26, so that the server seldom closes first; and
            shorter than the server's ``Keep-Alive: timeout``, by a second.  0: no connection is
            kept.
    """

    connect_seconds: float = 10.0
    head_seconds: float = 60.0
    silence_seconds: float = 60.0
    idle_seconds: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)
