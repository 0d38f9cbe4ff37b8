"""What we need a request to do differently, for any request class.

An application brings its own ``requestFactory``; what it makes is given a subclass of its
own class, so that everything else stays the application's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from time import monotonic
from typing import Any, Protocol, runtime_checkable
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
from ..transport.sockets import Meter
from .bodies import BodiesInMemory, BodyRequest, SiteBodyRequest
from .context import SiteContext
from .forms import Form
from .lean import LeanRequest, fits
from .pages import error_page

_log = Logger()


class ClientGone(ConnectionLost, ConnectionDone):
    """The reason a request gets when its client went away; its cause is the `ClientError`.

    Both of Twisted's reasons at once, so that what applications trap today still traps.
    """


@runtime_checkable
class Carrier(Protocol):
    """What carries a request and its response: a `HangupChannel`, or a stream of HTTP/2.

    That is besides what Twisted's own requests ask of a channel.

    Attributes:
        bodies: Counts the bodies in memory, where there can be several at a time.
    """

    bodies: BodiesInMemory | None

    @property
    def context(self) -> SiteContext:
        """What it shares with the site's other carriers."""

    @property
    def request_line(self) -> tuple[bytes, bytes, bytes]:
        """Method, target and version of the last request."""

    def unsent(self, request: Any) -> int:
        """How many bytes of the response of *request*, which is not over, are not sent yet."""

    def deliver(self, request: Any) -> None:
        """Log *request*, which is over, as soon as its response has been sent."""

    @property
    def backed_up(self) -> bool:
        """Whether the client has taken less than was written to it."""

    @property
    def writes_whole_responses(self) -> bool:
        """Whether a response head may be written with the body, and not by ``writeHeaders``."""

    def refuse_request(self, request: Any, status: int) -> None:
        """Answer a well-formed request that no resource may see."""

    def refuse_form(self, why: Why) -> None:
        """The body of the last request is a form that cannot be read: a client error."""

    def request_failed(self, failure: Failure) -> None:
        """The last request raised outside of its resource."""

    def rendered(self, transport: Any) -> None:
        """A resource was asked; *transport* is what ours was before."""

    def cut_response(self, request: Any) -> None:
        """End *request*'s response in the middle, so that the client sees that."""


@runtime_checkable
class UpgradableCarrier(Carrier, Protocol):
    """A carrier that a request may take for another protocol: a connection, and no stream."""

    def upgrade(self, protocol: Any) -> None:
        """Give the connection to *protocol*; `rendered` then gives it what came for it."""


class HangupRequest(Request):
    """Mixed in before a request class, with a `BodyRequest` behind it.

    Once there is nobody to answer any more, whatever an application still does with its
    request does nothing, and no method raises for that.  What nobody else is to know of it has
    names that no application's can meet, as in `BodyRequest`.

    Attributes:
        begun_at: `time.monotonic` of the moment in which the application was asked; None
            before it.
        client_hung_up: Whether the client left before the response was finished.
        gone: Why there is nobody to answer any more, with a `ClientGone` where that is the
            client's doing; None while there is.
    """

    channel: Any  # a Carrier; Twisted asks more of it
    site: Any
    _hangup_form: Form | None
    _hangup_whole: bool
    take_form: Callable[[Form], None]
    begun_at: float | None = None

    #: What `hangup_class` knows as *whole*.
    _hangup_plain = False
    client_hung_up = False
    gone: Failure | None = None

    __was_secure = False
    __logged = False

    @property
    def process_begun(self) -> bool:
        """Whether the application has been asked yet.

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
        """Read a target that is a whole URL as what it means; ``uri`` stays as received."""
        absolute = host_and_path(self.uri)
        if absolute is not None:
            host, self.path = absolute
            self.requestHeaders.setRawHeaders(b"Host", [host])

    def render(self, resource: Any) -> None:
        """Ask *resource*, now or when the one before it has found it; for nobody, do not."""
        if self._disconnected:
            return
        if self.finished:  # by a resource on the way to this one
            super().render(resource)  # type: ignore[misc]
            return
        channel, transport = self.channel, self.channel.transport
        super().render(resource)  # type: ignore[misc]
        channel.rendered(transport)

    def refuse(self, status: int) -> None:
        """Answer *status* without asking the application, and close."""
        self.__take_request_line()
        self.setResponseCode(status)
        self.setHeader(b"Connection", b"close")
        if not self._hangup_error_page(status):
            self.setHeader(b"Content-Length", b"0")
        self.finish()

    # The answers that a site has pages for; each says whether it has been given.

    def _hangup_error_page(self, status: int) -> bool:
        """Write the page for *status*, and nothing after the begin of another response."""
        if self.channel.context.pages is None or self.startedWriting:
            return False
        self.write(error_page(self, status))
        return True

    def _hangup_refuse_method(self, allowed: Iterable[bytes]) -> bool:
        """Answer for a resource that knows only the *allowed* methods, as Twisted would."""
        if self.channel.context.pages is None:
            return False
        known = self.method in supportedMethods
        if known:
            self.setHeader(b"Allow", b", ".join(allowed))
        self._hangup_error_page(NOT_ALLOWED if known else NOT_IMPLEMENTED)
        self.finish()
        return True

    def _hangup_refuse_body(self, resource: object, body: object) -> bool:
        """Answer for a *resource* whose response is no bytes; Twisted would show the request."""
        if self.channel.context.pages is None:
            return False
        words = f"{resource!r} returned {type(body).__name__} and not bytes"
        self.processingFailed(Failure(TypeError(words)))
        return True

    @property
    def _hangup_delivered(self) -> bool:
        """Whether the client has all of the response that its head announced.

        What the application still does before `finish` is no business of the client's.
        """
        return self._hangup_whole and not self.channel.unsent(self)

    def client_left(self, error: ClientError, told: bool = False) -> None:
        """The client went away: tell the access log, and whoever waits for the end.

        Args:
            told: The access log has *error* in the place of this request.
        """
        reason = ClientGone(error.reason)
        reason.__cause__ = error
        self.__logged = told
        if not (told or self._hangup_delivered):
            self.client_hung_up = True
            self.code = CLIENT_LEFT
        self.connectionLost(Failure(reason))

    def log_access(self, status: int) -> None:
        """Write the one line of a request that is not going to be finished to the access log.

        Harmless where it has been written; one that fails disturbs nobody.
        """
        if self.__logged or self.finished:
            return
        self.__logged = True
        self.code = status
        if not self.process_begun:
            self.__take_request_line()
        self.channel.deliver(self)

    def connectionLost(self, reason: Failure) -> None:
        """There is no longer a connection to respond over.

        For a response that was delivered that is no loss: it is as good as finished.
        """
        self.__end(reason, self._hangup_delivered)

    def _hangup_let_go(self) -> None:
        """The application has closed its connection after a whole response, which has ended."""
        self.__end(Failure(CONNECTION_DONE), True)

    def __end(self, reason: Failure, delivered: bool) -> None:
        cut = self.startedWriting or self.client_hung_up
        self.log_access(self.code if cut else NO_RESPONSE)
        if not delivered:
            self.gone = reason
        self.__was_secure = self.isSecure()
        # A callback that forgets another one's Deferred must not disturb the loop below.
        waiting, self.notifications = self.notifications, []
        content = self.content
        if self.process_begun and content is not None:
            # The application may go on reading what the client has sent.
            finalize(self, content.close)
            self.content = None
        if delivered:
            BodyRequest.connectionLost(self, reason)  # type: ignore[arg-type]  # behind us
        else:
            try:
                super().connectionLost(reason)
            except Exception:  # the application's; its connection would never be forgotten
                _log.failure("A request failed when its connection was lost")
        self.content = content
        for waiter in waiting:
            waiter.callback(None) if delivered else fail_quietly(waiter, reason)

    def __take_request_line(self) -> None:
        self.method, self.uri, self.clientproto = self.channel.request_line

    # What the application calls.

    def notifyFinish(self) -> Deferred[None]:
        """A new Deferred that fires when the response is finished, or has been.

        It fails with a `ClientGone` when the client leaves before that, and with another
        reason when the connection is lost otherwise; nothing is logged for a Deferred
        whose failure nobody handles.
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
        """Set the status; one that was logged for a lost response stays."""
        if not self._disconnected:
            super().setResponseCode(*args, **kwargs)

    def finish(self) -> None:
        """The response is complete."""
        if not self._disconnected:
            super().finish()

    def isSecure(self) -> bool:
        """Whether the request came over TLS; the answer is the same when its client has left."""
        return self.__was_secure or bool(super().isSecure())

    def processingFailed(self, reason: Failure) -> Failure:
        """Render the failure, unless a response is on its way: then cut that short.

        Twisted appends its error page to the response that has begun, and keeps the
        connection alive with more bytes on it than were announced.
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
    """The requests of one connection that are over, but for bytes of theirs that wait to be sent.

    Each has its line in the access log when the last of its bytes is taken, or the connection has
    gone.  Until then ``sentLength`` is what was written, and after that what was taken.

    Args:
        meter: Counts the bytes of the connection.

    Attributes:
        undelivered: The requests and their carriers, in the order in which they ended.
    """

    __slots__ = ("_ends", "_meter", "undelivered")

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        #: Where in the output the first of them end; the others end where that ends now.
        self._ends: list[int] = []
        self.undelivered: list[tuple[Any, Any]] = []

    def add(self, request: Any, carrier: Any, end: int) -> None:
        """Let *request* wait until the output has been sent up to *end*."""
        self.mark()
        at = bisect_right(self._ends, end)
        self._ends.insert(at, end)
        self.undelivered.insert(at, (request, carrier))

    def mark(self) -> None:
        """What is written from now on belongs to none of them."""
        if len(self._ends) < len(self.undelivered):
            end = self._meter.taken + self._meter.unsent
            self._ends += [end] * (len(self.undelivered) - len(self._ends))

    def bytes_sent(self) -> None:
        """Log those whose last byte has been taken."""
        if not self._meter.sending:  # all of it
            self.log_all()
            return
        self.mark()
        count = bisect_right(self._ends, self._meter.taken)
        over = self.undelivered[:count]
        del self.undelivered[:count], self._ends[:count]
        for request, carrier in over:
            log(request, carrier)

    def lost(self, hung_up: bool) -> None:
        """The connection has gone: log them all, with what was taken.

        Args:
            hung_up: Whether that was their client's doing.
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
        """Log them as they are."""
        over, self.undelivered, self._ends = self.undelivered, [], []
        for request, carrier in over:
            log(request, carrier)


def log(request: Any, carrier: Any) -> None:
    """Write the line of a request that is over to the access log; if that fails, it is logged.

    Args:
        carrier: What has carried it.  Twisted takes it from a request that is over.
    """
    request.channel = carrier
    try:
        carrier.factory.log(request)
    except Exception:
        _log.failure("Could not write to the access log")
    if request.finished:
        del request.channel
    elif request._disconnected:
        request.channel = None


@lru_cache(maxsize=64)
def hangup_class(
    request_class: type[Any],
    lean: bool = False,
    whole: bool = False,
    forwarded: ForwardedClients | None = None,
) -> type[Any]:
    """The class of *request_class* with `HangupRequest` before it.

    Args:
        lean: Put `LeanRequest` after it as well, if it fits.
        whole: `LeanRequest.run` may take a whole request at once: nobody makes instances but
            us, or has a say in them before their resource.
        forwarded: Names the client of each.
    """
    if issubclass(request_class, HangupRequest):
        return request_class
    bases: list[type[Any]] = [HangupRequest]
    if request_class not in (Request, server.Request):  # which stand at the end anyway
        bases.append(request_class)
    names: dict[str, object] = {
        "__module__": request_class.__module__,
        "__qualname__": request_class.__qualname__,
    }
    if lean and fits(request_class):
        bases.append(LeanRequest)
        names["_hangup_plain"] = whole
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
    """Wrap a site's ``requestFactory`` so that what it makes is a `HangupRequest`.

    Args:
        lean: Whether a `LeanRequest` may be behind it; see `is_stock`.
        whole: Whether nobody but the request has a say in it; see `LeanRequest.run`.
        forwarded: Names the client of each.

    Returns:
        A callable of ``(channel, queued)``, whether *factory* takes the second or not.  It raises
        TypeError where *factory* makes anything but requests.
    """
    alone = INonQueuedRequestFactory.providedBy(factory)
    if isinstance(factory, type) and not alone:
        return hangup_class(factory, lean, whole, forwarded)

    def make_request(channel: Any, queued: object) -> Any:
        request = factory(channel) if alone else factory(channel, queued)
        request_class: type[Any] = type(request)
        if Request not in request_class.__mro__:
            raise TypeError(f"requestFactory {factory!r} made {request!r}, no http.Request")
        if forwarded is not None:
            request._hangup_peer = request.client
        request.__class__ = hangup_class(request_class, lean, forwarded=forwarded)  # type: ignore[arg-type]  # mypy#5261
        return request

    return make_request
