"""What we change in a request, for any request class.

An application brings its own ``requestFactory``.  Each request that it makes gets a subclass of its
own class, so that everything else stays the application's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from time import monotonic
from typing import Any, Final, Protocol, runtime_checkable
from weakref import finalize

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.main import CONNECTION_DONE
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import INTERNAL_SERVER_ERROR, NOT_ALLOWED, NOT_IMPLEMENTED, Request
from twisted.web.iweb import INonQueuedRequestFactory
from twisted.web.server import supportedMethods

from .._defer import fail_quietly
from ..errors import CLIENT_LEFT, NO_RESPONSE, ClientError
from ..parser.refusals import Why
from ..parser.target import host_and_path
from ..transport.forwarded import ForwardedClients, NamedClient
from ..transport.sendfile import file_socket
from ..transport.sockets import Meter, TellingSocket
from .bodies import BodiesInMemory, BodyRequest, SiteBodyRequest
from .context import SiteContext
from .forms import Form
from .lean import LeanRequest, fits
from .pages import error_page

#: The methods of a request that its body goes through, and those that run before its resource.
_BEFORE_RESOURCE: Final = attrgetter(
    "gotLength", "handleContentChunk", "requestReceived", "process", "render"
)

_log = Logger()


class ClientGone(ConnectionLost, ConnectionDone):
    """Why ``notifyFinish()`` fails when the client left; ``__cause__`` is the `ClientError`.

    It is an instance of both of Twisted's reasons, so code that traps those goes on working.
    """


@runtime_checkable
class Carrier(Protocol):
    """What carries a request and its response: a `HangupChannel`, or an HTTP/2 stream.

    These come in addition to what Twisted's own requests use of a channel.

    Attributes:
        bodies: Counts the bodies in memory; None if there is only one at a time.
    """

    bodies: BodiesInMemory | None

    @property
    def context(self) -> SiteContext:
        """What all carriers of the site share."""

    @property
    def request_line(self) -> tuple[bytes, bytes, bytes]:
        """Method, target and version of the last request."""

    def unsent(self, request: Any) -> int:
        """How many bytes of the response of *request*, which is not over, are not sent yet."""

    def deliver(self, request: Any) -> None:
        """Log *request*, which is over, once its response has been sent."""

    @property
    def backed_up(self) -> bool:
        """Whether the client reads more slowly than we write."""

    @property
    def writes_whole_responses(self) -> bool:
        """Whether a head may be written in one piece with the body, without ``writeHeaders``."""

    def refuse_request(self, request: Any, status: int) -> None:
        """Answer a well-formed request that no resource may see."""

    def refuse_form(self, why: Why) -> None:
        """The last request's form cannot be read: report a client error."""

    def request_failed(self, failure: Failure) -> None:
        """The last request raised outside of its resource."""

    def streaming(self, request: Any) -> None:
        """The resource of *request* is about to be asked, though its body is still coming."""

    def pause_body(self) -> None:
        """Read no more of that body until `resume_body`; the client has all the time it needs."""

    def resume_body(self) -> None:
        """Read on."""

    def rendered(self, transport: Any) -> None:
        """A resource was rendered; *transport* is our transport before that."""

    def cut_response(self, request: Any) -> None:
        """Break off *request*'s response so that the client sees that it is incomplete."""


@runtime_checkable
class UpgradableCarrier(Carrier, Protocol):
    """A carrier that a request can give to another protocol: a connection, not a stream."""

    def upgrade(self, protocol: Any) -> None:
        """Give the connection to *protocol*, an `IHalfCloseableProtocol`, as a tunnel.

        `rendered` then gives it the bytes after the request.
        """


class HangupRequest(Request):
    """Comes before a request class, with a `BodyRequest` after it.

    Once nobody waits for the response, the application's calls on the request do nothing and
    raise nothing.  Private names begin with ``_hangup``, or with two underscores as in
    `BodyRequest`, so that they do not collide with an application's.

    Attributes:
        begun_at: `time.monotonic` when the application got the request; None before that.
        client_hung_up: Whether the client left before the response was finished.
        gone: Why nobody waits for the response, with a `ClientGone` if the client left; None while
            somebody does.
    """

    channel: Any  # a Carrier; Twisted uses more of it
    site: Any
    _hangup_form: Form | None
    _hangup_whole: bool
    take_form: Callable[[Form], None]
    begun_at: float | None = None
    _encoder: Any

    #: The argument *whole* of `hangup_class`.
    _hangup_plain = False
    client_hung_up = False
    gone: Failure | None = None

    #: Called, before those who use `notifyFinish`, if nobody waits for the response any more.
    _hangup_lost: Callable[[], object] | None = None

    __was_secure = False
    __logged = False

    @property
    def process_begun(self) -> bool:
        """Whether the application has got the request.

        An exception before that comes from parsing what the client sent.
        """
        return self.begun_at is not None

    def process(self) -> None:
        self.begun_at = monotonic()
        if not self.path.startswith(b"/"):
            self.__take_absolute_form()
        if self._hangup_form is not None:
            self.take_form(self._hangup_form)
        super().process()

    def __take_absolute_form(self) -> None:
        """Read a target in absolute form (RFC 9112, section 3.2.2); ``uri`` stays as received."""
        absolute = host_and_path(self.uri)
        if absolute is not None:
            host, self.path = absolute
            self.requestHeaders.setRawHeaders(b"Host", [host])

    def render(self, resource: Any) -> None:
        """Render *resource*, unless nobody waits for the response any more."""
        if self._disconnected:
            return
        if self.finished:  # by a resource on the way to this one
            super().render(resource)  # type: ignore[misc]
            return
        channel, transport = self.channel, self.channel.transport
        super().render(resource)  # type: ignore[misc]
        channel.rendered(transport)

    def refuse(self, status: int) -> None:
        """Answer *status* without the application, and close."""
        self.__take_request_line()
        self.setResponseCode(status)
        self.setHeader(b"Connection", b"close")
        if not self._hangup_error_page(status):
            self.setHeader(b"Content-Length", b"0")
        self.finish()

    # Answers for which a site may have pages; each returns whether it was given.

    def _hangup_error_page(self, status: int) -> bool:
        """Write the page for *status*, unless a response has begun."""
        if self.channel.context.pages is None or self.startedWriting:
            return False
        self.write(error_page(self, status))
        return True

    def _hangup_refuse_method(self, allowed: Iterable[bytes]) -> bool:
        """Answer 405 or 501 for a resource with these *allowed* methods, as Twisted would."""
        if self.channel.context.pages is None:
            return False
        known = self.method in supportedMethods
        if known:
            self.setHeader(b"Allow", b", ".join(allowed))
        self._hangup_error_page(NOT_ALLOWED if known else NOT_IMPLEMENTED)
        self.finish()
        return True

    def _hangup_refuse_body(self, resource: object, body: object) -> bool:
        """Answer for a *resource* that returned no bytes; Twisted's page shows the request."""
        if self.channel.context.pages is None:
            return False
        words = f"{resource!r} returned {type(body).__name__} and not bytes"
        self.processingFailed(Failure(TypeError(words)))
        return True

    @property
    def _hangup_delivered(self) -> bool:
        """Whether the client has received all of the response that its head announced.

        The application may not have called `finish` yet; the client cannot know that.
        """
        return self._hangup_whole and not self.channel.unsent(self)

    @property
    def _hangup_file_socket(self) -> TellingSocket | None:
        """The socket that parts of a file can be sent on as the body, without `write`.

        None if somebody has a say in what is written, or it is not sent as it is.
        """
        if (
            getattr(self.write, "__func__", None) is not LeanRequest.write
            or self._encoder
            or not self.channel.writes_whole_responses
        ):
            return None
        return file_socket(self.channel.transport)

    def client_left(self, error: ClientError, told: bool = False) -> None:
        """The client left: report it to the access log, and to those who wait for the end.

        Args:
            told: Whether the access log has a line for *error* in place of this request.
        """
        reason = ClientGone(error.reason)
        reason.__cause__ = error
        self.__logged = told
        if not (told or self._hangup_delivered):
            self.client_hung_up = True
            self.code = CLIENT_LEFT
        self.connectionLost(Failure(reason))

    def log_access(self, status: int) -> None:
        """Write the access log's line for a request that will not be finished.

        Harmless if the line was written before; an exception is logged.
        """
        if self.__logged or self.finished:
            return
        self.__logged = True
        self.code = status
        if not self.process_begun:
            self.__take_request_line()
        self.channel.deliver(self)

    def connectionLost(self, reason: Failure) -> None:
        """The connection has gone.

        If the response was delivered, nothing is lost: the request counts as finished.
        """
        self.__end(reason, self._hangup_delivered)

    def _hangup_let_go(self) -> None:
        """The application has closed its connection after a complete response: finish that."""
        self.__end(Failure(CONNECTION_DONE), True)

    def __end(self, reason: Failure, delivered: bool) -> None:
        cut = self.startedWriting or self.client_hung_up
        self.log_access(self.code if cut else NO_RESPONSE)
        if not delivered:
            self.gone = reason
        self.__was_secure = self.isSecure()
        # A callback may drop another callback's Deferred; the loop below must not notice.
        waiting, self.notifications = self.notifications, []
        content = self.content
        if self.process_begun and content is not None:
            # The application may go on reading what the client has sent.
            finalize(self, content.close)
            self.content = None
        if delivered:
            BodyRequest.connectionLost(self, reason)  # type: ignore[arg-type]  # our base class
        else:
            try:
                super().connectionLost(reason)
            except Exception:  # the application's; else its connection would never be forgotten
                _log.failure("A request failed when its connection was lost")
        self.content = content
        lost, self._hangup_lost = self._hangup_lost, None
        if lost is not None and not delivered:
            lost()
        for waiter in waiting:
            waiter.callback(None) if delivered else fail_quietly(waiter, reason)

    def __take_request_line(self) -> None:
        self.method, self.uri, self.clientproto = self.channel.request_line

    # Called by the application.

    def notifyFinish(self) -> Deferred[None]:
        """A new Deferred that fires with None when the response is finished, or was before.

        It fails with a `ClientGone` if the client leaves before that, and with another reason if
        the connection is lost otherwise.  A failure that you do not handle is not logged.
        """
        if self.gone is not None:
            waiter: Deferred[None] = Deferred()
            fail_quietly(waiter, self.gone)
            return waiter
        if self.finished or self._disconnected:
            return succeed(None)
        return super().notifyFinish()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let *producer* write the response; it is stopped at once if nobody waits for it."""
        if self._disconnected:
            producer.stopProducing()  # as Twisted's transports do
        else:
            super().registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """The producer is done."""
        if self._disconnected:
            self.producer = None
        else:
            super().unregisterProducer()

    def setResponseCode(self, *args: Any, **kwargs: Any) -> None:
        """Set the status.  After the request was logged as lost, the logged status stays."""
        if not self._disconnected:
            super().setResponseCode(*args, **kwargs)

    def finish(self) -> None:
        """The response is complete."""
        if not self._disconnected:
            super().finish()

    def isSecure(self) -> bool:
        """Whether the request came over TLS; the answer stays when the client has left."""
        return self.__was_secure or bool(super().isSecure())

    def processingFailed(self, reason: Failure) -> Failure:
        """Answer 500 for the exception, or cut the response short if it has begun.

        Twisted appends its error page to the response that has begun, and keeps the connection
        alive with more bytes on it than the head announced.
        """
        if self._disconnected or self.finished:
            _log.failure("The resource failed when nobody waited for it any more", reason)
        elif self.startedWriting:
            _log.failure("The resource failed after its response had begun", reason)
            self.channel.cut_response(self)
        elif self.channel.context.pages is not None and not self.site.displayTracebacks:
            self._log.failure("", reason)  # as Twisted does
            self._hangup_error_page(INTERNAL_SERVER_ERROR)
            self.finish()
        else:
            return super().processingFailed(reason)  # type: ignore[misc,no-any-return]
        return reason


class Undelivered:
    """The finished requests of one connection whose last bytes still wait to be sent.

    The access log gets a request's line when its last byte is sent, or the connection has gone.
    Until then ``sentLength`` counts the bytes written, after that the bytes sent.

    Args:
        meter: Counts the bytes of the connection.

    Attributes:
        undelivered: The requests and their carriers, in the order in which they ended.
    """

    __slots__ = ("_ends", "_meter", "undelivered")

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        #: Where the first request's bytes end in the output; the others' end where it ends now.
        #: No list of its own while there are none: a connection that is idle keeps this.
        self._ends: Sequence[int] = ()
        self.undelivered: list[tuple[Any, Any]] = []

    def add(self, request: Any, carrier: Any, end: int) -> None:
        """Log *request* once the output has been sent up to *end*."""
        self.mark()
        at = bisect_right(self._ends, end)
        self._ends = [*self._ends[:at], end, *self._ends[at:]]
        self.undelivered.insert(at, (request, carrier))

    def mark(self) -> None:
        """Bytes that are written from now on belong to none of the requests."""
        if len(self._ends) < len(self.undelivered):
            end = self._meter.taken + self._meter.unsent
            ends: list[int] = self._ends if isinstance(self._ends, list) else []
            ends += [end] * (len(self.undelivered) - len(ends))
            self._ends = ends

    def bytes_sent(self) -> None:
        """Log the requests whose last byte is sent."""
        if not self._meter.sending:  # all of it
            self.log_all()
            return
        self.mark()
        count = bisect_right(self._ends, self._meter.taken)
        over = self.undelivered[:count]
        del self.undelivered[:count]
        self._ends = self._ends[count:]
        for request, carrier in over:
            log(request, carrier)

    def lost(self, hung_up: bool) -> None:
        """The connection has gone: log all requests, with the bytes that were sent.

        Args:
            hung_up: Whether the client hung up.
        """
        self.mark()
        taken = self._meter.taken
        for (request, _), end in zip(self.undelivered, self._ends, strict=True):
            if end > taken:
                request.sentLength = max(0, request.sentLength - (end - taken))
                if hung_up:
                    request.code = CLIENT_LEFT
        self.log_all()

    def log_all(self) -> None:
        """Log the requests as they are."""
        over, self.undelivered, self._ends = self.undelivered, [], ()
        for request, carrier in over:
            log(request, carrier)


def log(request: Any, carrier: Any) -> None:
    """Write the access log's line for a request that is over; if that fails, log the failure.

    Args:
        carrier: The request's carrier.  Twisted removes it from a request that is over.
    """
    own = getattr(request, "channel", None)
    request.channel = carrier
    try:
        carrier.factory.log(request)
    except Exception:
        _log.failure("Could not write to the access log")
    if own is not None:
        request.channel = own  # its finish() has not returned, which removes it
    elif request.finished:
        del request.channel
    else:
        request.channel = None


@lru_cache(maxsize=64)
def hangup_class(
    request_class: type[Any],
    lean: bool = False,
    whole: bool = False,
    forwarded: ForwardedClients | None = None,
) -> type[Any]:
    """A subclass of *request_class* with `HangupRequest` before it.

    Args:
        lean: Put `LeanRequest` after it as well, if it fits.
        whole: `LeanRequest.run` may answer a complete request in one call: only we make instances,
            and nothing else touches them before their resource.
        forwarded: Names the client of each request.
    """
    if issubclass(request_class, HangupRequest):
        return request_class
    bases: list[type[Any]] = [HangupRequest]
    if request_class not in (Request, server.Request):  # they are the last bases anyway
        bases.append(request_class)
    names: dict[str, object] = {
        "__module__": request_class.__module__,
        "__qualname__": request_class.__qualname__,
    }
    if issubclass(request_class, server.Request):
        own = _BEFORE_RESOURCE(request_class)
        names["_hangup_may_stream"] = own == _BEFORE_RESOURCE(server.Request)
    if lean and fits(request_class):
        bases.append(LeanRequest)
        names["_hangup_plain"] = whole
        if request_class is server.Request:
            names["finish"] = LeanRequest.finish  # no class comes between ours and this one
    if forwarded is not None:
        bases.append(NamedClient)
        names["_hangup_clients"] = forwarded
    bases.append(SiteBodyRequest if issubclass(request_class, server.Request) else BodyRequest)
    return type(request_class.__name__, tuple(bases), names)


def hangup_factory(
    factory: Callable[..., Any],
    lean: bool,
    whole: bool = False,
    forwarded: ForwardedClients | None = None,
) -> Callable[..., Any]:
    """Wrap a site's ``requestFactory`` so that it makes `HangupRequest` objects.

    Args:
        lean: Whether `LeanRequest` may come after the class; see `is_stock`.
        whole: Whether a request may be answered in one call; see `LeanRequest.run`.
        forwarded: Names the client of each request.

    Returns:
        A callable of ``(channel, queued)``, even if *factory* does not take the second argument.
        It raises TypeError if *factory* makes something that is not a request.
    """
    alone = INonQueuedRequestFactory.providedBy(factory)
    if isinstance(factory, type) and not alone:
        return hangup_class(factory, lean, whole, forwarded)

    def make_request(channel: Any, queued: object) -> Any:
        request = factory(channel) if alone else factory(channel, queued)
        request_class: type[Any] = type(request)
        if Request not in request_class.__mro__:
            raise TypeError(f"requestFactory {factory!r} made {request!r}, not an http.Request")
        if forwarded is not None:
            request._hangup_peer = request.client
        request.__class__ = hangup_class(request_class, lean, forwarded=forwarded)  # type: ignore[arg-type]  # mypy#5261
        return request

    return make_request
