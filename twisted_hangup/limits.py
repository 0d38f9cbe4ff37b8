"""All that an operator may change: numbers with unit, default and precedent, and switches."""

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
    """What stands in ``Limits.methods`` for every method: `ANY`."""

    ANY = "any"


#: Every token of up to `LONGEST_METHOD` bytes is a method; what it means is for the resource.
ANY: Final = AnyMethod.ANY

#: The longest method that `ANY` takes, in bytes: a method is the one part of a request line
#: that counts against no other limit.  The longest that is registered has 17.
LONGEST_METHOD: Final = 64


def method_names(name: str, value: object) -> frozenset[bytes]:
    """The methods in *value*, as bytes; *name* is what it is called in an error.

    Raises:
        TypeError: It is one method, or has something else in it.
        ValueError: One is no token, or one of Node's in lower case, which is another method
            (RFC 9110, section 9.1).
    """
    methods = names_in(name, value)
    for method in methods - NODE_METHODS:
        if method.upper() in NODE_METHODS:
            came = method.decode("ascii")
            known = came.upper()
            raise ValueError(f"{name}: a method has upper and lower case: {known}, not {came!r}")
    return methods


KIB: Final = 1024
MIB: Final = 1024 * KIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Lenience:
    """What old clients send and HTTP/1.1 forbids, each behind a switch; all are off.

    A switch makes the parser read bytes that another parser on the way refuses or reads
    otherwise, which is what request smuggling is made of (RFC 9112, section 11.2).  Turn
    one on for clients that cannot be mended, where nothing in front of this server reads
    requests, or it is known to read them alike.  docs/lenience.md has Node's name of each,
    and what there is no switch for.

    None of them ever lets CR, LF or NUL into a value, or touches the value of a field that
    frames or routes a message: Connection, Content-Length, Host, Proxy-Connection,
    Transfer-Encoding, Upgrade.

    Attributes:
        bare_lf: A line may end with LF alone, and so may the data of a chunk (RFC 9112,
            section 2.2, allows it for the head).  Danger: where another parser takes the
            LF for a part of a value or of a chunk extension, it does not see the fields,
            or the next request, that are seen here.
        control_bytes: Field values may hold control bytes other than CR, LF and NUL.
            Danger: escape sequences in a terminal, forged lines in a log (0x0b, 0x0c and
            0x1c to 0x1e end a line for `str.splitlines`), and values that an
            application's own parser cuts short.
        obs_fold: A field value may go on in the next line, after white space (RFC 9112,
            section 5.2); each such line end becomes one space.  Danger: who does not
            know folding takes the second line for a field of its own, or does not see
            what is in it.
        spaces_after_chunk_size: Spaces and tabs may follow the size of a chunk.  They
            count against ``Limits.chunk_extension_bytes``.  Danger: where another
            parser ends the number or the line elsewhere, the chunks differ, and so does
            the place where the next request starts.
    """

    bare_lf: bool = False
    control_bytes: bool = False
    obs_fold: bool = False
    spaces_after_chunk_size: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds on what one connection may cost, and what it may ask.

    Attributes:
        head_bytes: A head whose target, field names and field values add up to this many
            bytes is refused with 431, or 414 if the target alone does; trailers are counted
            afresh.  Node's ``maxHeaderSize`` counts the same way and has the same 16 KiB;
            Apache and nginx have 8 KiB a line, Twisted 16 KiB in all.
        head_fields: Most field lines in a head, and in a trailer section; one more is a
            431.  Node 26 has 1000, Twisted 500, Apache and HAProxy 100.  0 = no limit.
        chunk_extension_bytes: Most bytes in the names and values of one chunk's
            extensions; one more is a 413.  Node: 16 KiB.
        body_bytes: Largest body in bytes, after the transfer coding is removed; a larger
            one is a 413, at the head where its length is announced.  0 = no limit, as in
            Node and Twisted; nginx has 1 MiB.
        form_bytes: Largest body that is read as a form, for ``request.args``; a larger one is
            a 413.  0 = no limit.  A process holds 16 times as much at a time; then it
            answers 503.  PHP has 8 MiB, Django 2.5, without files.
        form_fields: Most fields of a form, parts without a name included; one more is a 413.
            0 = no limit.  PHP, Django and Werkzeug have 1000.
        part_head_bytes: Largest head of a part of a form; a larger one is a 413.  `multipart`
            has 4 KiB for each line, of eight.
        leading_crlf: Most empty lines before a request line (RFC 9112, section 2.2 asks
            for "at least one").  Node has no limit, Apache 10.
        backlog_bytes: Bytes of pipelined requests taken in while a request is being
            answered; beyond it reading pauses.  Twisted: 16 KiB.
        linger_bytes: Bytes read and dropped after an answer to an error, so that the
            client can read it; 0 = no lingering, and the client may lose the answer.
            Ours: an upload's worth; nginx bounds the time only.
        require_host: Whether a request needs exactly one valid Host, or at most one in
            HTTP/1.0 (RFC 9112, section 3.2).  Node's ``requireHostHeader`` asks for presence only.
        allow_half_open: Whether a client that has ended its input (FIN) still gets the
            response to its complete request.  Node's ``httpAllowHalfOpen``; off in both.
        methods: The methods that are accepted; any token may be added, and `ANY` is all of
            them.  Node's list.
        lenience: What is accepted of clients that break the rules; nothing.
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
    """How long a connection may take, in seconds; 0 turns a deadline off, but for linger_*.

    Every deadline is fixed from its start: a byte now and then stretches none of them.

    Attributes:
        head_seconds: From the first byte of a message that is not of an empty line to the end
            of its head; past it 408.  The first byte of all has as long from accept.  Node's
            ``headersTimeout`` is 60, Apache's ``RequestReadTimeout header`` 20 to 40, nginx 60.
        request_seconds: From the same start to the end of the body; past it 408.  Node's
            ``requestTimeout``: 300.
        handshake_seconds: From accept to the end of the TLS handshake; past it the connection
            is closed, and a first message that waits for it has no more time than without.
            Node's ``handshakeTimeout`` is 120, nginx's ``client_header_timeout`` 60.
        keep_alive_seconds: How long a connection may stay idle after a response; past it
            a quiet close.  65 is longer than the 60 of common load balancers, which must
            be the ones to close (Node after 26: 65; nginx 75, Apache 5).
        handler_seconds: Bounds one error's whole errback chain.  Node has no bound and
            leaks the socket.
        send_seconds: How long a peer may take no byte of a response that waits for it.
            nginx's ``send_timeout``: 60.
        linger_seconds: How long in all input is read and dropped after the answer to an
            error (RFC 9112, section 9.6); 0 = not at all, and the client may lose the
            answer.  nginx's ``lingering_time``: 30.
        linger_silence_seconds: How long of silence ends that.  nginx's
            ``lingering_timeout``: 5.
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
        """The same with another keep-alive time; None, as in Twisted, means no limit."""
        return replace(self, keep_alive_seconds=seconds or 0.0)


#: Methods of which a second request does no more than the first (RFC 9110, section 9.2.2).
IDEMPOTENT_METHODS: Final = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"TRACE"})

#: Methods that define a meaning for content: a request without any says so (section 8.6).
CONTENT_METHODS: Final = frozenset({b"PATCH", b"POST", b"PUT"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboundTimeouts:
    """How long a server that we ask may take, in seconds; 0 turns a deadline off.

    Attributes:
        connect_seconds: For the connection, TLS included.  nginx: 60; ours is what a
            person waits.
        head_seconds: From the whole request to the head of the response.  nginx's
            ``proxy_read_timeout``: 60.
        silence_seconds: Between two reads of the body, not counting the time in which
            the client takes none of it; and of a tunnel, from either end.  The same.
        idle_seconds: How long a connection is kept for the next request.  Shorter than
            the 5 s that Node's servers keep one before Node 26, so that it is seldom
            the server that closes.
    """

    connect_seconds: float = 10.0
    head_seconds: float = 60.0
    silence_seconds: float = 60.0
    idle_seconds: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)
