"""How a carrier ends: its one error, the socket that answers it, the report to the journal.

A carrier brings requests: an HTTP/1 or HTTP/2 connection, or an HTTP/2 stream whose request is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Protocol, TypeAlias

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from ..errors import ClientError, ClientHangUp, ParseError, Phase, RequestTimeout
from ..events import Break, RequestHead
from ..parser.refusals import Why
from ..report.rules import HANG_UP, REQUEST_TIMEOUT, RESET
from ..transport.sockets import ConnectionBroken
from ..transport.tls import EndedWithoutNotify, tls_error
from .client_socket import ClientSocket
from .context import SiteContext
from .errbacks import Chain, ClientFailure


class EndStage(IntEnum):
    """How far the one client error of a carrier has come; it never goes back.

    =========== ======================================================================
    `NONE`      there is none
    `FOUND`     it is in the journal; the responses before it come first
    `ANSWERING` its errback chain was started, and may be waiting for a handler
    `SETTLED`   the carrier is closed for it, and the journal knows what was answered
    =========== ======================================================================
    """

    NONE = 0
    FOUND = 1
    ANSWERING = 2
    SETTLED = 3


# Names of the module: a look-up in the enum takes four times as long.
NONE, FOUND, ANSWERING, SETTLED = EndStage


#: The phase of a connection, and its request.
Place: TypeAlias = tuple[Phase, RequestHead | None]


class Endable(Protocol):
    """What an `Ending` needs of its carrier."""

    #: The class of the socket that handlers get.
    socket_class: type[ClientSocket]
    #: Whether its lingering close counts in `SiteContext.lingered`: a stream's does not.
    counts_lingering: bool

    context: SiteContext
    host: Any  # the address that the client connected to

    @property
    def transport(self) -> Any:
        """The transport that handlers' answers are written to."""

    @property
    def place(self) -> Place:
        """The phase that the carrier is in, and the request so far, if there is one."""

    @property
    def request_line_so_far(self) -> Break | None:
        """The request line so far, if the message that is being read stops inside it."""

    def getPeer(self) -> Any: ...
    def client_error(self, failure: ClientFailure, socket: ClientSocket) -> Any: ...

    #: `client_error`, if no subclass overrides it.
    default_client_error: Callable[..., Any]

    def closing_with(self, socket: ClientSocket) -> None:
        """Ignore further input and stop requests: only *socket* uses the carrier from now on."""

    def answering_with(self, socket: ClientSocket, error: ClientError) -> None:
        """The errback chain is about to get *socket*."""

    def release_transport(self) -> None:
        """Unregister as the transport's producer, which keeps it from closing."""

    def watch_sending(self) -> None:
        """More waits to be sent than the client reads."""


class Ending:
    """The end of one carrier, in either protocol: at most one error, and one answer.

    Attributes:
        error: The one client error; None before it.
        socket: What handlers write to; None while the carrier lives, and once it has gone.
        stage: How far *error* has come.
        input_over: Whether the client has ended its input (FIN).
        due: Whether something is to be done once no request is being answered: there is an error,
            or the input is over.
    """

    __slots__ = ("_carrier", "_place", "due", "error", "input_over", "socket", "stage")

    def __init__(self, carrier: Endable) -> None:
        self._carrier: Any = carrier
        self.error: ClientError | None = None
        self.socket: ClientSocket | None = None
        self.stage = NONE
        self.input_over = self.due = False
        #: The phase and request of the carrier when its transport was lost.
        self._place: Place | None = None

    @property
    def open(self) -> bool:
        """Whether nothing has gone wrong, and nothing is closed or closing."""
        return self.stage is NONE and self.socket is None and self._carrier is not None

    @property
    def closing(self) -> bool:
        """Whether our half is closed, or is about to be, while the client may still read."""
        return self.socket is not None and self.socket.ended

    @property
    def unsent(self) -> bool:
        """Whether we are closing, and bytes that were written wait for the client."""
        return self.socket is not None and self.socket.unsent

    # The one error.

    def found(self, error: ClientError) -> ClientError:
        """Record *error*, unless there is one already; `answer` starts its chain later.

        Returns:
            The error of this carrier, which is the first one.
        """
        if self.error is None:
            carrier = self._carrier
            self.stage, self.due = FOUND, True
            if error.phase == "head" and error.request is None and error.broke_at is None:
                error.broke_at = carrier.request_line_so_far
            self.error = attributed(error, carrier.getPeer(), carrier.context)
            carrier.context.journal.record(error)
        return self.error

    def open_socket(self, transport: Any = None) -> ClientSocket:
        """Make the socket for handlers; from now on nothing is parsed or run.

        Args:
            transport: What to answer on, if not the carrier's own.
        """
        if self.socket is None:
            carrier, context = self._carrier, self._carrier.context
            self.socket = carrier.socket_class(
                transport or carrier.transport,
                peer=self.error.peer if self.error is not None else carrier.getPeer(),
                host=carrier.host,
                deadlines=context.deadlines,
                limits=context.limits,
                timeouts=context.timeouts,
                release=self._released,
                watch_sending=carrier.watch_sending,
            )
            if self.input_over:
                self.socket.input_ended()
            carrier.closing_with(self.socket)
        return self.socket

    def answer(self) -> Deferred[Any] | None:
        """Start the errback chain: everything before the broken message has been answered.

        Harmless without an error, and if the chain was started before.

        Returns:
            The Deferred that the chain waits for; None if it waits for none.
        """
        if self.stage is not FOUND:
            return None
        error, socket = self.error, self.open_socket()
        assert error is not None
        self.stage = ANSWERING
        carrier = self._carrier
        carrier.answering_with(socket, error)
        context, hook = carrier.context, carrier.client_error
        if getattr(hook, "__func__", None) is carrier.default_client_error:
            hook = context.errbacks.ask  # the same, and it makes no Deferred
        chain = Chain(error, socket, context.deadlines, context.pages)
        waiting = chain.start(hook, context.timeouts.handler_seconds)
        if self.stage is ANSWERING and socket.ended:
            self._settle()
        return waiting

    def preempt(self, error: ClientError, transport: Any) -> None:
        """Answer *error* on *transport*, before any message; not while we are closing."""
        if self.open:
            self.found(error)
            self.open_socket(transport)
            self.answer()

    # Called by the carrier.

    def dropped(self, count: int) -> None:
        """*count* bytes came and are not parsed."""
        if self.socket is not None:
            self.socket.dropped(count)

    def input_ended(self) -> None:
        """The client has ended its input (FIN)."""
        self.input_over = self.due = True
        if self.socket is not None:
            self.socket.input_ended()

    def flushed(self) -> None:
        """The kernel has all that was written."""
        if self.socket is not None:
            self.socket.flushed()

    def note_place(self) -> None:
        """The transport has gone.  Note the phase now: later the connection may look idle."""
        if self.open:
            self._place = self._carrier.place

    def judge_loss(self, reason: Failure, end_of_input: Callable[[], None]) -> ClientError | None:
        """The error of this connection, now that it is lost, or None.

        Args:
            reason: See `reason_of_loss`.
            end_of_input: See `reason_of_loss`.
        """
        if self._carrier is None:
            return None
        if self.error is None and (self.socket is None or self._place or self.socket.unsent):
            phase, request = self._place or self._carrier.place
            error = reason_of_loss(reason, self._carrier.transport, phase, end_of_input)
            if error is not None:
                error.request = request
                self.found(error)
        return self.error

    def lost(self) -> None:
        """The carrier has gone: an error that waits for its turn is answered now, in vain."""
        if self._carrier is None:
            return
        if self.socket is not None:
            self.socket.connection_lost()
            if self._carrier.counts_lingering:
                self._carrier.context.lingered[self.socket.linger_end] += 1
        self.answer()
        self._settle()
        # They are not needed any more, and would leave a reference cycle.
        self._carrier = self.socket = None

    def _released(self) -> None:
        """The socket was ended or destroyed: nothing more is sent."""
        self._carrier.release_transport()
        self._settle()

    def _settle(self) -> None:
        """Report the answer to the journal: the socket has ended, so nothing can follow."""
        if self.stage is ANSWERING:
            assert self.error is not None and self.socket is not None
            self.stage = SETTLED
            socket, journal = self.socket, self._carrier.context.journal
            journal.settle(self.error, socket.status_sent, socket.body_bytes)


def reason_of_loss(
    reason: Failure, transport: Any, phase: Phase, end_of_input: Callable[[], None]
) -> ClientError | None:
    """Whether the client went wrong when the connection was lost.

    Args:
        reason: The argument of ``connectionLost``.  The whole process may share it, so nothing of
            it is kept.
        transport: The transport that was lost.
        phase: The phase in which it was lost.
        end_of_input: Raises `ParseError` if the input may not end here.

    Returns:
        The error, or None if we closed, or the client closed between two messages.
    """
    lost = reason.value
    if isinstance(lost, SSL.Error):
        return tls_error(lost, phase)
    if isinstance(lost, ConnectionBroken):
        return connection_broken(lost, phase)
    if not reason.check(ConnectionDone, ConnectionLost) or reason.check(ConnectionAborted):
        return None
    wrapped = isinstance(transport, ProtocolWrapper)
    if wrapped and transport.disconnecting:
        return None  # closed by the application
    if reason.check(ConnectionDone, EndedWithoutNotify):
        # A plain transport reports the client's FIN before this, so this is our own
        # close.  Wrappers turn a FIN directly into this.
        return _ended(phase, end_of_input) if wrapped else None
    if ISSLTransport.providedBy(transport):
        # FIN or reset: Twisted's own TLS does not say which, and a FIN is no error here.
        return None if phase == "idle" else hang_up(HANG_UP, phase)
    return hang_up(RESET, phase)


def _ended(phase: Phase, end_of_input: Callable[[], None]) -> ClientError | None:
    """The error of a client that ended its input, when no answer can be sent any more; or None."""
    if phase in ("handshake", "response"):
        return hang_up(HANG_UP, phase)
    try:
        end_of_input()
    except ParseError as error:
        return error
    return None


def connection_broken(
    lost: ConnectionBroken, phase: Phase, request: RequestHead | None = None
) -> ClientHangUp:
    """The error of a client whose connection the network broke, with its errno."""
    return ClientHangUp(str(lost), code=lost.code, phase=phase, request=request, errno=lost.errno)


def hang_up(why: Why, phase: Phase, request: RequestHead | None = None) -> ClientHangUp:
    """The error of a client that has gone, or counts as gone."""
    return ClientHangUp(why.reason, code=why.code, phase=phase, request=request)


def request_timeout(phase: Phase, request: RequestHead | None = None) -> RequestTimeout:
    """The error of a client that has not sent its request in time."""
    why = REQUEST_TIMEOUT
    return RequestTimeout(why.reason, code=why.code, phase=phase, request=request)


def attributed(error: ClientError, peer: Any, context: SiteContext) -> ClientError:
    """Set the peer and the masking of *error*.

    Args:
        peer: The other end of the connection: the client, or a proxy that may name the client.

    Returns:
        The same error, without its traceback, which would keep the connection alive.
    """
    error.__traceback__ = error.__context__ = None
    error.peer = peer if context.forwarded is None else context.forwarded.client_of(error, peer)
    error.masking = context.masking
    return error
