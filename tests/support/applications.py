"""What applications do with Twisted's requests: resources, request classes and sites."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.python.components import registerAdapter
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.error import UnsupportedMethod
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.http_headers import Headers
from twisted.web.iweb import INonQueuedRequestFactory
from twisted.web.resource import EncodingResourceWrapper, IResource, NoResource, Resource
from twisted.web.rewrite import RewriterResource
from twisted.web.server import NOT_DONE_YET, GzipEncoderFactory, Request, Site
from twisted.web.static import Data, File
from twisted.web.template import Element, XMLString, renderElement, renderer
from twisted.web.util import DeferredResource, Redirect, redirectTo
from twisted.web.vhost import NameVirtualHost
from twisted.web.wsgi import WSGIResource
from zope.interface import Interface, implementer, provider

from support.conversations import (
    IN_DICTIONARY,
    PatientClock,
    logged,
    meet,
    note,
    plain,
    remains,
    view,
    when_all_is_sent,
)

#: What passes until something happens later, in seconds.
TICK: Final = 0.01

# What a resource does.  Each is the ``render`` of a leaf.

Answer = Callable[[Any], Any]
ANSWERS: Final[dict[str, Answer]] = {}


def answer(function: Answer) -> Answer:
    ANSWERS[function.__name__] = function
    return function


def later(request: Any, call: Callable[[], object], ticks: float = 1) -> int:
    """Call *call* a little later, on the site's clock."""
    request.channel.site.reactor.callLater(ticks * TICK, call)
    return NOT_DONE_YET


@answer
def nothing_looked_at(request: Any) -> bytes:
    return b"hello"


@answer
def no_bytes(request: Any) -> bytes:
    return b""


@answer
def many_bytes(request: Any) -> bytes:
    return b"0123456789abcdef" * 6000


@answer
def viewed(request: Any) -> bytes:
    note("saw", view(request))
    return b"hello"


@answer
def viewed_later(request: Any) -> int:
    def go_on() -> None:
        note("saw", view(request))
        request.write(b"hello")
        note("saw", view(request))
        request.finish()

    return later(request, go_on)


@answer
def content_read(request: Any) -> bytes:
    content = request.content.read()
    note("read", content, request.content.tell())
    request.content.seek(0)
    return bytes(content + request.content.read(3))


@answer
def content_kept(request: Any) -> int:
    """The file that was there at first is the one that is there later."""
    content = request.content

    def go_on() -> None:
        note("kept", request.content is content, content.read())
        request.finish()
        note("closed", content.closed)

    return later(request, go_on)


@answer
def headers_kept(request: Any) -> bytes:
    """What is looked at twice is the same object, and keeps what is changed in it."""
    request.requestHeaders.addRawHeader(b"x-mine", b"1")
    request.requestHeaders.getRawHeaders(b"host", []).append(b"mine")
    request.received_cookies[b"mine"] = b"1"
    request.prepath.append(b"mine")
    request.args[b"mine"] = [b"1"]
    waiter: Deferred[None] = Deferred()
    request.notifications.append(waiter)
    waiter.addBoth(lambda result: note("notified", result))
    note("kept", request.getHeader("X-Mine"), request.getAllHeaders(), request.getCookie(b"mine"))
    note("args", request.args)
    return b"hello"


@answer
def headers_replaced(request: Any) -> bytes:
    request.requestHeaders = Headers({b"x-other": [b"1"]})
    request.received_cookies = {b"a": b"other"}
    request.responseHeaders = Headers({b"x-replaced": [b"1"]})
    request.content = BytesIO(b"other")
    request.cookies = [b"c=d"]
    note("replaced", view(request))
    return b"hello"


@answer
def attributes_deleted(request: Any) -> bytes:
    """The request's own dictionary can be changed, too."""
    vars(request)["mine"] = 1
    vars(request)["method"] = b"PUT"
    del request.received_cookies, request.args
    note("deleted", request.mine, request.method, hasattr(request, "received_cookies"))
    note("deleted", request.args)
    vars(request)["method"] = b"GET"
    return b"hello"


@answer
def copied(request: Any) -> bytes:
    other = copy.copy(request)
    note("copied", view(other), type(other) is type(request))
    other.setHeader(b"x-copy", b"1")
    state = request.getStateToCopyFor(None)
    note("state", {name: state.get(name) for name in (*IN_DICTIONARY, "content_data", "remote")})
    return b"hello"


@answer
def answered_by_copy(request: Any) -> int:
    copy.copy(request).write(b"hello")
    request.write(b" again")
    request.finish()
    return NOT_DONE_YET


@answer
def written(request: Any) -> int:
    request.write(b"one")
    request.finish()
    return NOT_DONE_YET


@answer
def written_often(request: Any) -> int:
    request.write(b"")
    for piece in (b"one", b"", b"two", b"x" * 3000):
        request.write(piece)
    request.finish()
    return NOT_DONE_YET


@answer
def finished_only(request: Any) -> int:
    request.finish()
    return NOT_DONE_YET


@answer
def finished_later(request: Any) -> int:
    return later(request, request.finish)


@answer
def written_later(request: Any) -> int:
    later(request, lambda: request.write(b"one"), 0)
    later(request, lambda: request.write(b"two"), 1)
    later(request, lambda: request.write(b""), 2)
    return later(request, request.finish, 3)


@answer
def written_now_and_later(request: Any) -> int:
    request.setHeader(b"Content-Length", b"6")
    request.write(b"one")
    later(request, lambda: request.write(b"two"))
    return later(request, request.finish, 2)


@answer
def written_at_once_later(request: Any) -> int:
    def go_on() -> None:
        request.setHeader("content-length", "5")
        request.write(b"hello")
        request.finish()

    return later(request, go_on)


@answer
def written_then_returned(request: Any) -> bytes:
    request.write(b"written ")
    return b"returned"


@answer
def length_zero(request: Any) -> int:
    request.setHeader(b"content-length", b"0")
    request.finish()
    return NOT_DONE_YET


@answer
def length_by_two(request: Any) -> int:
    request.responseHeaders.addRawHeader(b"Content-Length", b"5")
    request.responseHeaders.addRawHeader(b"content-length", b"5")
    request.write(b"hello")
    request.finish()
    return NOT_DONE_YET


@answer
def length_wrong(request: Any) -> int:
    request.setHeader(b"Content-Length", b"3")
    request.write(b"hello")
    request.finish()
    return NOT_DONE_YET


@answer
def length_replaced(request: Any) -> bytes:
    request.setHeader(b"Content-Length", b"3")
    return b"hello"


@answer
def chunked_by_hand(request: Any) -> bytes:
    request.setHeader(b"Transfer-Encoding", b"chunked")
    return b"5\r\nhello\r\n0\r\n\r\n"


def coded(code: int, message: bytes | None = None) -> Answer:
    def answering(request: Any) -> bytes:
        request.setResponseCode(code, message)
        note("code", request.code, request.code_message)
        return b"hello"

    return answering


for code, message in [
    *((100, None), (199, b"Odd"), (201, b"Made"), (204, None), (205, None), (304, None)),
    *((299, None), (404, b""), (500, None), (599, b"a  b\xe9"), (999, None), (9, None)),
]:
    ANSWERS[f"code_{code}"] = coded(code, message)


@answer
def code_204_written(request: Any) -> int:
    request.setResponseCode(204)
    request.write(b"one")
    request.write(b"two")
    request.finish()
    return NOT_DONE_YET


@answer
def code_set_twice(request: Any) -> bytes:
    request.setResponseCode(404, b"Gone")
    request.setResponseCode(http.CREATED)
    return b"hello"


@answer
def code_by_attribute(request: Any) -> bytes:
    request.code, request.code_message = 202, b"By hand"
    return b"hello"


@answer
def etag(request: Any) -> bytes:
    note("cached", request.setETag(b'"e"'))
    return b"" if request.code in (304, 412) else b"hello"


@answer
def etag_of_any_body(request: Any) -> bytes:
    note("cached", request.setETag(b'"e"'))
    return b"hello"


@answer
def last_modified(request: Any) -> bytes:
    note("cached", request.setLastModified(784111777.4), request.setLastModified(1.0))
    return b"hello"


@answer
def last_modified_twice(request: Any) -> bytes:
    request.setHeader(b"Last-Modified", b"Sun, 06 Nov 1994 08:49:37 GMT")
    request.setLastModified(1)
    return b"hello"


@answer
def cookies(request: Any) -> bytes:
    request.addCookie(b"a", request.getCookie(b"a") or b"none")
    request.addCookie("b", "é; x\r\ny", path="/", max_age="1", secure=True, httpOnly=True)
    request.addCookie(b"c", b"", expires=b"never", domain=b"d", comment="e", sameSite="lax")
    return b"hello"


@answer
def cookies_in_a_header(request: Any) -> bytes:
    request.setHeader(b"Set-Cookie", b"x=y")
    request.cookies.append(b"a=b")
    return b"hello"


@answer
def cookies_after_write(request: Any) -> int:
    request.write(b"one")
    request.addCookie(b"a", b"b")
    request.setHeader(b"x-late", b"1")
    request.setResponseCode(500)
    request.setETag(b"late")
    request.finish()
    return NOT_DONE_YET


@answer
def redirected(request: Any) -> bytes:
    return redirectTo(b"/other?a=\xc3\xa9", request)


@answer
def redirected_by_hand(request: Any) -> int:
    request.redirect("/other\r\nx: y")
    request.finish()
    return NOT_DONE_YET


@answer
def headers_many(request: Any) -> bytes:
    for name, value in [
        *(
            (b"x-a", b"1"),
            (b"X-A", b"2"),
            ("x-B", "é"),
            (b"X-EMPTY", b""),
            (b"wWw-AUTHENTICATE", b"a"),
        ),
        *((b"etag", b"lower"), (b"x-lines", b"a\r\nb\n c"), ("X-Percent", "%s %b")),
    ]:
        request.responseHeaders.addRawHeader(name, value)
    request.responseHeaders.setRawHeaders(b"x-set", [b"1", b"2", b"3"])
    request.responseHeaders.setRawHeaders("x-none", [])
    request.setHeader(b"X-A", b"only")
    return b"hello"


@answer
def headers_removed(request: Any) -> bytes:
    for name in (b"Server", "date", b"Content-Type", b"connection", b"not there"):
        try:
            request.responseHeaders.removeHeader(name)
        except ValueError as error:
            note("refused", str(error))
    note("left", request.responseHeaders)
    return b"hello"


@answer
def headers_set_again(request: Any) -> bytes:
    request.setHeader(b"server", b"mine")
    request.setHeader(b"Date", b"today")
    request.setHeader("content-type", "text/plain; charset=utf-8")
    request.setHeader(b"content-LENGTH", b"1")
    return b"hello"


@answer
def headers_of_any_type(request: Any) -> bytes:
    for name, value in [(b"x", 1), (1, b"x"), (b"bad name", b"x"), (b"x:", b"x"), (b"y", [b"1"])]:
        try:
            request.setHeader(name, value)
        except Exception as error:
            note("refused", type(error).__name__)
    return b"hello"


@answer
def header_with_no_values(request: Any) -> bytes:
    request.responseHeaders.setRawHeaders(b"content-type", [])
    return b"hello"


@answer
def connection_header(request: Any) -> bytes:
    request.setHeader(b"Connection", b"close")
    return b"hello"


@answer
def no_default_type(request: Any) -> bytes:
    request.defaultContentType = None
    return b"hello"


@answer
def other_default_type(request: Any) -> int:
    request.defaultContentType = b"text/plain"
    request.write(b"hello")
    request.finish()
    return NOT_DONE_YET


@answer
def session(request: Any) -> bytes:
    mine = request.getSession()
    mine.count = getattr(mine, "count", 0) + 1
    note("session", mine.uid, mine.count, request.session is mine, request.getSession() is mine)
    note("site", [*request.site.sessions], request.sitepath)
    return b"%d" % mine.count


@answer
def session_not_secure(request: Any) -> bytes:
    note("session", request.getSession(forceNotSecure=True).uid)
    return b"hello"


@answer
def notified(request: Any) -> int:
    for _ in range(2):
        waiter = request.notifyFinish()
        waiter.addBoth(lambda result: note("notified", result))
        waiter.addBoth(lambda _: note("saw", remains(request)))
    request.write(b"one")
    return later(request, request.finish)


def notified_afterwards(request: Any) -> int:
    request.finish()
    request.notifyFinish().addBoth(lambda result: note("notified", result))
    return NOT_DONE_YET


def content_of_a_lost_client(request: Any) -> int:
    """What the client has sent is looked at again when it has gone."""
    return later(request, lambda: note("closed", request.content.closed), 2)


@answer
def notified_at_once(request: Any) -> bytes:
    request.notifyFinish().addBoth(
        lambda result: note("notified", result, hasattr(request, "channel"))
    )
    return b"hello"


@implementer(IPushProducer, IPullProducer)
class Pieces:
    """Writes five pieces and finishes."""

    def __init__(self, request: Any, streaming: bool, piece: bytes = b"piece") -> None:
        self.request, self.piece, self.left, self.paused = request, piece, 5, False
        self.streaming = streaming
        request.registerProducer(self, streaming)
        note("producer", request.producer is self, request.streamingProducer)
        if streaming:
            later(request, self.push, 0)

    def push(self) -> None:
        if self.request is None or self.paused:
            return
        self.resumeProducing()
        if self.request is not None:
            later(self.request, self.push)

    def resumeProducing(self) -> None:
        if self.paused:
            self.paused = False
            note("resumed")
            later(self.request, self.push, 0)
            return
        if self.request is None:
            return
        self.request.write(self.piece)
        self.left -= 1
        if not self.left:
            request, self.request = self.request, None
            request.unregisterProducer()
            request.finish()

    def pauseProducing(self) -> None:
        note("paused")
        self.paused = True

    def stopProducing(self) -> None:
        note("stopped")
        self.request = None


@answer
def pushed(request: Any) -> int:
    Pieces(request, True)
    return NOT_DONE_YET


@answer
def pulled(request: Any) -> int:
    Pieces(request, False)
    return NOT_DONE_YET


def pulled_much(request: Any) -> int:
    request.setHeader(b"Content-Length", b"%d" % (5 * 70_000))
    Pieces(request, False, b"0123456789" * 7000)
    return NOT_DONE_YET


def pushed_much(request: Any) -> int:
    Pieces(request, True, b"0123456789" * 7000)
    return NOT_DONE_YET


@answer
def two_producers(request: Any) -> int:
    Pieces(request, True)
    Pieces(request, True)
    return NOT_DONE_YET


@answer
def producer_forgotten(request: Any) -> int:
    producer = Pieces(request, True)
    producer.request = None
    request.write(b"hello")
    request.finish()
    return NOT_DONE_YET


@answer
def raised(request: Any) -> int:
    raise ValueError("in render")


@answer
def raised_with_headers(request: Any) -> int:
    request.setResponseCode(201, b"Made")
    request.setHeader(b"x-mine", b"1")
    request.addCookie(b"a", b"b")
    raise ValueError("in render")


@answer
def raised_base_exception(request: Any) -> int:
    raise GeneratorExit


def raised_after_write(request: Any) -> int:
    request.write(b"hello")
    raise ValueError("after write")


def raised_after_finish(request: Any) -> int:
    request.write(b"hello")
    request.finish()
    raise ValueError("after finish")


@answer
def failed(request: Any) -> int:
    note("failed", request.processingFailed(Failure(ValueError("by hand"))))
    return NOT_DONE_YET


@answer
def not_allowed(request: Any) -> int:
    raise UnsupportedMethod([b"GET", b"PUT"])


@answer
def text_returned(request: Any) -> str:
    return "hello"


@answer
def none_returned(request: Any) -> None:
    return None


@answer
def number_returned(request: Any) -> int:
    return 7


@answer
def true_returned(request: Any) -> bool:
    """It equals `NOT_DONE_YET`, and was meant for something else."""
    later(request, request.finish)
    return True


@answer
def bytearray_returned(request: Any) -> bytearray:
    return bytearray(b"hello")


class Words(bytes):
    """Bytes of an application's own class."""


@answer
def subclass_returned(request: Any) -> bytes:
    return Words(b"hello")


@answer
def text_written(request: Any) -> int:
    try:
        request.write("hello")
    except TypeError:
        note("refused")
    request.finish()
    return NOT_DONE_YET


@answer
def request_lost(request: Any) -> int:
    request.write(b"hello")
    request.loseConnection()
    request.finish()
    return NOT_DONE_YET


@answer
def request_lost_first(request: Any) -> bytes:
    request.loseConnection()
    return b"hello"


@answer
def transport_lost(request: Any) -> int:
    request.write(b"hello")
    request.finish()
    request.transport.loseConnection()
    return NOT_DONE_YET


@answer
def transport_lost_first(request: Any) -> bytes:
    request.transport.loseConnection()
    return b"hello"


def transport_aborted(request: Any) -> int:
    request.write(b"hello")
    request.transport.abortConnection()
    return NOT_DONE_YET


@answer
def channel_lost(request: Any) -> int:
    request.write(b"hello")
    request.channel.loseConnection()
    request.finish()
    return NOT_DONE_YET


@answer
def transport_written(request: Any) -> bytes:
    request.transport.write(b"HTTP/1.1 103 Early\r\n\r\n")
    request.channel.write(b"")
    return b"hello"


@answer
def written_after_finish(request: Any) -> int:
    request.write(b"hello")
    request.finish()
    for call in (lambda: request.write(b"more"), request.finish):
        try:
            call()
        except Exception as error:
            note("refused", type(error).__name__, str(error))
    return NOT_DONE_YET


def finished_then_returned(request: Any) -> bytes:
    request.finish()
    return b"hello"


@answer
def adapted(request: Any) -> bytes:
    note("adapted", IGreeting(request).words(), request.getComponent(IGreeting) is None)
    request.setComponent(INumber, 7)
    note("component", request.getComponent(INumber), INumber(request))
    return b"hello"


class IGreeting(Interface):
    """Something that an application adapts requests to."""

    def words() -> bytes:
        """Say hello."""


class INumber(Interface):
    """Something that an application gives a request."""


class Greeting:
    def __init__(self, request: Any) -> None:
        self.request = request

    def words(self) -> bytes:
        return b"hello " + self.request.method  # type: ignore[no-any-return]


registerAdapter(Greeting, Request, IGreeting)


@answer
def named_again(request: Any) -> bytes:
    request.setHost(b"other.example", 8443, True)
    request.rememberRootURL()
    note("named", view(request), request.getRootURL(), str(request.URLPath()))
    return b"hello"


@answer
def attributes_set(request: Any) -> bytes:
    request.mine = 1
    request.args = {b"mine": [b"1"]}
    request.path = b"/mine"
    request.uri = b"/mine?too"
    request.clientproto = b"HTTP/1.0"
    return b"hello"


@answer
def method_replaced(request: Any) -> bytes:
    """Middleware of old replaces methods on the instance."""
    write = request.write
    request.write = lambda data: write(data.upper())
    request.finish = partial(later, request, request.finish)
    return b"hello"


@answer
def channel_asked(request: Any) -> bytes:
    channel = request.channel
    note("channel", channel.timeOut, plain(channel.getHost()), channel.length, channel.persistent)
    channel.setTimeout(None)
    return b"hello"


# Resources.


class Answers(Resource):
    """Has one answer."""

    isLeaf = True

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class Leaf(Answers):
    """Gives it to every request."""

    def render(self, request: Any) -> Any:
        meet(request)
        return self.answer(request)


class OnlyGet(Answers):
    """Leaves HEAD, and what is not allowed, to Twisted."""

    def render_GET(self, request: Any) -> Any:
        meet(request)
        note("method", request.method)
        return self.answer(request)


class Methods(Resource):
    """Has a method for each method, and none for HEAD."""

    isLeaf = True

    def _any(self, request: Any) -> bytes:
        meet(request)
        note("saw", view(request))
        return request.method + b" " + request.content.read()  # type: ignore[no-any-return]

    render_GET = render_POST = render_PUT = render_OPTIONS = render_DELETE = _any


class Branch(Resource):
    """A resource with children, that says what it was asked for."""

    def render_GET(self, request: Any) -> bytes:
        return b"branch %r %r" % (request.prepath, request.postpath)

    def getChild(self, path: bytes, request: Any) -> Resource:
        note("getChild", path, request.prepath, request.postpath)
        if path == b"asked":
            request.setHeader(b"x-child", request.getHeader(b"host") or b"")
            return Leaf(viewed)
        if path == b"moved":
            return Redirect(b"/there")
        if path == b"later":
            return DeferredResource(succeed(Leaf(viewed)))
        if path == b"raised":
            raise ValueError("in getChild")
        if path == b"answered":
            request.write(b"in getChild")
            request.finish()
            return Leaf(lambda request: NOT_DONE_YET)
        return NoResource()


@implementer(IResource)
class Bare:
    """Provides the interface, and is no `Resource`."""

    isLeaf = False

    def getChildWithDefault(self, name: bytes, request: Any) -> Any:
        note("child", name)
        return self if name else Leaf(viewed)

    def putChild(self, path: bytes, child: Any) -> None: ...

    def render(self, request: Any) -> bytes:
        return b"bare %r" % (request.prepath,)


def tree() -> Resource:
    root = Branch()
    root.putChild(b"", Data(b"index", "text/plain"))
    root.putChild(b"leaf", Leaf(viewed))
    root.putChild(b"branch", branch := Branch())
    branch.putChild(b"a b", Leaf(viewed))
    branch.putChild(b"", Data("text".encode("utf-16"), "application/octet-stream"))
    root.putChild(b"bare", Bare())
    return root


def zipped(root: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: EncodingResourceWrapper(root(), [GzipEncoderFactory()])


@implementer(IRealm)
class _Realm:
    def requestAvatar(self, avatar: object, mind: object, *interfaces: object) -> Any:
        return IResource, Leaf(viewed), lambda: None


def guarded() -> Any:
    users = InMemoryUsernamePasswordDatabaseDontUse(user=b"password")
    return HTTPAuthSessionWrapper(Portal(_Realm(), [users]), [BasicCredentialFactory("here")])


def rewritten() -> Any:
    def rule(request: Any) -> None:
        request.postpath.insert(0, b"leaf")

    return RewriterResource(tree(), rule)


def hosts() -> Any:
    root: Any = NameVirtualHost()
    root.default = Leaf(viewed)
    root.addHost(b"b", Data(b"host b", "text/plain"))
    return root


class _Page(Element):
    loader = XMLString(
        '<p xmlns:t="http://twistedmatrix.com/ns/twisted.web.template/0.1" t:render="words" />'
    )

    @renderer
    def words(self, request: Any, tag: Any) -> Any:
        return tag(succeed("hello "), request.uri.decode("ascii"))


def templated() -> Any:
    return Leaf(lambda request: renderElement(request, _Page()))


class _AtOnce:
    """A reactor and a thread pool that run everything where they stand."""

    def callInThread(self, call: Callable[..., object], *args: object) -> None:
        call(*args)

    callFromThread = callInThread


def _wsgi_application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    hidden = ("wsgi.input", "wsgi.errors")
    note("environ", {name: it for name, it in environ.items() if name not in hidden})
    note("input", environ["wsgi.input"].read())
    write = start_response("201 Made so", [("X-Wsgi", "1"), ("x-twice", "a"), ("X-Twice", "b")])
    if environ["QUERY_STRING"] == "write":
        write(b"written ")
    return [b"one ", b"", b"two"]


def wsgi() -> Any:
    at_once: Any = _AtOnce()
    return WSGIResource(at_once, at_once, _wsgi_application)


def klein() -> Any:
    from klein import Klein

    def index(request: Any) -> bytes:
        note("saw", view(request))
        return b"hello"

    def named(request: Any, name: str) -> Any:
        request.setHeader("x-name", name)
        later(request, lambda: waiting.callback("h\xe9llo"))
        waiting: Deferred[str] = Deferred()
        return waiting

    app: Any = Klein()
    app.route("/")(index)
    app.route("/<name>", methods=["GET", "POST"])(named)
    return app.resource()


def files(folder: Path) -> Callable[[], Any]:
    """The files of one folder, which this fills; none of them is new."""
    (folder / "folder").mkdir()
    for name, content in [
        ("index.html", b"<p>index</p>"),
        ("text.txt", b"0123456789" * 20_000),
        ("empty.css", b""),
    ]:
        (folder / name).write_bytes(content)
        os.utime(folder / name, (784111777, 784111777))
    return lambda: File(str(folder))


# Request classes.

#: What Twisted's requests have that a subclass can override.
HOOKS: Final = (
    *("addCookie", "childLink", "connectionLost", "finish", "getAllHeaders"),
    *("getClientAddress", "getClientIP", "getCookie", "getHeader", "getHost"),
    *("getRequestHostname", "getSession", "gotLength", "handleContentChunk", "isSecure"),
    *("loseConnection", "notifyFinish", "parseCookies", "prePathURL", "process"),
    *("processingFailed", "redirect", "registerProducer", "render", "requestReceived"),
    *("setETag", "setHeader", "setLastModified", "setResponseCode", "unregisterProducer", "write"),
    *("_cleanup", "_handleStar", "__repr__", "__eq__", "__hash__", "getComponent"),
)


def overriding(*hooks: str, by_name: bool = False) -> type[Request]:
    """A request class that tells when its *hooks* are called, and how.

    Args:
        by_name: Call Twisted's method by its class, as in ``Request.write(self, data)``, and
            not what ``super()`` finds.
    """

    def overridden(name: str) -> Callable[..., Any]:
        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            if name == "handleContentChunk":
                if "body_came" not in vars(self):
                    note(name)  # once: into which pieces a body is cut is no promise
                self.body_came = True
            elif not name.startswith("__"):
                note(name, args, kwargs)
            following = getattr(Request if by_name else super(kind, self), name)
            return following(self, *args, **kwargs) if by_name else following(*args, **kwargs)

        return hook

    kind: type[Request] = type("Overriding", (Request,), {name: overridden(name) for name in hooks})
    return kind


class Attributes(Request):
    """Has attributes of its own, set before and after Twisted's."""

    kind = "mine"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.before = [1]
        super().__init__(*args, **kwargs)
        self.after = {**vars(self)}
        self.setHeader(b"x-init", b"1")
        self.received_cookies[b"init"] = b"1"

    def process(self) -> None:
        note("before", self.before, [name in self.after for name in IN_DICTIONARY])
        note("received", self.requestHeaders, self.received_cookies)
        super().process()


class KeepsFields(Request):
    """Holds on to the fields before there are any."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields = self.requestHeaders

    def process(self) -> None:
        note("same fields", self.fields is self.requestHeaders)
        super().process()


class ByName(Request):
    """Calls Twisted's constructor by its name, as code of old does."""

    def __init__(self, channel: Any, queued: Any) -> None:
        Request.__init__(self, channel, queued)
        self.queued_too = queued

    def process(self) -> None:
        note("queued", self.queued_too)
        Request.process(self)


class ByOldName(Request):
    """Leaves Twisted's server request out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        http.Request.__init__(self, *args, **kwargs)
        self._adapterCache = {}


class ClassAttributes(Request):
    defaultContentType = b"text/plain"
    code = 201
    code_message = b"Made"
    etag = b'"mine"'
    lastModified = 784111777


class NoType(Request):
    defaultContentType = None


class Properties(Request):
    """Computes what Twisted keeps."""

    @property
    def content(self) -> Any:
        return self._file

    @content.setter
    def content(self, file: Any) -> None:
        note("content", file)
        self._file = file

    @content.deleter
    def content(self) -> None:
        note("content deleted")
        del self._file

    @property
    def requestHeaders(self) -> Any:
        return self._fields

    @requestHeaders.setter
    def requestHeaders(self, fields: Any) -> None:
        self._fields = fields

    @property
    def path(self) -> Any:
        return getattr(self, "_path", b"").lower()

    @path.setter
    def path(self, path: bytes) -> None:
        self._path = path


class Unparsed(Request):
    """Parses no forms."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, parsePOSTFormSubmission=False, **kwargs)


class Upload(Request):
    """Keeps bodies where it likes."""

    def gotLength(self, length: int | None) -> None:
        note("length", length)
        self.content = BytesIO()
        self.chunks: list[bytes] = []

    def handleContentChunk(self, data: bytes) -> None:
        self.chunks.append(data)

    def process(self) -> None:
        note("chunks", b"".join(self.chunks))
        super().process()


class NoBody(Request):
    """Wants no file for what has no body."""

    def gotLength(self, length: int | None) -> None:
        if length == 0:
            self.content = BytesIO(b"none")
        else:
            super().gotLength(length)


class Rewrites(Request):
    """Changes the request line, and reads the fields before there is a path."""

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        note("early", self.requestHeaders, self.content, self.path, self.args, self.method)
        super().requestReceived(command.upper(), b"/rewritten" + path, version)


class Proceeds(Request):
    """Asks somebody else before it goes on."""

    def process(self) -> None:
        later(self, super().process)


class ProcessesAlone(Request):
    """Has no need of resources."""

    def process(self) -> None:
        note("site", hasattr(self, "site") and self.site, self.prepath, self.postpath)
        self.setHeader(b"x-alone", b"1")
        self.write(b"hello " + self.uri)
        self.finish()


class RendersAnother(Request):
    def render(self, resource: Any) -> None:
        super().render(Leaf(viewed) if self.uri == b"/other" else resource)


class AnswersInRender(Request):
    def render(self, resource: Any) -> None:
        self.write(b"in render")
        self.finish()


class RendersItself(Request):
    """Does by hand what Twisted's `render` does."""

    def render(self, resource: Any) -> None:
        body = resource.render(self)
        if body is not NOT_DONE_YET:
            self.setHeader(b"Content-Length", b"%d" % len(body))
            self.write(body)
            self.finish()


class RaisesInProcess(Request):
    def process(self) -> None:
        try:
            raise ValueError("in process")
        except ValueError:
            channel: Any = self.channel
            self.site = channel.site
            self.processingFailed(Failure())


class Shouts(Request):
    """Changes what is written."""

    def write(self, data: bytes) -> None:
        if not self.startedWriting:
            self.setHeader(b"x-shouts", b"1")
            self.responseHeaders.removeHeader(b"content-length")
        super().write(data.upper())


class Gathers(Request):
    """Writes all at once when it finishes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def finish(self) -> None:
        body = b"".join(self.pieces)
        self.setHeader(b"Content-Length", b"%d" % len(body))
        super().write(body)
        super().finish()


class FinishesLate(Request):
    def finish(self) -> None:
        later(self, super().finish)


class TellsItsHeaders(Request):
    """Writes its head by itself, as a proxy does."""

    def write(self, data: bytes) -> None:
        if not self.startedWriting:
            self.startedWriting = 1
            self.channel.writeHeaders(
                self.clientproto, b"%d" % self.code, self.code_message, [(b"x-old", b"way")]
            )
        self.channel.write(data)


class Delegates(Request):
    """Answers for what it has not."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("x_"):
            return name
        raise AttributeError(name)

    def process(self) -> None:
        note("delegated", getattr(self, "x_1"), getattr(self, "nothing", None))  # noqa: B009
        super().process()


class Watches(Request):
    """Sees what is set on it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("code", "finished", "startedWriting", "method", "uri"):
            note(name, value)
        super().__setattr__(name, value)


class Older(http.Request):
    """No request of a `Site`'s, but of HTTP's only."""

    def process(self) -> None:
        note("older", self.method, self.uri, self.path, self.args, self.content)
        note("older", self.requestHeaders, self.received_cookies)
        self.setResponseCode(202)
        self.setHeader(b"X-Older", b"1")
        self.write(b"older")
        self.finish()


class OlderLater(http.Request):
    def process(self) -> None:
        later(self, lambda: (self.write(b"older"), self.finish()))


@provider(INonQueuedRequestFactory)
def alone(channel: Any) -> Any:
    return Request(channel)


def function(channel: Any, queued: Any) -> Any:
    request = Request(channel, queued)
    request.setHeader(b"x-queued", b"%r %d" % (queued, len(channel.requests)))
    return request


def whatever(*args: Any, **kwargs: Any) -> Any:
    return Shouts(*args, **kwargs)


@provider(INonQueuedRequestFactory)
class Alone(Request):
    def __init__(self, channel: Any) -> None:
        super().__init__(channel)
        self.setHeader(b"x-queued", b"%r" % self.queued)


class _Factory:
    def build(self, channel: Any, queued: Any) -> Any:
        return Attributes(channel, queued)


REQUESTS: Final[Mapping[str, Any]] = {
    "stock": Request,
    **{f"{hook} by super": overriding(hook) for hook in HOOKS},
    **{f"{hook} by name": overriding(hook, by_name=True) for hook in HOOKS},
    "all by super": overriding(*HOOKS),
    "all by name": overriding(*HOOKS, by_name=True),
    **{
        kind.__name__: kind
        for kind in (
            *(Alone, AnswersInRender, Attributes, ByName, ByOldName, ClassAttributes, Delegates),
            *(FinishesLate, Gathers, NoBody, NoType, Older, OlderLater, Proceeds, ProcessesAlone),
            *(Properties, RaisesInProcess, RendersAnother, RendersItself, Rewrites, Shouts),
            *(TellsItsHeaders, Unparsed, Upload, Watches),
        )
    },
    "alone": alone,
    "function": function,
    "whatever": whatever,
    "partial": partial(Request, parsePOSTFormSubmission=False),
    "method": _Factory().build,
}


# Sites.


class OwnLog:
    """Writes its own access log."""

    def log(self, request: Any) -> None:
        with when_all_is_sent():
            note("own log", request.method, request.uri, request.code, request.sentLength)
            note("own log", hasattr(request, "channel"), request.getClientIP())


class OwnResources:
    """Finds its own resources."""

    def getResourceFor(self, request: Any) -> Any:
        note("asked for", request.path, request.prepath, request.postpath)
        request.site = self
        request.sitepath = []
        return Leaf(viewed)


class OwnChildren:
    def getChildWithDefault(self, path: bytes, request: Any) -> Any:
        note("asked for", path)
        return Leaf(viewed)


class OwnFiles:
    """Keeps bodies where it likes."""

    def getContentFile(self, length: int | None) -> Any:
        note("length", length)
        return BytesIO()


class OwnSessions:
    class sessionFactory(server.Session):  # Twisted's name
        sessionTimeout = 1


class OwnRequests:
    requestFactory = Attributes


class OwnFunction:
    requestFactory = staticmethod(function)


class Application(NamedTuple):
    """What a site is made of.

    Attributes:
        root: Makes the root resource.
        request: The ``requestFactory``; None for the class attribute.
        site: What a subclass of the site class has.
        options: Arguments of the site.
    """

    root: Callable[[], Any] = lambda: Leaf(viewed)
    request: Any = None
    site: type = object
    options: Mapping[str, Any] = {}

    def served(self, kind: type[Site]) -> Site:
        """The site, as a subclass of *kind*, on a clock of its own."""
        name: Any = type(kind.__name__, (kind,) if self.site is object else (self.site, kind), {})
        site: Any = name(
            self.root(),
            self.request,
            reactor=PatientClock(),
            logFormatter=logged,
            **self.options,
        )
        site._entropy = bytes
        return site  # type: ignore[no-any-return]


class Tracebacks:
    displayTracebacks = True


SITES: Final[Mapping[str, Application]] = {
    "plain": Application(),
    "forms not parsed": Application(options={"parsePOSTFormSubmission": False}),
    "own log": Application(site=OwnLog),
    "own resources": Application(site=OwnResources),
    "own children": Application(site=OwnChildren),
    "own files": Application(site=OwnFiles),
    "own sessions": Application(lambda: Leaf(session), site=OwnSessions),
    "own requests": Application(site=OwnRequests),
    "own request function": Application(site=OwnFunction),
    "site in a site": Application(lambda: Site(tree())),
    "tree": Application(tree),
    "methods": Application(Methods),
    "bare": Application(Bare),
    "zipped": Application(zipped(lambda: Leaf(nothing_looked_at))),
    "zipped later": Application(zipped(lambda: Leaf(written_later))),
    "zipped and pushed": Application(zipped(lambda: Leaf(pushed))),
    "zipped, length set": Application(zipped(lambda: Leaf(written_now_and_later))),
    "zipped, only GET": Application(zipped(lambda: OnlyGet(nothing_looked_at))),
    "zipped, nothing": Application(zipped(lambda: Leaf(finished_only))),
    "zipped, raised": Application(zipped(lambda: Leaf(raised))),
    "zipped, not modified": Application(zipped(lambda: Leaf(etag))),
    "guarded": Application(guarded),
    "rewritten": Application(rewritten),
    "hosts": Application(hosts),
    "templated": Application(templated),
    "wsgi": Application(wsgi),
    "klein": Application(klein),
}
