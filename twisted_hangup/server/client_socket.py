"""`ClientSocket`: how a handler answers a client that went wrong, and closes the connection.

It closes so that the client can read the answer (RFC 9112, section 9.6).  If the server closes a
TCP connection with input unread, or still arriving, the kernel sends a reset, and the reset may
destroy an answer that the client has not read yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf
from typing import Any, Final, Literal, Protocol, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import connectionDone

from ..errors import ClientError
from ..limits import Limits, Timeouts
from ..transport.deadlines import Deadline, Deadlines
from ..transport.layers import transport_beneath
from ..transport.lean_tls import meter_of
from ..transport.sockets import TellingSocket
from .answers import ResponseFields, closing_head, default_answer
from .handler_log import handler_log

LingerEnd: TypeAlias = Literal["client", "silence", "time", "bytes"]

#: A status line up to its code, and the length of that.
_STATUS_LINE: Final = re.compile(rb"HTTP/[0-9]\.[0-9] ([0-9]{3})")
_STATUS_LINE_BYTES: Final = 12
_HEAD_END: Final = b"\r\n\r\n"


class Transport(Protocol):
    """What we use of a stream transport.

    TCP, UNIX and TLS transports have ``loseWriteConnection`` as well; those in memory have not.
    """

    def write(self, data: bytes) -> object: ...
    def loseConnection(self) -> object: ...
    def abortConnection(self) -> object: ...
    def resumeProducing(self) -> object: ...


def has_unsent(transport: Any) -> bool:
    """Whether bytes written to *transport* wait because the client does not read them yet."""
    beneath = transport_beneath(transport)
    # Twisted's transports collect writes in the second one until they try to send.
    return bool(getattr(beneath, "dataBuffer", b"") or getattr(beneath, "_tempDataBuffer", ()))


def _unsent_bytes(transport: Any) -> int:
    """How many bytes wait; over TLS, their number before encryption, if it is known."""
    beneath = transport_beneath(transport)
    meter = meter_of(transport, beneath if isinstance(beneath, TellingSocket) else None)
    if meter is not None:
        return meter.unsent
    waiting = len(getattr(beneath, "dataBuffer", b"")) - getattr(beneath, "offset", 0)
    return int(waiting + getattr(beneath, "_tempDataLen", 0))


class ClientSocket:
    """The client's connection, for handlers and `HangupChannel.client_error`.

    Node's handlers get a ``socket`` as well.  Over HTTP/2 a refused request has a subclass, which
    acts on that request's stream alone.

    No method ever fails because of the connection's state: you may call them in any order, twice,
    or after the connection has gone.  After an `end` or `destroy` they do nothing.

    Attributes:
        peer: Address of the client, an ``IAddress``.
        host: Address that the client connected to, an ``IAddress``.
        secure: Whether the connection uses TLS.
        headers_sent: Whether a response to the broken message has begun.  No other answer can
            follow: `write`, `respond` and `end` then only close.
        linger_end: What ended the lingering close: the client closed (``"client"``),
            ``linger_silence_seconds`` (``"silence"``), ``linger_seconds`` (``"time"``) or
            ``linger_bytes`` (``"bytes"``).  While it lasts, what ends it unless something else
            happens first.  None without a lingering close.
        bytes_written: Bytes that `write`, `respond` and `end` have written so far.
        status_sent: Status code of the response that these bytes begin with, or None.
        body_bytes: How many of these bytes follow the head of that response.
        error: The error that handlers answer; None before its errback chain starts.
        handler: The handler that got it last, or None.  For the log.
        out_of_time: Whether ``Timeouts.handler_seconds`` have passed, so that the rest of the
            errback chain is skipped.
    """

    # Slots, as ten thousand may linger at a time; __dict__ so that a handler may set attributes.
    __slots__ = (
        *("__dict__", "__weakref__"),
        *("_deadline", "_deadlines", "_ending", "_flushed"),
        *("_heard_at", "_input_ended", "_limits", "_linger_until", "_lingered_bytes", "_opening"),
        *("_peer_left", "_release", "_timeouts", "_transport", "_waiting", "_watch_sending"),
        *("bytes_written", "error", "handler", "headers_sent", "host", "linger_end", "out_of_time"),
        *("_head_end", "body_bytes", "peer", "secure", "status_sent"),
    )

    def __init__(
        self,
        transport: Transport,
        *,
        peer: Any,
        host: Any,
        deadlines: Deadlines,
        limits: Limits,
        timeouts: Timeouts,
        release: Callable[[], object],
        watch_sending: Callable[[], object],
    ) -> None:
        """*release* is called before the connection is closed, in any way.  *watch_sending* is
        called when it closes with bytes that wait to be sent."""
        self.peer = peer
        self.host = host
        self.secure = ISSLTransport.providedBy(transport)
        self.headers_sent = False
        self.bytes_written = 0
        #: The first bytes written, as far as they may be a status line.
        self._opening = b""
        #: The last bytes written, as far as they may be the end of a head; None after that.
        self._head_end: bytes | None = b""
        self.body_bytes = 0
        self.linger_end: LingerEnd | None = None
        self.status_sent: int | None = None
        self.out_of_time = False
        self.handler: object = None
        self._transport: Transport | None = transport
        self.error: ClientError | None = None
        self._deadlines = deadlines
        self._limits = limits
        self._timeouts = timeouts
        self._release: Callable[[], object] | None = release
        self._watch_sending: Callable[[], object] | None = watch_sending
        self._deadline: Deadline | None = None
        self._linger_until = inf
        self._lingered_bytes = 0
        self._heard_at = -inf
        self._ending = False
        self._peer_left = False
        self._input_ended = False
        self._flushed = False
        self._waiting: list[Deferred[None]] | None = None

    def __repr__(self) -> str:
        state = "closed" if self._transport is None else "open"
        return f"<ClientSocket {state} peer={self.peer}>"

    @property
    def closed(self) -> bool:
        """Whether the connection has gone."""
        return self._transport is None

    @property
    def ended(self) -> bool:
        """Whether `end` or `destroy` was called, or the connection has gone."""
        return self._ending or self._transport is None

    @property
    def writable(self) -> bool:
        """Whether the client can still receive bytes that you write now."""
        return self._transport is not None and not self._ending and not self._peer_left

    @property
    def takes_bytes(self) -> bool:
        """Whether a handler may write bytes as they are: in HTTP/1.1, not over HTTP/2."""
        return True

    @property
    def unsent(self) -> bool:
        """Whether written bytes wait because the client does not read them yet."""
        return has_unsent(self._transport)

    def write(self, data: bytes) -> None:
        """Send *data* as it is.  The connection stays open until you call `end` or `destroy`."""
        if self._may_send(data):
            assert self._transport is not None
            self._transport.write(data)
            if self.bytes_written < _STATUS_LINE_BYTES:
                self._opening += data[: _STATUS_LINE_BYTES - self.bytes_written]
                if line := _STATUS_LINE.match(self._opening):
                    self.status_sent = int(line[1])
            self.bytes_written += len(data)
            if self.status_sent is not None:
                self._count_body(data)

    def _count_body(self, data: bytes) -> None:
        if self._head_end is None:
            self.body_bytes += len(data)
            return
        written = self._head_end + data
        end = written.find(_HEAD_END)
        self._head_end = written[1 - len(_HEAD_END) :] if end < 0 else None
        if end >= 0:
            self.body_bytes = len(written) - end - len(_HEAD_END)

    def respond(self, status: int, body: bytes = b"", headers: ResponseFields = ()) -> None:
        """Send a complete response and `end` the connection.

        ``Connection: close`` and ``Content-Length`` are added.  A body gets the type ``text/plain;
        charset=utf-8`` unless *headers* name another; in answer to HEAD it is left out.  After a
        `write` it only ends the connection: a second response after the bytes of a first would
        corrupt both.

        Args:
            status: A final status, 200 to 999.
            body: The body; its length is set for you.
            headers: More headers, as a mapping or as pairs of name and value.

        Raises:
            ValueError: *status* is not a final one, a header name is not a token, a value holds CR,
                LF or NUL, or a header is one that is added.
        """
        head = closing_head(status, body, headers)
        self.end(b"" if self.bytes_written else head if self._bodiless else head + body)

    def respond_by_default(self, status: int) -> None:
        """Send the default answer to the error, and `end` the connection."""
        self.end(default_answer(status))

    def end(self, data: bytes = b"") -> None:
        """Send *data*, then close so that the client can read all that was written.

        It half-closes (sends FIN) at once.  Then it reads and drops what the client still sends,
        until the client closes, falls silent, or exceeds the limits (``linger_*`` of `Timeouts` and
        `Limits`).
        """
        if self._transport is None or self._ending:
            self._tell_in_vain(data)
            return
        if data and self.headers_sent:
            self.destroy()
            return
        if data:
            self.write(data)
        self._close()

    def _close(self) -> None:
        """Write no more, and close so that the client can read what was written."""
        transport = self._transport
        assert transport is not None
        self._ending = True
        half_close = getattr(transport, "loseWriteConnection", None)
        # A stream of HTTP/2 over TLS is secure, but no TLS itself: it has an input to read on.
        if self._input_ended or half_close is None or ISSLTransport.providedBy(transport):
            # Nothing more can arrive; or it is TLS, which sends close_notify and then reads
            # until the peer has sent it too.  TLS collects small writes, and sends them
            # before it closes only if it is told to close before its producer goes.
            transport.loseConnection()
            self._let_go()
        else:
            self._let_go()
            half_close()
            if getattr(transport, "reading_paused", True):
                transport.resumeProducing()  # a paused one would not see the client's FIN
        if self._transport is not None:  # in memory it may go at once
            self._start_lingering()

    def part(self) -> None:
        """Close an idle connection: at once, unless the client has still bytes to read."""
        transport = self._transport
        if transport is None or self._ending or self.unsent:
            self.end()
            return
        self._ending = True
        transport.loseConnection()
        self._let_go()
        self._close_beneath(transport)

    def destroy(self) -> None:
        """Abort the connection now (reset).  Bytes that were not sent yet are lost."""
        transport = self._transport
        if transport is None:
            return
        if not self._ending:
            self._ending = True
            if _unsent_bytes(transport) >= self.bytes_written:
                self.status_sent, self.body_bytes = None, 0  # none of it will be sent
            self._let_go()
        transport.abortConnection()

    def when_closed(self) -> Deferred[None]:
        """Return a new Deferred that fires with None once the connection has gone.

        It never fails.  Cancelling it affects no other.
        """
        waiter: Deferred[None] = Deferred(self._waiting_no_more)
        if self._transport is None:
            waiter.callback(None)
        else:
            self._waiting = [*(self._waiting or ()), waiter]
        return waiter

    @property
    def _bodiless(self) -> bool:
        """Whether the answer has no body, whatever its head says (RFC 9110, section 9.3.2)."""
        request = self.error.request if self.error is not None else None
        return request is not None and request.method == b"HEAD"

    def _may_send(self, data: bytes) -> bool:
        """Whether *data* can be sent; if not, act on that."""
        if self.headers_sent:
            self.destroy()
        elif not self.writable:
            self._tell_in_vain(data)
        else:
            return True
        return False

    def _tell_in_vain(self, data: bytes) -> None:
        """Log that the answer cannot be sent; closing a lost connection is no mistake."""
        error, gone = self.error, self._peer_left or not self._ending
        if error is None or (gone and (error.quiet or not data)):
            return
        handler_log.answered_in_vain(self.handler, error, late=self.out_of_time, client_gone=gone)

    # Called by the channel.

    def peer_left(self) -> None:
        """The client has gone: nothing that is written from now on can reach it."""
        self._peer_left = True
        self.input_ended()

    def input_ended(self) -> None:
        """The client has sent FIN: a lingering close is over."""
        self._input_ended = True
        transport: Any = self._transport
        if transport is None or not self._ending:
            return
        if self._flushed:  # then both halves are closed, and there is nothing to wait for
            # Through a wrapper this would reach the protocol alone, and leave the socket open.
            transport_beneath(transport).connectionLost(connectionDone)
        else:
            transport.loseConnection()

    def dropped(self, count: int) -> None:
        """*count* bytes arrived and are not parsed."""
        if not self._ending:
            return
        self._heard_at = now = self._deadlines.seconds()
        self._lingered_bytes += count
        if self._lingered_bytes > self._limits.linger_bytes:
            self.destroy()
            self.linger_end = "bytes"
        else:
            self._linger_on(now)

    def flushed(self) -> None:
        """The kernel has all that was written: the client's time to read starts now."""
        self._flushed = True
        if self._ending:
            self._start_lingering()

    def connection_lost(self) -> None:
        """The connection has gone."""
        self._transport = self._release = self._watch_sending = None
        if self._deadline is not None:
            self._deadlines.forget(self._deadline)
        waiting, self._waiting = self._waiting, None
        for waiter in waiting or ():
            waiter.callback(None)

    def _let_go(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()

    def _waiting_no_more(self, waiter: Deferred[None]) -> None:
        if self._waiting is not None and waiter in self._waiting:
            self._waiting.remove(waiter)

    def _start_lingering(self) -> None:
        self.linger_end = "client"
        now = self._deadlines.seconds()
        self._linger_until = now + self._timeouts.linger_seconds
        self._linger_on(now)

    def _linger_on(self, now: float) -> None:
        """Wait on until the client has been silent for too long, or the whole time is over."""
        if self._deadline is None:
            self._deadline = Deadline(self._linger_over)
        silence = now + self._timeouts.linger_silence_seconds
        self._deadlines.set(self._deadline, min(silence, self._linger_until))

    def _linger_over(self) -> None:
        """The client has kept its half open for too long."""
        transport = self._transport
        if transport is None:
            return
        silent_for = self._deadlines.seconds() - self._heard_at
        if silent_for < self._timeouts.linger_silence_seconds:
            # It is still sending: a plain close would reset it all the same.
            self.linger_end = "time"
            transport.abortConnection()
            return
        self.linger_end = "silence"
        # The kernel goes on delivering what we wrote to a client that reads slowly; aborting
        # would cut that short.
        self._close_beneath(transport)

    def _close_beneath(self, transport: Transport) -> None:
        """Close once the kernel has taken everything, and has room for more: Twisted waits for it.

        TLS waits for the peer's close_notify, and a second close does nothing: so the transport
        under it closes.
        """
        if self._watch_sending is not None:
            self._watch_sending()
        transport_beneath(transport).loseConnection()
