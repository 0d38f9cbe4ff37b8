"""`HangupWSGIResource`: WSGI applications that notice when their client leaves."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from inspect import isasyncgenfunction, iscoroutinefunction
from io import SEEK_END
from threading import Event
from types import SimpleNamespace
from typing import Any, Final

from twisted.internet.interfaces import IPushProducer, IReactorFromThreads
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.web.http import INTERNAL_SERVER_ERROR
from twisted.web.resource import IResource
from twisted.web.wsgi import WSGIResource
from zope.interface import implementer

from ._arguments import must_have, must_take

#: Key in the WSGI environment: a `threading.Event` that is set when the client has left.
CLIENT_GONE: Final = "twisted_hangup.client_gone"


class _NobodyReads(BrokenPipeError):
    """Raised by ``write()`` in an application whose client has left."""


@implementer(IResource)
class HangupWSGIResource:
    """Twisted's `WSGIResource`, for applications whose clients may leave.

    Use it in place of `WSGIResource`; it takes the same arguments.  A thread cannot be cancelled,
    so a long response checks whether its client is still there:

        def application(environ, start_response):
            gone = environ["twisted_hangup.client_gone"]    # a threading.Event
            start_response("200 OK", [])
            for row in rows():
                if gone.is_set():       # or gone.wait(seconds), instead of sleeping
                    break
                yield row

    An application that does not check is stopped where that is possible.  When the client has left,
    an application that waits for a thread is not called, the next piece of a response is not asked
    for, and ``write()`` raises BrokenPipeError (which is not logged).  ``close()`` of the returned
    iterable is always called, also after errors (PEP 3333).  If the client reads slowly, the
    application and its thread wait for it.

    The body arrives completely before the application is called.  So ``CONTENT_LENGTH`` is its
    length even if the client announced none (a chunked body, or HTTP/2), ``wsgi.input`` ends with
    it (``wsgi.input_terminated``), and there is no ``HTTP_TRANSFER_ENCODING``.

    Args:
        reactor: The reactor that runs the site.
        threadpool: The threads in which the application is called.
        application: The WSGI application.

    Raises:
        TypeError: *application* is not a WSGI application.
    """

    isLeaf = True

    def __init__(
        self, reactor: IReactorFromThreads, threadpool: ThreadPool, application: Callable[..., Any]
    ) -> None:
        must_have("reactor", reactor, "a reactor", ("callFromThread",))
        must_have("threadpool", threadpool, "a ThreadPool", ("callInThreadWithCallback",))
        must_be_wsgi("application", application)
        self._reactor = reactor
        self._threadpool = threadpool
        self._application = application

    def render(self, request: Any) -> Any:
        """Call the application in a thread."""
        call = _Call(self._application, request, self._reactor)
        request.notifyFinish().addCallbacks(call.over, call.client_left)
        with _numbered(request):
            not_done = WSGIResource(self._reactor, self._threadpool, call).render(request)
        request.registerProducer(call, True)  # not where that has raised
        return not_done

    def getChildWithDefault(self, name: bytes, request: Any) -> IResource:
        raise RuntimeError("a WSGI application has no child resources")

    def putChild(self, path: bytes, child: IResource) -> None:
        raise RuntimeError("a WSGI application has no child resources")


def must_be_wsgi(name: str, application: object) -> None:
    """Raise TypeError unless *application* can be called as in PEP 3333."""
    call = getattr(type(application), "__call__", None)  # noqa: B004 (of an object's class)
    if any(map(iscoroutinefunction, (application, call))) or isasyncgenfunction(application):
        raise TypeError(
            f"{name} must be a WSGI application, not a coroutine function: ASGI is not supported"
        )
    must_take(name, application, "environ", "start_response", classes=True, yields=True)


@contextmanager
def _numbered(request: Any) -> Iterator[None]:
    """Give *request* addresses with host and port, which Twisted reads.

    PEP 3333: SERVER_NAME and SERVER_PORT are never empty.  A UNIX socket has neither, and its
    client has no REMOTE_ADDR.
    """
    changed: dict[str, Any] = {}
    if not hasattr(request.client, "port"):
        changed["client"] = SimpleNamespace(host="", port="")
    if not hasattr(request.host, "port"):
        port = 443 if request.isSecure() else 80
        changed["host"] = SimpleNamespace(host="localhost", port=port)
    kept = {name: getattr(request, name) for name in changed}
    for name, address in changed.items():
        setattr(request, name, address)
    try:
        yield
    finally:
        for name, address in kept.items():
            setattr(request, name, address)


@implementer(IPushProducer)
class _Call:
    """One call of an application; it is a WSGI application itself.

    Its thread waits while the client does not read: Twisted would keep all that the application
    writes in memory.
    """

    def __init__(
        self, application: Callable[..., Any], request: Any, reactor: IReactorFromThreads
    ) -> None:
        self._application = application
        self._request = request
        self._reactor = reactor
        self._gone = Event()
        self._room = Event()
        self._room.set()
        # Now: while the application runs, the content belongs to its thread.
        content = request.content
        content.seek(0, SEEK_END)
        self._body_bytes: int = content.tell()
        content.seek(0)

    # Called in the reactor's thread.

    def client_left(self, failure: Failure) -> None:
        self._gone.set()
        self._room.set()

    def over(self, _: object) -> None:
        """The client has the whole response: the application may finish its work."""
        self._room.set()

    def pauseProducing(self) -> None:
        self._room.clear()

    def resumeProducing(self) -> None:
        self._room.set()

    def stopProducing(self) -> None:
        """Nothing to do: the request reports its end next."""

    def _done(self, failed: bool) -> None:
        """The application has returned, with an exception or without."""
        if not self._gone.is_set():
            self._request.unregisterProducer()
            page = getattr(self._request, "_hangup_error_page", None)  # a stock Site has none
            if failed and page is not None:
                page(INTERNAL_SERVER_ERROR)  # Twisted leaves the body empty

    # Called in the application's thread.

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if self._gone.is_set():
            return ()

        def start(*arguments: Any) -> Callable[[bytes], None]:
            write = start_response(*arguments)

            def checked(data: bytes) -> None:
                if self._nobody_waits():
                    raise _NobodyReads(errno.EPIPE, "the client has left")
                write(data)

            return checked

        environ[CLIENT_GONE] = self._gone
        environ["wsgi.input_terminated"] = True
        # RFC 9112, section 7.1.3: what a recipient that decodes the chunks has to do.
        chunked = environ.pop("HTTP_TRANSFER_ENCODING", None) is not None
        if not environ["CONTENT_LENGTH"] and (self._body_bytes or chunked):
            environ["CONTENT_LENGTH"] = str(self._body_bytes)
        return self._checked(environ, start)

    def _checked(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        """The response, until the application ends it, or fails."""
        failed = True
        try:
            yield from self._pieces(self._application(environ, start))
            failed = False
        except _NobodyReads:
            failed = False
        finally:
            # Before Twisted finishes the request.
            self._reactor.callFromThread(self._done, failed)

    def _pieces(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """The application's pieces, as long as the client is there."""
        try:
            pieces = iter(body)
            while not self._nobody_waits():
                try:
                    piece = next(pieces)
                except StopIteration:
                    break
                yield piece
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def _nobody_waits(self) -> bool:
        """Wait until the client reads on; returns whether it has left instead."""
        self._room.wait()
        return self._gone.is_set()
