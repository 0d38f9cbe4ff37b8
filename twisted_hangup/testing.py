"""Test handlers and resources in memory: a real site, its clients, and a `Clock`.

    from twisted_hangup import HangupSite
    from twisted_hangup.testing import feed

    client = feed(HangupSite(resource), b"GET / HTTP/1.1\\r\\nBad Name: 1\\r\\n\\r\\n")
    assert client.received.startswith(b"HTTP/1.1 400 ")
    assert client.errors[0].code == "HPE_INVALID_HEADER_TOKEN"

The site and Twisted's TCP transport are the real ones.  Only the kernel, the reactor's loop and the
time are simulated.  Nothing listens or waits, and no reactor has to run.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from itertools import cycle
from typing import Any, Final, Literal, TypeAlias, get_args

from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.posixbase import _DisconnectSelectableMixin
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.http import HTTPFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from .errors import ClientError, HTTP2Error, ParseError, Phase, RecordedError
from .limits import Limits, Timeouts
from .parser.proxy_header import header_length
from .report import DEFAULT_POLICY
from .report.examples import REQUESTS
from .report.links import COMMAND
from .server import ClientSocket, HangupSite, SiteErrors
from .server.http2.head import judge_head
from .server.site import HangupProtocol
from .transport.deadlines import Deadlines
from .transport.layers import protocol_within
from .transport.sockets import telling
from .transport.tls import HTTP_REQUEST, answered_in_plain, handshake_timeout, tls_error

#: How a server ends its side: with FIN, so that the client can read everything, or with a reset.
End: TypeAlias = Literal["fin", "reset"]

#: Addresses for examples (RFC 5737).
_HOST: Final = IPv4Address("TCP", "192.0.2.1", 80)
_CLIENT: Final = "192.0.2.7"
_ports: Final = cycle(range(49152, 65536))


def feed(site: HTTPFactory | SiteErrors, *pieces: bytes, fin: bool = False) -> MemoryClient:
    """Let a new client of *site* send *pieces*, one read each, and half-close if *fin*.

    *site* may also be the `SiteErrors` that `forward_client_errors` has returned.  If the site has
    no `Clock` yet, it gets one, for good: do not let the same site listen.

    Args:
        site: The site.
        pieces: Bytes; each piece is one read of the server.
        fin: Whether the client ends its input (FIN) after them.

    Returns:
        The client, after everything that takes no time has happened.

    Raises:
        TypeError: *site* is not a `Site`, or a piece is not bytes.
        ValueError: *site* does not forward its client errors, or serves real clients.
    """
    return MemoryClient(site).feed(*pieces, fin=fin)


class MemoryClient:
    """A client in memory, which `feed` makes.

    It reads what the server sends at once; set `reading` to False to stop that.  What it sends
    after the server has closed is lost, as on a network.

    Attributes:
        clock: The site's clock.  Use it in your own code, too, and move it with `advance`.
        peer: The client's address, as the site sees it.
        errors: The client errors of this connection, oldest first: the same objects that handlers
            get.
    """

    def __init__(self, site: HTTPFactory | SiteErrors) -> None:
        if isinstance(site, SiteErrors):
            site = site.site
        if not isinstance(site, HTTPFactory):
            raise TypeError(
                f"site is {site!r} and not a twisted.web.server.Site; "
                "make one of a resource with HangupSite(resource)"
            )
        self.peer = IPv4Address("TCP", _CLIENT, next(_ports))
        protocol: Any = site.buildProtocol(self.peer)
        inside = protocol_within(protocol)
        if not isinstance(inside, HangupProtocol):
            raise ValueError(
                f"site is {site!r}, which does not forward its client errors; "
                "call forward_client_errors(site) first"
            )
        channel: Any = inside._channel
        context = channel.context
        if not isinstance(site.reactor, Clock):
            if context.connections:
                raise ValueError(f"site is {site!r}, which serves real clients; feed another one")
            site.reactor = Clock()
            context.keep_time_by(site.reactor)
        self.clock: Clock = site.reactor
        self.errors: list[ClientError] = []
        self._ending = channel._ending
        context.journal.watch(self._note)
        self._kernel = _Kernel(self.clock)
        address = (self.peer.host, self.peer.port)
        transport = telling(tcp.Server)(
            self._kernel, protocol, address, None, self.peer.port, self._kernel
        )
        transport.repstr = f"<a connection in memory from {address}>"
        protocol.makeConnection(transport)

    @property
    def received(self) -> bytes:
        """The bytes that the client has read so far."""
        return bytes(self._kernel.received)

    @property
    def ended(self) -> End | None:
        """How the server has ended its side: ``"fin"``, ``"reset"``, or None while it is open."""
        return self._kernel.ended

    @property
    def reading(self) -> bool:
        """Whether the client reads.  While it does not, the server has to wait."""
        return self._kernel.reading

    @reading.setter
    def reading(self, reading: bool) -> None:
        self._kernel.reading = reading
        self._happen()

    def feed(self, *pieces: bytes, fin: bool = False) -> MemoryClient:
        """Send *pieces*, one read each (at most 64 KiB), and half-close if *fin*.

        Returns:
            The client itself, after everything that takes no time has happened.

        Raises:
            TypeError: A piece is not bytes.
            ValueError: The client has half-closed or reset the connection before.
        """
        for piece in pieces:
            if not isinstance(piece, bytes):
                raise TypeError(f"a piece is {piece!r} and not bytes; encode it first")
        if (pieces or fin) and (self._kernel.input_ended or self._kernel.error):
            raise ValueError("the client has ended its input and sends nothing more")
        for piece in filter(None, pieces):
            self._kernel.arrived.append(piece)
            self._happen()
        if fin:
            self._kernel.input_ended = True
            self._happen()
        return self

    def fin(self) -> MemoryClient:
        """Half-close (send FIN) and go on reading; returns the client itself."""
        return self.feed(fin=True)

    def reset(self, number: int = errno.ECONNRESET) -> MemoryClient:
        """Reset the connection: the server's next read or write fails with this error number.

        With `errno.EPIPE` only writing fails.  A server that has paused reading notices when it
        reads or writes again.

        Returns:
            The client itself.
        """
        self._kernel.arrived.clear()
        self._kernel.error = number
        self._happen()
        return self

    def advance(self, seconds: float) -> MemoryClient:
        """Move the clock by *seconds*; timers fire at their own times.

        Returns:
            The client itself.

        Raises:
            ValueError: *seconds* is negative.
        """
        if seconds < 0:
            raise ValueError(f"seconds is {seconds!r}; time only goes on")
        clock = self.clock
        until = clock.seconds() + seconds
        while (calls := clock.getDelayedCalls()) and calls[0].getTime() <= until:
            clock.advance(max(0.0, calls[0].getTime() - clock.seconds()))
        clock.advance(max(0.0, until - clock.seconds()))
        return self

    def _happen(self) -> None:
        self._kernel.wake()
        self.clock.advance(0)

    def _note(self, error: ClientError) -> None:
        # Not by its peer, which may be the client that a proxy names.
        if error is self._ending.error:
            self.errors.append(error)


class _Kernel(_DisconnectSelectableMixin):
    """The kernel's side of one connection, and the reactor's loop, for Twisted's transport."""

    def __init__(self, clock: Clock) -> None:
        self.callLater = clock.callLater
        #: The client's end.
        self.arrived: deque[bytes] = deque()
        self.input_ended = False
        self.error = 0
        self.received = bytearray()
        self.reading = True
        self.ended: End | None = None
        #: The transport, if it waits to read or to write; and its next turn.
        self._reader: Any = None
        self._writer: Any = None
        self._turn: IDelayedCall | None = None

    # The reactor.

    def addReader(self, reader: Any) -> None:
        self._reader = reader
        self.wake()

    def addWriter(self, writer: Any) -> None:
        self._writer = writer
        self.wake()

    def removeReader(self, reader: Any) -> None:
        self._reader = None

    def removeWriter(self, writer: Any) -> None:
        self._writer = None

    def wake(self) -> None:
        """Give the transport its turn, if it waits for something that is there."""
        if self._turn is None and (self._readable or self._writable):
            self._turn = self.callLater(0, self._take_turn)

    @property
    def _readable(self) -> bool:
        ready = self.arrived or self.input_ended or self.error not in (0, errno.EPIPE)
        return self._reader is not None and bool(ready)

    @property
    def _writable(self) -> bool:
        return self._writer is not None and (self.reading or bool(self.error))

    def _take_turn(self) -> None:
        self._turn = None
        if self._readable:
            transport = self._reader
            if why := transport.doRead():
                self._disconnectSelectable(transport, why, True)
        if self._writable:
            transport = self._writer
            if why := transport.doWrite():
                self._disconnectSelectable(transport, why, False)
        self.wake()

    # The socket.

    def recv(self, most: int) -> bytes:
        self._check()
        if self.arrived:
            piece = self.arrived.popleft()
            if piece[most:]:
                self.arrived.appendleft(piece[most:])
            return piece[:most]
        if self.input_ended:
            return b""
        raise BlockingIOError(errno.EWOULDBLOCK, "nothing has come")

    def send(self, data: bytes) -> int:
        self._check()
        if self.ended:
            raise OSError(errno.EPIPE, "this end was shut down")
        if not self.reading:
            raise BlockingIOError(errno.EWOULDBLOCK, "the client does not read")
        self.received += data
        return len(data)

    def _check(self) -> None:
        if self.error:
            raise OSError(self.error, "the client has broken the connection")

    def shutdown(self, how: int) -> None:
        self.ended = self.ended or "fin"

    def setsockopt(self, level: int, option: int, value: object) -> None:
        if option == socket.SO_LINGER:  # Twisted sets it so that close() resets the connection
            self.ended = "reset"

    def getsockopt(self, level: int, option: int) -> int:
        return self.error if option == socket.SO_ERROR else 0

    def close(self) -> None:
        # A kernel resets a connection that is closed with unread input.
        self.ended = "reset" if self.arrived else self.ended or "fin"

    def getsockname(self) -> tuple[str, int]:
        return _HOST.host, _HOST.port

    def fileno(self) -> int:
        return -1

    def setblocking(self, blocking: bool) -> None: ...


class RecordingSocket(ClientSocket):
    """A `ClientSocket` in memory, to call a handler with directly.

        socket = RecordingSocket()
        my_handler(Failure(client_error("HPE_HEADER_OVERFLOW")), socket)
        assert socket.received.startswith(b"HTTP/1.1 431 ")

    It is the real class on a transport in memory: it writes, refuses and closes as on a connection.
    You may set ``peer``, ``host``, ``secure`` and ``headers_sent``.  `peer_left` makes the client
    leave, `connection_lost` ends the connection.

    Attributes:
        clock: The socket's clock.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self._recorder = StringTransport()
        super().__init__(
            self._recorder,
            peer=IPv4Address("TCP", _CLIENT, next(_ports)),
            host=_HOST,
            deadlines=Deadlines(self.clock),
            limits=Limits(),
            timeouts=Timeouts(),
            release=lambda: None,
            watch_sending=lambda: None,
        )

    @property
    def received(self) -> bytes:
        """The bytes that the client would read."""
        return bytes(self._recorder.value())

    @property
    def destroyed(self) -> bool:
        """Whether the connection was aborted (reset)."""
        return self._recorder.disconnected


def client_error(code: str, **attributes: Any) -> ClientError:
    """Make the error that a handler gets for *code*, such as ``"HPE_INVALID_METHOD"``.

    If a client can cause the error by what it sends or leaves out, this is the real one: a site has
    made it, with class, reason, phase, packet and offset.

    Args:
        code: The error's code.
        attributes: Attributes of the error to change, such as ``phase="body"``.

    Raises:
        ValueError: No client error has this code, or there is no such phase.
        TypeError: An attribute cannot be set.
    """
    error = _error_of(code)
    for name, value in attributes.items():
        if name not in _SETTABLE:
            raise TypeError(f"{name} cannot be set; what can is {', '.join(_SETTABLE)}")
        if name == "phase" and value not in get_args(Phase):
            raise ValueError(f"phase is {value!r}, which is none of {', '.join(get_args(Phase))}")
        setattr(error, name, value)
    return error


_SETTABLE: Final = sorted({*RecordedError.__slots__} - {"code"})

_HEAD: Final = b"GET / HTTP/1.1\r\nHost: example.org\r\n"


class _Waits(Resource):
    isLeaf = True

    def render(self, request: Request) -> int:
        channel: Any = request.channel
        channel.factory.reactor.callLater(1, request.write, b"begun")
        return NOT_DONE_YET


def _fed(*pieces: bytes, fin: bool = False) -> MemoryClient:
    site = HangupSite(_Waits(), reactor=Clock(), limits=Limits(body_bytes=1))
    return feed(site, *pieces, fin=fin)


def _judged(*fields: tuple[bytes, bytes]) -> ParseError:
    asked = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/")]
    _, error = judge_head([*asked, (b":authority", b"example.org"), *fields], Limits())
    assert error is not None
    return error


def _without_proxy_header() -> ParseError:
    try:
        header_length(_HEAD)
    except ParseError as error:
        return error
    raise AssertionError(_HEAD)


#: Errors that no bytes in HTTP/1.1 cause.
_OTHER_MISTAKES: Final[Mapping[str, Callable[[], ClientError]]] = {
    "HPE_INVALID_EOF_STATE": lambda: _fed(_HEAD, fin=True).errors[0],
    "ERR_HTTP_REQUEST_TIMEOUT": lambda: _fed(_HEAD).advance(Timeouts().head_seconds + 1).errors[0],
    "ECONNRESET": lambda: _fed(_HEAD + b"\r\n", fin=True).errors[0],
    "EPIPE": lambda: _fed(_HEAD + b"\r\n").reset(errno.EPIPE).advance(1).errors[0],
    "ETIMEDOUT": lambda: _fed(_HEAD + b"\r\n").reset(errno.ETIMEDOUT).errors[0],
    "ERR_PROXY_PROTOCOL": _without_proxy_header,
    "ERR_TLS_HANDSHAKE_TIMEOUT": handshake_timeout,
    "ERR_HTTP2_INVALID_PSEUDOHEADER": lambda: _judged((b":path", b"/")),
    "ERR_HTTP2_INVALID_CONNECTION_HEADERS": lambda: _judged((b"connection", b"close")),
}


def _error_of(code: str) -> ClientError:
    if code in REQUESTS:
        return _fed(REQUESTS[code]).errors[0]
    error: ClientError
    if code in _OTHER_MISTAKES:
        error = _OTHER_MISTAKES[code]()
    elif code.startswith("ERR_SSL_"):
        words = code.removeprefix("ERR_SSL_").replace("_", " ").lower()
        error = tls_error(SSL.Error([("SSL routines", "", words)]), "handshake")
        if code == HTTP_REQUEST:
            answered_in_plain(error)
    elif code.startswith("ERR_HTTP2_"):
        words = code.removeprefix("ERR_HTTP2_").replace("_", " ").capitalize()
        error = HTTP2Error(words, code=code, phase="idle")
    else:
        close = get_close_matches(code, [*REQUESTS, *_OTHER_MISTAKES], 1)
        hint = f"did you mean {close[0]}?" if close else f"{COMMAND} lists them"
        raise ValueError(f"{code!r} is no code of a client error; {hint}")
    if error.peer is None:
        error.peer = IPv4Address("TCP", _CLIENT, next(_ports))
        error.masking = DEFAULT_POLICY
    error.__traceback__ = error.__context__ = None
    return error
