"""`AsyncResource`: a resource whose methods may be ``async def``."""

from __future__ import annotations

from inspect import iscoroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from .cancel import cancellation_in


class AsyncResource(Resource):
    """A resource whose ``render`` methods may be coroutines, or return Deferreds.

        class Report(AsyncResource):
            async def render_GET(self, request):
                return await make_report()

    Such a method returns one of these in the end:

    - bytes, or str (sent as UTF-8): the body, or the rest of it if the method has written before.
      ``Content-Length`` is set, and a HEAD request gets only the head.
    - None: the method has written everything; the response is then finished.
    - ``NOT_DONE_YET``: you finish the response elsewhere.

    An exception goes to ``request.processingFailed``.  It is logged once.  The client gets a 500;
    if the response has begun, it is cut short so that the client can tell.

    When the client leaves, the work goes on and its result is dropped, unless the method is
    `cancellable`.  The cancellation is not logged; any other error is, once.

    Its requests have to come from a `HangupSite`, or from a site with `forward_client_errors`.
    """

    def __init__(self) -> None:  # Twisted's has no types
        super().__init__()

    def render(self, request: Any) -> Any:
        """Call the method for this request, and answer with what it returns."""
        result = super().render(request)
        if iscoroutine(result):
            result = Deferred.fromCoroutine(result)
        if not isinstance(result, Deferred):
            return result
        result.addCallback(_respond, request).addErrback(_ebFailed, request)
        return NOT_DONE_YET


def _respond(result: object, request: Any) -> None:
    """Send *result* as the rest of the response."""
    if result is NOT_DONE_YET:
        return
    if isinstance(result, str):
        result = result.encode()
        if not request.responseHeaders.hasHeader(b"Content-Type"):
            request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
    if isinstance(result, bytes):
        if not request.startedWriting and request.code not in NO_BODY_CODES:
            request.setHeader(b"Content-Length", b"%d" % len(result))
        request.write(result)  # a HEAD request gets nothing
    elif result is not None:
        raise TypeError(f"a render method returned {type(result).__name__}, not bytes, str or None")
    if not request.finished:
        request.finish()


def _ebFailed(failure: Failure, request: Any) -> None:
    """Answer for the method's exception, unless it was cancelled because the client left."""
    if not (request.client_hung_up and cancellation_in(failure.value)):
        request.processingFailed(failure)
