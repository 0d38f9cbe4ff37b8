"""What we need a request to do differently, for any request class.

An application brings its own ``requestFactory``; what it makes is given a subclass of its
own class, so that everything else stays the application's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.iweb import INonQueuedRequestFactory

from .errors import ClientError

#: nginx's "client closed request": the status that the access log gives such a request.
CLIENT_LEFT: Final = 499

_log = Logger()


class ClientGone(ConnectionLost, ConnectionDone):
    """The reason a request gets when its client went away; its cause is the `ClientError`.

    Both of Twisted's reasons at once, so that what applications trap today still traps.
    """


class HangupRequest(Request):
    """Mixed in before a request class.

    Attributes:
        process_begun: Whether the application has been asked yet.  An exception before
            that comes from parsing what the client sent.
        client_hung_up: Whether the client left before the response was finished.
    """

    channel: Any  # a HangupChannel, which stands on the floor above
    process_begun = False
    client_hung_up = False

    def process(self) -> None:
        self.process_begun = True
        super().process()

    def render(self, resource: Any) -> None:
        """Ask *resource*, now or when the one before it has found it."""
        channel, transport = self.channel, self.channel.transport
        super().render(resource)  # type: ignore[misc]
        if hasattr(channel, "rendered"):  # a stream of HTTP/2 is never upgraded
            channel.rendered(transport)

    def refuse(self, status: int) -> None:
        """Answer *status* without asking the application, and close."""
        self.setResponseCode(status)
        self.setHeader(b"Connection", b"close")
        self.setHeader(b"Content-Length", b"0")
        self.finish()

    def client_left(self, error: ClientError) -> None:
        """The client went away: tell the access log, and whoever waits for the end."""
        gone = ClientGone(error.reason)
        gone.__cause__ = error
        if self.process_begun:
            self.client_hung_up = True
            self.code = CLIENT_LEFT
            self.channel.factory.log(self)
        self.connectionLost(Failure(gone))

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
        else:
            return super().processingFailed(reason)  # type: ignore[misc,no-any-return]
        return reason


@lru_cache(maxsize=64)
def hangup_class(request_class: type[Any]) -> type[Any]:
    """The class of *request_class* with `HangupRequest` in front of it."""
    if issubclass(request_class, HangupRequest):
        return request_class
    name = request_class.__name__
    return type(
        name,
        (HangupRequest, request_class),
        {"__module__": request_class.__module__, "__qualname__": request_class.__qualname__},
    )


def hangup_factory(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a site's ``requestFactory`` so that what it makes is a `HangupRequest`.

    Returns:
        A callable of ``(channel, queued)``, whether *factory* takes the second or not.
    """
    alone = INonQueuedRequestFactory.providedBy(factory)
    if isinstance(factory, type) and not alone:
        return hangup_class(factory)

    def make_request(channel: Any, queued: object) -> Any:
        request = factory(channel) if alone else factory(channel, queued)
        made: type[Any] = type(request)
        request.__class__ = hangup_class(made)  # type: ignore[arg-type]  # mypy#5261
        return request

    return make_request
