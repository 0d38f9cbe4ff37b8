"""One connection's client error: found, recorded, settled in its turn, and only one.

How a good conversation goes is `twisted_hangup.server.driver`'s.  There is no HTTP syntax here:
the parser judges the bytes, and what it refuses, what stalls and who leaves become one
`ClientError` that runs down the errback chain.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import ClientError, ClientHangUp, ParseError, Phase, RequestTimeout
from ..events import RequestHead
from ..transport.layers import transport_beneath
from ..transport.sockets import ConnectionBroken
from ..transport.tls import handshake_timeout
from .client_socket import ClientSocket
from .driver import RequestDriver
from .ending import reason_of_loss
from .errbacks import Settlement

_log = Logger()


class HangupChannel(RequestDriver):
    """An `HTTPChannel` whose client errors reach the application.

    Subclass it to change what happens, and give the class to `HangupSite`::

        class MyChannel(HangupChannel):
            def client_error(self, failure, socket):
                if failure.check(HeaderOverflow):
                    return socket.respond(431, b"Too large.")
                return super().client_error(failure, socket)

    Attributes:
        hangups: What it shares with the site's other channels; set by the site.
        transport: The connection; None once another protocol has taken it over.
    """

    __slots__ = ("_error_waits", "_input_ended", "_lost_in", "_settled", "_socket")

    def __init__(self) -> None:
        super().__init__()
        self._error_waits = False
        self._settled = False
        self._socket: ClientSocket | None = None
        self._input_ended = False
        #: Phase and request at the moment when the transport went.
        self._lost_in: tuple[Phase, RequestHead | None] | None = None

    def client_error(self, failure: Failure, socket: ClientSocket) -> Any:
        """Answer the one client error of this connection; override it to answer first.

        Args:
            failure: Its value is the `ClientError`.
            socket: The connection, to write to and close.

        Returns:
            What a handler may return (see `ClientErrbacks.add`).  The default runs the
            site's handlers and returns their Deferred.
        """
        return self.hangups.errbacks.run(failure, socket)

    # What the transport tells.

    def dataReceived(self, data: bytes) -> None:
        """Let the parser judge *data*, then act on what it found."""
        if self._error is None and self._socket is None:
            self._take_in(data)
        elif self._socket is not None:
            # Never parsed: over TLS the transport goes on delivering after we have closed.
            self._socket.dropped(len(data))

    def readConnectionLost(self) -> None:
        """The client ended its input (FIN) and may still be reading."""
        if self._left:  # the protocol that took over knows no half-close
            transport_beneath(self.transport).connectionLost(Failure(CONNECTION_DONE))
            return
        self._input_ended = True
        if self._socket is not None:
            self._socket.input_ended()
        elif self._error is None:
            self._end_of_input()
        elif not self.hangups.limits.allow_half_open:
            self._client_left(self._error)

    def writeConnectionLost(self) -> None:
        """Our half is closed: everything written is with the kernel."""
        if self._send_watch is not None:
            self._send_watch.stop()
        if self._socket is not None:
            self._socket.flushed()

    def stopProducing(self) -> None:
        """The transport has gone; why, `connectionLost` is told next.

        A producer may finish its request now, which would look like an idle connection.
        """
        if self._error is None and self._socket is None:
            self._lost_in = self._place
        try:
            super().stopProducing()
        except Exception:  # a producer's; the transport would never be closed
            _log.failure("Could not stop what produces a response")

    @property
    def _place(self) -> tuple[Phase, RequestHead | None]:
        """The phase, and the request it belongs to."""
        if self._socket is not None:
            return "response", self._head
        return self.phase, self._request_so_far

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Settle what is open: a waiting error, a running request, a lost client."""
        error = self._error
        if error is None and (self._socket is None or self._socket.unsent or self._lost_in):
            phase, request = self._lost_in or self._place
            error = reason_of_loss(reason, self.transport, phase, self._parser.finish)
            if error is not None:
                error.request = request
                self._record(error)
                self._error_waits = True
        if error is not None:
            self._client_socket()
            self._abandon_requests(error)
        self.leave()
        super().connectionLost(reason)
        if self._socket is not None:
            self._socket.connection_lost()
            self.hangups.lingered[self._socket.linger_end] += 1
            self._tell_settled()
        if error is not None and self._error_waits:
            self._settle(error)

    # Closing.

    @property
    def closing(self) -> bool:
        """Whether our half is closed or about to be, and the client has still time to read."""
        return self._socket is not None and self._socket.ended

    def close_when_done(self) -> None:
        """Read no further request; close once the one that has begun is answered."""
        if self._error is not None or self._over:
            return  # closing already
        self._last = True
        if self._handlingRequest:
            self.persistent = False
            self._backlog.clear()
        elif self._parser.phase == "idle":
            self.loseConnection()
        else:
            self.persistent = False

    def loseConnection(self) -> None:
        """Close so that the client can read all that was written; see `ClientSocket.end`."""
        if not self._left:
            self._parser.close()
            self._client_socket().end()

    def cut_response(self, request: Any) -> None:
        """End the connection in the middle of *request*'s response, visibly so.

        A response with a length or in chunks is seen to be cut short, so what was written
        of it is still delivered; one that ends with the connection needs the reset.
        """
        self._parser.close()
        socket = self._client_socket()
        if request.chunked or request.responseHeaders.hasHeader(b"Content-Length"):
            socket.end()
        else:
            socket.destroy()
        self.factory.log(request)
        self.requests.remove(request)
        request.connectionLost(Failure(ConnectionAborted("the response was cut short")))

    def preamble_failed(self, error: ClientError, transport: Any) -> None:
        """Take over where a PROXY header or TLS has failed; see `IPreambleListener`."""
        if self._error is None and self._socket is None:
            self._record(error)
            self._client_socket(transport)
            self._settle(error)

    def _client_socket(self, transport: Any = None) -> ClientSocket:
        """The connection as a handler gets it; from now on nothing is parsed or run."""
        if self._socket is None:
            hangups = self.hangups
            self._over = True
            self._read_again()
            self._clock.stop()
            self._socket = ClientSocket(
                transport or self.transport,
                peer=self.getPeer(),
                host=self._host,
                deadlines=hangups.deadlines,
                limits=hangups.limits,
                timeouts=hangups.timeouts,
                release=self._closing,
                watch_sending=self._watch_sending,
            )
            if self._input_ended:
                self._socket.input_ended()
            if getattr(self.transport, "negotiatedProtocol", None) == b"h2":
                self._socket.peer_left()  # it has not begun, and HTTP/1.1 would say nothing to it
        return self._socket

    def _closing(self) -> None:
        """The client socket has been ended or destroyed, and nothing more is said."""
        # A transport with a producer does not close before the producer has gone.
        producer: Any = self._networkProducer
        producer.unregisterProducer()
        self._tell_settled()

    def _tell_settled(self) -> None:
        if self._error is not None and self._socket is not None and not self._settled:
            self._settled = True
            self.hangups.journal.settle(self._error, self._socket.status_sent)

    # What goes wrong.

    def _fail(self, error: ClientError) -> None:
        """The one client error of this connection: record it, settle it in its turn."""
        self._record(error)
        self._backlog.close()
        if self._handlingRequest or self._waitingForTransport or self._backlog:
            self._error_waits = True
            self._clock.answering()
            self._networkProducer.resumeProducing()  # only to see the client leave
        else:
            self._settle(error)

    def _fail_own(self, error: ClientError) -> None:
        """Like `_fail`, where the running request is itself the broken message."""
        self._handlingRequest = False
        self._backlog.clear()
        self._fail(error)

    def _record(self, error: ClientError) -> None:
        # It outlives the connection, which its traceback would keep alive.
        error.__traceback__ = error.__context__ = None
        error.peer = self.getPeer()
        error.masking = self.hangups.masking
        self._error = error
        self.hangups.journal.record(error)

    def _settle(self, error: ClientError) -> None:
        """Start the chain: everything before the broken message has been answered."""
        self._error_waits = False
        socket = self._client_socket()
        if socket.secure and error.phase == "handshake":
            socket.peer_left()  # it could not read an answer yet
        self._join_writes()
        socket.headers_sent = bool(self.requests) and bool(self.requests[-1].startedWriting)
        if error.request is not None:
            socket.request_was(error.request.method)
        settlement = Settlement(error, socket, self.hangups.deadlines)
        settlement.start(self.client_error, self.hangups.timeouts.handler_seconds)

    def _end_of_input(self) -> None:
        """Where the client's input has ended, say what that means here; else nothing."""
        if not self._input_ended:
            return
        if self._handlingRequest:
            if not self.hangups.limits.allow_half_open:
                self._hung_up("socket hang up", "ECONNRESET", "response")
            return
        if self._waitingForTransport:
            # It has its answers still to take, and requests may wait behind them.
            if self.hangups.limits.allow_half_open:
                return
            if self._backlog or self._parser.buffered:
                self._hung_up("socket hang up", "ECONNRESET", "response")
            else:
                self._over = True
                self._backlog.clear()
                super().loseConnection()
            return
        try:
            self._parser.finish()
        except ParseError as error:
            self._fail(error)
        else:
            super().loseConnection()

    def _client_gone(self, errno: int) -> None:
        """The client hung up while reading from it was paused; *errno* is 0 for a FIN."""
        if not errno and self.hangups.limits.allow_half_open:
            return  # the end of its input, which will be read in its turn
        if self._error is None:
            if errno:
                lost = ConnectionBroken(errno, "read")
                self._hung_up(str(lost), lost.code, self.phase, errno)
            else:
                self._hung_up("socket hang up", "ECONNRESET", self.phase)
        else:
            self._client_left(self._error)

    def _stalled(self) -> None:
        """The client has taken no byte of its response for ``send_seconds``."""
        if self._error is None:
            self._hung_up("write ETIMEDOUT", "ETIMEDOUT", "response")
        self.transport.abortConnection()

    def _hung_up(self, reason: str, code: str, phase: Phase, errno: int | None = None) -> None:
        """What is wrong with the client is that it has gone."""
        error = ClientHangUp(reason, code=code, phase=phase, request=self._head, errno=errno)
        self._record(error)
        self._client_left(error)

    def _client_left(self, error: ClientError) -> None:
        """Nobody waits for the responses any more: stop the work, close, settle."""
        socket = self._client_socket()
        self.stopProducing()
        self._abandon_requests(error)
        socket.peer_left()
        socket.end()
        self._settle(error)

    def _abandon_requests(self, error: ClientError) -> None:
        """Tell the requests that their client has gone, and the access log too."""
        requests, self.requests = self.requests, []
        for request in requests:
            request.client_left(error)

    def _out_of_time(self) -> None:
        if self.phase == "handshake":
            self._fail(handshake_timeout())
        elif self._clock.in_handshake:
            self._clock.waiting("idle")  # the handshake is over, and the request is due
        elif self._clock.idle:
            self.loseConnection()  # idle between messages: a quiet close
        else:
            self._fail(
                RequestTimeout(
                    "Request timeout",
                    code="ERR_HTTP_REQUEST_TIMEOUT",
                    phase=self.phase,
                    request=self._request_so_far,
                )
            )

    def _respondToBadRequestAndDisconnect(self) -> None:
        """`Request` calls this when it cannot parse a multipart body."""
        self._fail_own(
            ParseError(
                "Invalid multipart body",
                code="ERR_HTTP_MULTIPART",
                phase="body",
                request=self._head,
                field=b"Content-Type",
            )
        )

    def _eb_request(self, failure: Failure) -> None:
        """A request raised, so that Twisted would drop the connection without a word."""
        request = self.requests[-1] if self.requests else None
        if request is not None and self._handlingRequest and not request.process_begun:
            # Only the client's own bytes have been looked at yet: Twisted's multipart
            # parser lets several exceptions of the email package through.
            self._respondToBadRequestAndDisconnect()
            return
        _log.failure("A request failed outside of its resource", failure)
        self._handlingRequest = True  # nothing behind it is acted on
        if request is not None and request.startedWriting:
            self.cut_response(request)
        else:
            self._client_socket().respond(500, b"The server failed to handle this request.\n")
