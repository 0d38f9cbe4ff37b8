"""Our connections to an HTTP/1.1 server, and the responses on them.

Twisted's `Agent` hides interim responses, trailers and upgrades, and leaves the connection open if
a body is not read to its end.  Here a response goes event by event to a `Receiver`, and giving up
closes the connection at once.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, BinaryIO, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed, ConnectionDone, ConnectionLost
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
)
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import FileSender
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import alsoProvides, implementer

from ..errors import ParseError, ResponseParseError, ServerPhase
from ..events import NEED_DATA, BodyData, Field, ResponseHead
from ..limits import KIB, Limits, OutboundTimeouts
from ..parser.response import ResponseParser
from ..transport.deadlines import Deadline, Deadlines
from ..transport.half_close import half_closing
from ..transport.layers import transport_beneath
from ..transport.sockets import LARGE_READ, JointWrites, SendWatch, TellingSocket, adopted
from ..transport.tls import handshake_is_heard
from .failures import NO_ANSWER, HandshakeCut, RequestCancelled, hang_up_of
from .producing import produced

#: A body up to this size is sent in one piece with its head.
_SMALL_BODY: Final = 64 * KIB

#: Most interim responses before the response itself.
_MOST_INTERIM: Final = 32

#: The time in Keep-Alive (RFC 2068, section 19.7.1.1), which Node's servers announce.
_KEEP_ALIVE: Final = re.compile(rb"(?i)(?:^|,)[ \t]*timeout[ \t]*=[ \t]*\"?([0-9]{1,9})")

#: Read what there is, and leave it there; as a number, because Python's flags are slow to join.
_LOOK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)

_KEEP_ALIVE_BYTES: Final = len(b"keep-alive")

#: Seconds before a server closes an idle connection in which it is not used any more: the request
#: and the end of the connection would cross.
_CLOSE_EARLY: Final = 1.0


@dataclass(slots=True)
class OutboundRequest:
    """A request to be sent.

    Attributes:
        method: The method, a token.
        head: The whole head, with the framing and the empty line.
        body: The body: bytes, a file from its current position, or a producer; None without one.
        body_bytes: How many bytes the body has; None for a chunked body.
        upgrade: Whether the server may answer 101.
    """

    method: bytes
    head: bytes
    body: BinaryIO | IBodyProducer | None = None
    body_bytes: int | None = 0
    upgrade: bool = False


class Receiver(Protocol):
    """Gets the response to one request; `end` or `failed` is called last, once."""

    def head(self, head: ResponseHead) -> None:
        """A head has arrived, of the response or an interim one; after a 101 HTTP ends."""

    def data(self, data: bytes) -> None:
        """Some bytes of the body."""

    def all_read(self) -> None:
        """All that has arrived was passed on; more may follow."""

    def end(self, trailers: list[Field]) -> None:
        """The response is complete."""

    def failed(self, error: Exception) -> None:
        """There is no response, or no complete one.

        The failure holds a `ServerHangUp`, a `ResponseParseError`, or the body producer's error.
        """


class Keeper(Protocol):
    """Keeps connections; see `OutboundPool`."""

    timeouts: OutboundTimeouts
    limits: Limits
    deadlines: Deadlines
    joint_writes: JointWrites

    def connected(self, connection: OutboundConnection) -> None:
        """*connection* is connected."""

    def free(self, connection: OutboundConnection) -> None:
        """*connection* may carry the next request."""

    def retire(self, connection: OutboundConnection) -> None:
        """*connection* may not be used again."""

    def lost(self, connection: OutboundConnection) -> None:
        """*connection* has gone."""


@implementer(IHandshakeListener, IHalfCloseableProtocol)
class OutboundConnection(TwistedProtocol):
    """One connection to a server; it carries one request at a time.

    Attributes:
        ready: Fires with the connection when a request can be sent (over TLS, after the handshake).
            It fails if the connection is lost before that.  Cancelling it closes the connection.
        opened_for: What the pool has opened it for.
        reused: Whether a response has come over it before.
        bytes_received: Bytes of the running response so far.
    """

    transport: Any

    def __init__(self, pool: Keeper, opened_for: object = None) -> None:
        self._pool = pool
        self.opened_for = opened_for
        self._parser = ResponseParser(pool.limits)
        self._receiver: Receiver | None = None
        self._deadline = Deadline(self._out_of_time)
        self._sending = self._sending_file = False
        self._answered = False
        #: How long it is kept after this response.
        self._idle_seconds = 0.0
        self._for_head = False
        self._paused = False
        self._lost = False
        self._heir: TwistedProtocol | None = None
        self._gone: Callable[[], object] | None = None
        self._interim = 0
        self._body_bytes = 0
        self._socket: TellingSocket | None = None
        self.ready: Deferred[OutboundConnection] = Deferred(self._give_up_tls)
        self.reused = False
        self.bytes_received = 0

    # Called by the pool and the receiver.

    def send(self, request: OutboundRequest, receiver: Receiver) -> None:
        """Send *request*; *receiver* gets the response."""
        self._receiver = receiver
        self._answered = self._paused = False
        self._idle_seconds = 0.0
        self._interim = self._body_bytes = self.bytes_received = 0
        self._deadline.due = inf  # the deadline of the idle connection
        self._for_head = request.method == b"HEAD"
        self._parser.expect(request.method, upgrade=request.upgrade)
        if request.upgrade:
            half_closing(self.transport)
        head, length = request.head, request.body_bytes
        body: Any = request.body
        produced = IBodyProducer.providedBy(body)
        if body is None or length == 0:
            self.transport.write(head)
        elif not produced and length is not None and length <= _SMALL_BODY:
            self.transport.write(head + body.read(length))
        else:
            self.transport.write(head)
            self._sending = True
            sending = self._send_body(body, length)
            sending.addCallback(self._cb_sent)
            # A file only fails with its connection, which has its own report.
            sending.addErrback(self._eb_not_produced if produced else lambda _: None)
            return
        self._wait(self._pool.timeouts.head_seconds)

    def pause(self) -> None:
        """Read no more until `resume`; meanwhile the server may be silent."""
        if not self._paused and not self._lost:
            self._paused = True
            self._deadline.due = inf
            self.transport.pauseProducing()

    def resume(self) -> None:
        """Resume reading."""
        if self._paused and not self._lost:
            self._paused = False
            self._wait(self._pool.timeouts.silence_seconds)
            self.transport.resumeProducing()

    def abort(self, receiver: Receiver, gone: Callable[[], object] | None = None) -> None:
        """Give up *receiver*'s request: the server sees the connection close at once.

        Nothing happens if its request is not the running one.  *gone* is called when the connection
        has gone.
        """
        if self._receiver is receiver:
            self._receiver = None
            self._gone = gone
            if not self._lost:
                self._abort()

    def part(self) -> None:
        """Close it after the last response, whatever the server does.

        TLS would wait for the server's close_notify, and Twisted until the kernel has room.
        """
        self.transport.loseConnection()
        self._send_watch.start()
        transport_beneath(self.transport).loseConnection()

    def close(self) -> None:
        """Close it at once; its request is cancelled."""
        self._fail(RequestCancelled(self.phase))
        self.ready.addErrback(lambda _: None)  # perhaps nobody waits for it
        self.transport.abortConnection()

    def hand_over(self, heir: TwistedProtocol) -> list[bytes]:
        """After a 101: give the connection to *heir*, and return the bytes after the response."""
        self._pool.deadlines.forget(self._deadline)
        self._receiver = None
        self._heir = heir
        # Twisted's endpoints wrap us in a protocol that forgets this if it listens to handshakes.
        wrapper = getattr(transport_beneath(self.transport), "protocol", None)
        if hasattr(wrapper, "readConnectionLost"):
            alsoProvides(wrapper, IHalfCloseableProtocol)
        heir.makeConnection(self.transport)
        return self._parser.unread()

    @property
    def quiet(self) -> bool:
        """Whether nothing waits to be read, not even the end of the connection.

        Bytes that no request asked for would be taken for the answer to the next request.
        """
        beneath: Any = self._socket or transport_beneath(self.transport)
        connection = getattr(beneath, "socket", None)
        if connection is None:
            return True
        try:
            connection.recv(1, _LOOK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    @property
    def phase(self) -> ServerPhase:
        """The phase of the running request."""
        if self._answered:
            return "body"
        if self._sending:
            return "request"
        return "head" if self.bytes_received else "waiting"

    # Called by Twisted.

    def connectionMade(self) -> None:
        beneath = transport_beneath(self.transport)
        self._socket = adopted(beneath)
        if self._socket is not None:
            self._socket.reads_first = True  # an early answer, before the end of the upload
            self._socket.join(self._pool.joint_writes)
        pool = self._pool
        self._send_watch = SendWatch(
            beneath, pool.deadlines, pool.timeouts.silence_seconds, self._out_of_time
        )
        beneath.bufferSize = LARGE_READ
        self._pool.connected(self)
        if not handshake_is_heard(self.transport):
            self.ready.callback(self)

    def handshakeCompleted(self) -> None:
        """TLS is set up; unless the certificate has another name, and the connection closes."""
        if not self.ready.called and not self.transport.disconnecting:
            self.ready.callback(self)

    def dataReceived(self, data: bytes) -> None:
        if self._heir is not None:
            self._heir.dataReceived(data)
            return
        receiver = self._receiver
        if receiver is None:
            self._pool.retire(self)
            self.transport.abortConnection()  # no request asked for bytes
            return
        self.bytes_received += len(data)
        self._parser.receive(data)
        try:
            while self._receiver is receiver:
                event = self._parser.next_event()
                if event is NEED_DATA:
                    receiver.all_read()
                    if not self._paused and self._answered:
                        self._wait(self._pool.timeouts.silence_seconds)
                    return
                if isinstance(event, BodyData):
                    self._body_bytes += len(event.data)
                    receiver.data(event.data)
                elif isinstance(event, ResponseHead):
                    if event.interim:
                        self._count_interim()
                    else:
                        self._answered = True
                        # A server that does not frame its body may send the end of it.
                        unframed = event.chunked and not (event.has_body or self._for_head)
                        if event.keep_alive and not unframed:
                            most = self._pool.timeouts.idle_seconds
                            self._idle_seconds = idle_seconds(event.fields, most)
                    receiver.head(event)
                else:
                    self._complete(receiver, event.trailers)
                    return
        except ParseError as error:
            self._fail(error)
            self._abort()

    def readConnectionLost(self) -> None:
        """The server has ended its output; HTTP knows no half-close of a server."""
        heir = IHalfCloseableProtocol(self._heir, None)
        if heir is None:
            transport_beneath(self.transport).connectionLost(Failure(CONNECTION_DONE))
        else:
            heir.readConnectionLost()

    def writeConnectionLost(self) -> None:
        """Our half is closed, by the protocol that has the connection now."""
        IHalfCloseableProtocol(self._heir).writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self._send_watch.forget()
        self._pool.deadlines.forget(self._deadline)
        self._pool.lost(self)
        in_order = reason.check(ConnectionDone)
        broken = None if self._socket is None else self._socket.failure
        if broken is not None and reason.check(ConnectionLost, ConnectionDone):
            reason = Failure(broken)  # TLS reports less, and what came before a reset may be whole
        if not self.ready.called:
            cut = broken is None and reason.check(ConnectionClosed)
            self.ready.errback(Failure(HandshakeCut()) if cut else reason)
        if self._heir is not None:
            heir, self._heir = self._heir, None
            heir.connectionLost(reason)
            return
        receiver = self._receiver
        if receiver is None:
            if self._gone is not None:
                self._gone()
            return
        if in_order and self._answered:
            try:
                end = self._parser.finish()
            except ParseError:
                pass
            else:
                self._receiver = None
                receiver.end(end.trailers if end else [])
                return
        self._hang_up(reason)

    # Inside.

    def _abort(self) -> None:
        """Close at once; the file with the body, if it has one, is not read any more."""
        if self._sending_file:
            self.transport.unregisterProducer()  # over TLS it would go on for a turn
        self.transport.abortConnection()

    def _give_up_tls(self, ready: Deferred[Any]) -> None:
        self.transport.abortConnection()

    def _count_interim(self) -> None:
        """Bound the interim responses that are passed on."""
        self._interim += 1
        if self._interim > _MOST_INTERIM:
            raise ResponseParseError(
                "Too many interim responses",
                code="ERR_HTTP_TOO_MANY_INTERIM_RESPONSES",
                phase="head",
            )

    def _wait(self, seconds: float) -> None:
        deadlines = self._pool.deadlines
        deadlines.set(self._deadline, deadlines.seconds() + (seconds or inf))

    def _send_body(self, body: Any, length: int | None) -> Deferred[Any]:
        """Write *body*, no faster than the server takes it; see `produced`."""
        if not IBodyProducer.providedBy(body):
            self._send_watch.start()
            self._sending_file = True
            sending: Deferred[Any] = FileSender().beginFileTransfer(body, self.transport)
            return sending
        # The server is not to blame for a producer that takes its time.
        self.transport.registerProducer(_Watched(body, self._send_watch), True)

        def unregister(result: Any) -> Any:
            self.transport.unregisterProducer()
            return result

        return produced(body, self.transport, length).addBoth(unregister)

    def _cb_sent(self, result: object) -> None:
        """The transport has the body, or the connection has been lost."""
        self._sending = self._sending_file = False
        self._send_watch.stop()
        if self._receiver is not None and not self._answered and not self._lost:
            self._wait(self._pool.timeouts.head_seconds)

    def _eb_not_produced(self, failure: Failure) -> None:
        """The producer of the body has failed: no server hung up."""
        if not self._lost:
            self._fail(failure.value)
            self.transport.abortConnection()

    def _complete(self, receiver: Receiver, trailers: list[Field]) -> None:
        """The response is complete; the connection is free if both sides keep it open."""
        self._deadline.due = inf
        self._receiver = None
        if self._idle_seconds > 0 and not self._sending and not self._parser.buffered:
            self.resume()
            self.reused = True
            self._wait(self._idle_seconds)
            self._pool.free(self)
        else:
            self._abort() if self._sending else self.part()
        receiver.end(trailers)

    def _fail(self, error: Any) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.failed(error)

    def _out_of_time(self) -> None:
        if self._receiver is None and not self.transport.disconnecting:
            self._pool.retire(self)
            self.part()  # it was idle for too long
            return
        self._hang_up(Failure(ConnectTimeout(string=NO_ANSWER[0])))
        self._abort()

    def _hang_up(self, failure: Failure) -> None:
        """The running request has failed with the connection."""
        came = self._body_bytes if self._answered else self.bytes_received
        self._fail(hang_up_of(failure, self.phase, reused=self.reused, bytes_received=came))


def idle_seconds(fields: Iterable[Field], most: float) -> float:
    """How long a connection may be kept after a response with these header *fields*.

    Args:
        most: Seconds that it is kept at most.
    """
    least = most
    for name, value in fields:
        # By its length first: this is asked of every response.
        if len(name) == _KEEP_ALIVE_BYTES and name.lower() == b"keep-alive":
            found = _KEEP_ALIVE.search(value)
            if found is not None:
                least = min(least, int(found[1]) - _CLOSE_EARLY)
    return least


@implementer(IPushProducer)
class _Watched:
    """A body's producer, with a watch on the server while the server takes no more of it."""

    def __init__(self, producer: Any, watch: SendWatch) -> None:
        self._producer = producer
        self._watch = watch

    def pauseProducing(self) -> None:
        self._watch.start()
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self._watch.stop()
        self._producer.resumeProducing()

    def stopProducing(self) -> None:
        self._producer.stopProducing()
