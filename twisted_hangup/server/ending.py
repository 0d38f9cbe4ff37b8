"""How a carrier ends: its one error, the socket that answers it, the last word on it.

A carrier is what brings a request: an HTTP/1 or HTTP/2 connection, or of the latter a stream
whose request is refused.
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
    """How far the one client error of a carrier has come; it only goes on.

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


# To find a member in its class takes four times as long.
NONE, FOUND, ANSWERING, SETTLED = EndStage


#: Where in a message a connection is, and in which.
Place: TypeAlias = tuple[Phase, RequestHead | None]


class Endable(Protocol):
    """A carrier as its `Ending` needs it."""

    #: What handlers get of it.
    socket_class: type[ClientSocket]
    #: Whether its lingering close is one of a connection, which are counted.
    counts_lingering: bool

    context: SiteContext
    host: Any  # the address that the client connected to

    @property
    def transport(self) -> Any:
        """What handlers' answers are written to."""

    @property
    def place(self) -> Place:
        """Where in a message the carrier is now, and the request so far, if there is any."""

    @property
    def request_line_so_far(self) -> Break | None:
        """Where in its request line the message that is being read has stopped, if in there."""

    def getPeer(self) -> Any: ...
    def client_error(self, failure: ClientFailure, socket: ClientSocket) -> Any: ...

    #: What that is where nobody has overridden it.
    default_client_error: Callable[..., Any]

    def closing_with(self, socket: ClientSocket) -> None:
        """From now on nothing is parsed or run: *socket* is what is left of the carrier."""

    def answering_with(self, socket: ClientSocket, error: ClientError) -> None:
        """The errback chain is about to have *socket*."""

    def release_transport(self) -> None:
        """Stop being the transport's producer, which keeps it from closing."""

    def watch_sending(self) -> None:
        """More is waiting to be sent than the client has room for."""


class Ending:
    """The end of one carrier, in whichever protocol: at most one error, and one answer.

    Attributes:
        error: The one client error; None before it.
        socket: What handlers write to; None while the carrier lives, and once it has gone.
        stage: How far *error* has come.
        input_over: Whether the client has ended its input (FIN).
        due: Whether there is anything to do once no request is being answered: an error has
            been found, or the input is over.
    """

    __slots__ = ("_carrier", "_place", "due", "error", "input_over", "socket", "stage")

    def __init__(self, carrier: Endable) -> None:
        self._carrier: Any = carrier
        self.error: ClientError | None = None
        self.socket: ClientSocket | None = None
        self.stage = NONE
        self.input_over = self.due = False
        #: Where the carrier stood when its transport went.
        self._place: Place | None = None

    @property
    def open(self) -> bool:
        """Whether nothing has gone wrong, and nothing is closed or being closed."""
        return self.stage is NONE and self.socket is None and self._carrier is not None

    @property
    def closing(self) -> bool:
        """Whether our half is closed or about to be, and the client has still time to read."""
        return self.socket is not None and self.socket.ended

    @property
    def unsent(self) -> bool:
        """Whether we are closing, and the client has not taken all that was written to it."""
        return self.socket is not None and self.socket.unsent

    # The one error.

    def found(self, error: ClientError) -> ClientError:
        """Record *error*, unless there is one already; `answer` is its turn.

        Returns:
            The error of this carrier: the first that was found.
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
        """The carrier as a handler gets it; from now on nothing is parsed or run.

        Args:
            transport: What to answer on, where that is not the carrier's own.
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
        """Start the chain, as everything before the broken message has been answered.

        Harmless where there is no error, or where its chain has been started.

        Returns:
            What the chain waits for, now that it has been started; None where it does not.
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
            hook = context.errbacks.ask  # the same, and needs no Deferred
        chain = Chain(error, socket, context.deadlines, context.pages)
        waiting = chain.start(hook, context.timeouts.handler_seconds)
        if self.stage is ANSWERING and socket.ended:
            self._settle()
        return waiting

    def preempt(self, error: ClientError, transport: Any) -> None:
        """Answer *error* on *transport*, before there was any message; not while we are closing."""
        if self.open:
            self.found(error)
            self.open_socket(transport)
            self.answer()

    # What the transport tells.

    def dropped(self, count: int) -> None:
        """*count* bytes came that nobody will parse."""
        if self.socket is not None:
            self.socket.dropped(count)

    def input_ended(self) -> None:
        """The client has ended its input (FIN)."""
        self.input_over = self.due = True
        if self.socket is not None:
            self.socket.input_ended()

    def flushed(self) -> None:
        """All that was written is with the kernel."""
        if self.socket is not None:
            self.socket.flushed()

    def note_place(self) -> None:
        """The transport has gone: what comes of that may let the connection look idle."""
        if self.open:
            self._place = self._carrier.place

    def judge_loss(self, reason: Failure, end_of_input: Callable[[], None]) -> ClientError | None:
        """The error of this connection, now that it is lost: the known one, or what that says.

        Args:
            reason: See `reason_of_loss`, as for *end_of_input*.
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
        """The carrier has gone; an error whose turn never came has it now."""
        if self._carrier is None:
            return
        if self.socket is not None:
            self.socket.connection_lost()
            if self._carrier.counts_lingering:
                self._carrier.context.lingered[self.socket.linger_end] += 1
        self.answer()
        self._settle()
        # Nobody needs them any more, and Python would have to look for what is left of a circle.
        self._carrier = self.socket = None

    def _released(self) -> None:
        """The socket has been ended or destroyed, and nothing more is said."""
        self._carrier.release_transport()
        self._settle()

    def _settle(self) -> None:
        """Tell the journal what was answered, as nothing more can be: the socket has ended."""
        if self.stage is ANSWERING:
            assert self.error is not None and self.socket is not None
            self.stage = SETTLED
            socket, journal = self.socket, self._carrier.context.journal
            journal.settle(self.error, socket.status_sent, socket.body_bytes)


def reason_of_loss(
    reason: Failure, transport: Any, phase: Phase, end_of_input: Callable[[], None]
) -> ClientError | None:
    """Tell whether the client went wrong when the connection was lost.

    Args:
        reason: What ``connectionLost`` was given; often shared by the whole process, so
            nothing of it is kept.
        transport: The transport that was lost.
        phase: Where in a message it happened.
        end_of_input: Raises `ParseError` where the input may not end here.

    Returns:
        The error, or None where we closed, or the client did so between two messages.
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
        # A plain transport has told of the client's FIN before, and this is our own
        # close.  Wrappers turn a FIN straight into this.
        return _ended(phase, end_of_input) if wrapped else None
    if ISSLTransport.providedBy(transport):
        # FIN or reset: Twisted's own TLS does not tell, and the first is no error here.
        return None if phase == "idle" else hang_up(HANG_UP, phase)
    return hang_up(RESET, phase)


def _ended(phase: Phase, end_of_input: Callable[[], None]) -> ClientError | None:
    """What the end of the client's input means, where nothing can be answered any more."""
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
    """The error of a client whose connection the network broke, with the errno of that."""
    return ClientHangUp(str(lost), code=lost.code, phase=phase, request=request, errno=lost.errno)


def hang_up(why: Why, phase: Phase, request: RequestHead | None = None) -> ClientHangUp:
    """The error of a client that has gone, or is as good as gone."""
    return ClientHangUp(why.reason, code=why.code, phase=phase, request=request)


def request_timeout(phase: Phase, request: RequestHead | None = None) -> RequestTimeout:
    """The error of a client that has not sent its request in time."""
    why = REQUEST_TIMEOUT
    return RequestTimeout(why.reason, code=why.code, phase=phase, request=request)


def attributed(error: ClientError, peer: Any, context: SiteContext) -> ClientError:
    """Say in *error* whose doing it is, and what of it is secret on this site.

    Args:
        peer: The other end of the connection: the client, or a proxy that may name it.

    Returns:
        The same error, fit to outlive its connection, which its traceback would keep alive.
    """
    error.__traceback__ = error.__context__ = None
    error.peer = peer if context.forwarded is None else context.forwarded.client_of(error, peer)
    error.masking = context.masking
    return error
