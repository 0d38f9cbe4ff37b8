"""Every number an operator may change, with its unit, default and precedent."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

#: The methods that llhttp 9.4 knows and allows with ``HTTP/`` (Node's ``http.METHODS``).
NODE_METHODS: Final = frozenset(
    b"ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY "
    b"MKCALENDAR MKCOL MOVE NOTIFY OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY "
    b"REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE".split()
)

KIB: Final = 1024
MIB: Final = 1024 * KIB


class _Numbers:
    """Refuses a negative or non-numeric value where the record is built."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, field.name)
            if isinstance(field.default, bool) or not isinstance(field.default, (int, float)):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{field.name} must be a number, not {value!r}")
            if not value >= 0:
                raise ValueError(f"{field.name} must not be negative, and is {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits(_Numbers):
    """Bounds on what one connection may cost, and what it may ask.

    Attributes:
        head_bytes: A head whose target, field names and field values add up to this many
            bytes is refused with 431; trailers are counted afresh.  Node's
            ``maxHeaderSize`` counts the same way and has the same 16 KiB; Apache and nginx
            8 KiB a line, Twisted 16 KiB in all.
        head_fields: Most field lines in a head, and in a trailer section; one more is a
            431.  Node 26 has 1000, Twisted 500, Apache and HAProxy 100.  0 = no limit.
        chunk_extension_bytes: Most bytes in the names and values of one chunk's
            extensions; one more is a 413.  Node: 16 KiB.
        body_bytes: Largest body in bytes, after the transfer coding is removed; a larger
            one is a 413, at the head where its length is announced.  0 = no limit, as in
            Node and Twisted; nginx has 1 MiB.
        leading_crlf: Most empty lines before a request line (RFC 9112, section 2.2 asks
            for "at least one").  Node has no limit, Apache 10.
        backlog_bytes: Bytes of pipelined requests taken in while a request is being
            answered; beyond it reading pauses.  Twisted: 16 KiB.
        linger_bytes: Bytes read and dropped after an answer to an error, so that the
            client can read it.  Ours: an upload's worth; nginx bounds the time only.
        require_host: Whether an HTTP/1.1 request needs exactly one valid Host (RFC 9112,
            section 3.2).  Node's ``requireHostHeader`` asks for presence only.
        allow_half_open: Whether a client that has ended its input (FIN) still gets the
            response to its complete request.  Node's ``httpAllowHalfOpen``; off in both.
        methods: The methods that are accepted; any token may be added.  Node's list.
    """

    head_bytes: int = 16 * KIB
    head_fields: int = 1000
    chunk_extension_bytes: int = 16 * KIB
    body_bytes: int = 0
    leading_crlf: int = 16
    backlog_bytes: int = 16 * KIB
    linger_bytes: int = 64 * MIB
    require_host: bool = True
    allow_half_open: bool = False
    methods: frozenset[bytes] = NODE_METHODS


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts(_Numbers):
    """How long a connection may take, in seconds; 0 turns a deadline off.

    Every deadline is fixed from its start: a byte now and then stretches none of them.

    Attributes:
        head_seconds: From accept (first message) or the first byte of a later one to the
            end of the head; past it 408.  Node's ``headersTimeout`` is 60, Apache's
            ``RequestReadTimeout header`` 20 to 40, nginx 60.
        request_seconds: From the same start to the end of the body; past it 408.  Node's
            ``requestTimeout``: 300.
        keep_alive_seconds: How long a connection may stay idle after a response; past it
            a quiet close.  65 is longer than the 60 of common load balancers, which must
            be the ones to close (Node after 26: 65; nginx 75, Apache 5).
        handler_seconds: Bounds one error's whole errback chain.  Node has no bound and
            leaks the socket.
        send_seconds: How long a peer may take no byte of a response that waits for it.
            nginx's ``send_timeout``: 60.
        linger_seconds: How long in all input is read and dropped after the answer to an
            error (RFC 9112, section 9.6).  nginx's ``lingering_time``: 30.
        linger_silence_seconds: How long of silence ends that.  nginx's
            ``lingering_timeout``: 5.
    """

    head_seconds: float = 60.0
    request_seconds: float = 300.0
    keep_alive_seconds: float = 65.0
    handler_seconds: float = 30.0
    send_seconds: float = 60.0
    linger_seconds: float = 30.0
    linger_silence_seconds: float = 5.0

    def with_keep_alive(self, seconds: float | None) -> Timeouts:
        """The same with another keep-alive time; None, as in Twisted, means no limit."""
        return replace(self, keep_alive_seconds=seconds or 0.0)
