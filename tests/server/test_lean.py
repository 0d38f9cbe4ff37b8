"""A lean request is Twisted's request, whoever looks; the private names it uses are Twisted's."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from io import BytesIO
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from support.cleanliness import LoggedErrors
from support.wire import PATIENCE, Client, Paths, Serve, in_thread, until
from twisted.web import http, server
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from twisted_hangup import HangupSite
from twisted_hangup.events import Field
from twisted_hangup.server import lean
from twisted_hangup.server.channel import HangupChannel
from twisted_hangup.server.headers import HeadersCache
from twisted_hangup.server.lean import LeanRequest
from twisted_hangup.server.request import HangupRequest, hangup_class
from twisted_hangup.testing import feed

GET = b"GET /keep?a=1 HTTP/1.1\r\nHost: a\r\nCookie: k=v; l=w\r\nX-Odd: 1\r\nx-odd: 2\r\n\r\n"


class Keeps(Resource):
    """Keeps the request that it is asked with, and what that knows by then."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []
        self.attributes: list[dict[str, Any]] = []

    def render(self, request: Request) -> bytes:
        self.requests.append(request)
        self.attributes.append(dict(vars(request)))
        return b"kept"


def kept(site_class: type[Site], **options: Any) -> tuple[Any, dict[str, Any]]:
    """The request that a site of this class makes of `GET`, and its attributes in ``render``."""
    keeps = Keeps()
    site = site_class(Paths(keep=keeps), **options)
    if site_class is HangupSite:
        feed(site, GET, GET)
    else:
        from twisted.internet.testing import StringTransport

        protocol: Any = site.buildProtocol(None)
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(GET + GET)
        protocol._channel.setTimeout(None)
    return keeps.requests[-1], keeps.attributes[-1]


def test_attributes_are_those_of_a_stock_request() -> None:
    """``vars()`` finds what it finds in Twisted's own, and ours besides."""
    _, stock = kept(Site)
    _, ours = kept(HangupSite)
    ours_alone = {
        "_hangup_cache",
        "_hangup_fields",
        "_hangup_has_cookies",
        "_hangup_unmade",
        "begun_at",
        "process_begun",
    }
    assert {*ours} - {*stock} <= ours_alone
    assert {*stock} <= {*ours}
    for name in ("args", "cookies", "path", "postpath", "prepath", "received_cookies", "uri"):
        assert ours[name] == stock[name], name
    assert list(ours["requestHeaders"].getAllRawHeaders()) == list(
        stock["requestHeaders"].getAllRawHeaders()
    )
    assert type(ours["content"]) is type(stock["content"])


def test_copies_have_everything() -> None:
    """A copy knows what its original would make when it is touched."""
    request, _ = kept(HangupSite)
    twin = copy.copy(request)
    assert twin.received_cookies == {b"k": b"v", b"l": b"w"}
    assert twin.requestHeaders.getRawHeaders(b"x-odd") == [b"1", b"2"]
    assert twin.uri == b"/keep?a=1"


def test_touched_after_the_response() -> None:
    """Headers and cookies are there for whoever asks later; the content is gone, as ever."""
    request, _ = kept(HangupSite)
    assert request.getHeader(b"host") == b"a"
    assert request.getCookie(b"k") == b"v"
    assert request.content is None


def test_cookies_are_those_that_the_client_sent() -> None:
    """What an application does with the request's headers does not change them."""

    class Forgets(Request):
        def process(self) -> None:
            self.requestHeaders.removeHeader(b"Cookie")
            super().process()

    request, _ = kept(HangupSite, requestFactory=Forgets)
    assert request.received_cookies == {b"k": b"v", b"l": b"w"}
    assert not request.requestHeaders.hasHeader(b"Cookie")


class Stubborn(Request):
    """Calls Twisted's own ``__init__`` and ``write`` by name."""

    def __init__(self, channel: Any, queued: Any = False) -> None:
        Request.__init__(self, channel, queued)

    def write(self, data: bytes) -> None:
        Request.write(self, data)


def test_stock_methods_by_name() -> None:
    """An application that goes past ours gets Twisted's way, and all that belongs to it."""
    request, attributes = kept(HangupSite, requestFactory=Stubborn)
    assert isinstance(request, (HangupRequest, LeanRequest))
    assert attributes["requestHeaders"].getRawHeaders(b"host") == [b"a"]
    assert attributes["received_cookies"] == {b"k": b"v", b"l": b"w"}


def test_order_of_the_classes() -> None:
    """The application's class stands between ours, and one that is no `server.Request` alone."""
    stubborn: Any = Stubborn
    assert hangup_class(stubborn, lean=True).__mro__[1:4] == (HangupRequest, Stubborn, LeanRequest)
    stock: Any = Request
    assert hangup_class(stock, lean=True).__mro__[1:3] == (HangupRequest, LeanRequest)
    plain: Any = http.Request
    assert LeanRequest not in hangup_class(plain, lean=True).__mro__
    ours: Any = hangup_class(stubborn, lean=True)
    assert hangup_class(ours, lean=True) is ours
    assert LeanRequest not in hangup_class(stubborn).__mro__


def test_private_names_are_twisteds() -> None:
    """What is used of a request's insides, for the day on which it is called otherwise."""
    for name in ("_inFakeHead", "_encoder", "_disconnected", "_handleStar", "_cleanup"):
        assert hasattr(Request, name)


@pytest.mark.parametrize("name", sorted(lean._CANONICAL))
def test_names_of_fields_are_those_of_headers(name: bytes) -> None:
    """What is put under a name directly is where `Headers` would have put it."""
    headers = Headers()
    headers.setRawHeaders(name, [b"1"])
    assert headers._rawHeaders == {name: [b"1"]}


def test_date_is_twisteds() -> None:
    """A date is made once a second, and is the one that Twisted makes."""
    assert lean._date(1_000_000_000) == http.datetimeToString(1_000_000_000)


def test_server_is_asked_for_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who changes Twisted's ``Server`` field has changed ours."""
    monkeypatch.setattr(server, "version", b"mine")
    assert b"\r\nServer: mine\r\n" in feed(HangupSite(Paths(keep=Keeps())), GET).received


def test_attributes_can_be_replaced() -> None:
    """The dictionary of a request can be another one, as with any object."""

    class Replaces(Request):
        def process(self) -> None:
            self.__dict__ = {**vars(self), "mine": 1}
            super().process()

    request, attributes = kept(HangupSite, requestFactory=Replaces)
    assert attributes["mine"] == request.mine == 1
    assert request.getHeader(b"host") == b"a"


def test_a_file_of_its_own() -> None:
    """What an application puts in the place of the content stays, whenever it did."""

    class Early(Request):
        def gotLength(self, length: int | None) -> None:
            super().gotLength(length)
            self.content = BytesIO(b"early")

    class Emptied(Request):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.content = None

    class Reads(Resource):
        isLeaf = True

        def render(self, request: Any) -> bytes:
            return bytes(request.content.read())

    for kind, content in ((Early, b"early"), (Emptied, b"")):
        client = feed(HangupSite(Paths(keep=Reads()), requestFactory=kind), GET, GET)
        assert client.received.count(b"Content-Length: %d\r\n" % len(content)) == 2


def test_cookies_that_nobody_parses() -> None:
    """A request whose class parses no cookies has none."""

    class Plain(Request):
        def parseCookies(self) -> None: ...

    assert kept(HangupSite, requestFactory=Plain)[0].received_cookies == {}


def test_set_on_the_instance() -> None:
    """A method that a request replaces on itself is the one that is called."""
    names: list[bytes] = []

    class Listens(Request):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.setHeader = lambda name, value: names.append(name)  # type: ignore[method-assign]

    kept(HangupSite, requestFactory=Listens)
    assert names[:2] == [b"Server", b"Date"]


@pytest.mark.parametrize("owner", [Request, http.Request])
@pytest.mark.parametrize("name", ["write", "setHeader", "_cleanup", "finish"])
def test_replaced_while_connected(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put in the place of one of Twisted's methods counts from the next connection on."""
    calls: list[str] = []
    stock = getattr(owner, name)

    class Replaces(Resource):
        isLeaf = True

        def render(self, request: Request) -> bytes:
            def replaced(*args: Any) -> Any:
                calls.append(name)
                return stock(*args)

            before = len(calls)
            monkeypatch.setattr(owner, name, replaced)
            return b"%d" % before

    feed(HangupSite(Replaces()), GET)
    calls.clear()
    feed(HangupSite(Keeps()), GET, GET)
    assert len(calls) >= 2


def test_replaced_before_us() -> None:
    """Methods that are not Twisted's when we are imported are never passed over."""
    code = (
        "from twisted.web.server import Request\n"
        "stock = Request.write\n"
        "Request.write = lambda *args: stock(*args)\n"
        "from twisted_hangup.server import lean\n"
        "print(lean.is_stock())\n"
    )
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)
    assert answer.stdout == b"False\n"


def test_channel_that_overrides_write() -> None:
    """A channel that looks at what requests write sees bodies only, as with Twisted."""
    pieces: list[bytes] = []

    class Looks(HangupChannel):
        def write(self, data: bytes) -> None:
            pieces.append(data)
            super().write(data)

    feed(HangupSite(Keeps(), channel=Looks), GET, GET)
    assert pieces == [b"kept"] * 2


def test_a_head_that_failed_has_no_end(expected_errors: LoggedErrors) -> None:
    """A request that raised at its head is not asked for more, in one read as in two."""

    class Fails(Request):
        def gotLength(self, length: int | None) -> None:
            if len(received):
                raise ValueError
            super().gotLength(length)

        def requestReceived(self, *args: Any) -> None:
            received.append(args)
            super().requestReceived(*args)

    received: list[Any] = []
    client = feed(HangupSite(Keeps(), requestFactory=Fails), GET, GET)
    assert client.received.count(b" 200 OK") == client.received.count(b" 500 ") == 1
    assert len(received) == 1
    assert len(expected_errors.flush(ValueError)) == 1


@pytest.mark.parametrize("persistence", [b"keep-alive", b"close"])
def test_fields_of_one_client_are_not_the_next_ones(persistence: bytes) -> None:
    """What an application does to the fields of a request stays with that request."""
    seen: list[dict[bytes, Any]] = []

    class Changes(Resource):
        isLeaf = True

        def render(self, request: Request) -> bytes:
            headers = request.requestHeaders.getAllRawHeaders()
            seen.append({name: [*values] for name, values in headers})
            request.requestHeaders.addRawHeader(b"Host", b"b")
            request.requestHeaders.removeHeader(b"Cookie")
            request.received_cookies[b"k"] = b"changed"
            return b""

    site = HangupSite(Changes())
    get = GET.replace(b"\r\n\r\n", b"\r\nConnection: %b\r\n\r\n" % persistence)
    for _ in range(2):
        feed(site, get)
    assert seen[0] == seen[1] and seen[0][b"Host"] == [b"a"] and b"Cookie" in seen[0]


def answers(
    site_class: type[Site], render: Any, request_class: type[Request], *requests: bytes
) -> bytes:
    """What a site of this class answers, the date aside."""

    class Asked(Resource):
        isLeaf = True

        def render(self, request: Request) -> bytes:
            answer: bytes = render(request)
            return answer

    site = site_class(Asked(), requestFactory=request_class)
    if site_class is HangupSite:
        received = bytes(feed(site, *requests).received)
    else:
        from twisted.internet.testing import StringTransport

        protocol: Any = site.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        for request in requests:
            protocol.dataReceived(request)
        protocol._channel.setTimeout(None)
        received = transport.value()
    return re.sub(rb"Date: [^\r]*", b"Date: now", received)


class HasNames(Request):
    """Has names of its own that might as well be ours."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cache = self._fields = self._unmade = self._has_cookies = {b"mine": b"1"}
        self._logged = self._keeps_body = self._dropped = self._posted_form = self.body_left = 3

    def run(self) -> bytes:
        return self._cache[b"mine"]

    plain = set_fields = section = run


class HasFieldsAtFirst(Request):
    """Has a header before the client's come."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.requestHeaders.addRawHeader(b"X-Mine", b"1")


def fields_of_request(request: Any) -> bytes:
    return repr(sorted(request.requestHeaders.getAllRawHeaders())).encode()


def becomes_head(request: Request) -> bytes:
    request.method = b"HEAD"
    return b""


def odd_reason(request: Any) -> bytes:
    request.code_message = bytearray(b"Fine")
    return b"x"


def class_with(**attributes: object) -> type[Request]:
    return type("Own", (Request,), attributes)


def in_pieces(request: Request) -> int:
    request.setHeader(b"Content-Length", b"8")
    for piece in (b"", b"pie", b"ces", b".."):
        request.write(piece)
    request.finish()
    return server.NOT_DONE_YET


@pytest.mark.parametrize(
    ("render", "request_class"),
    [
        (in_pieces, Request),
        (lambda request: request.content.read() + b"x", class_with(content=None)),
        (lambda request: repr(request.received_cookies).encode(), class_with(received_cookies={})),
        (fields_of_request, class_with(requestHeaders=None)),
        (lambda request: request.run() + request.plain() + request.set_fields(), HasNames),
        (fields_of_request, HasNames),
        (fields_of_request, HasFieldsAtFirst),
        (becomes_head, Request),
        (odd_reason, Request),
    ],
)
def test_same_answer(render: Any, request_class: type[Request]) -> None:
    """What applications do to a request, and call what is theirs in it, comes to the same."""
    gets = (GET, GET, GET.replace(b"X-Odd: 1", b"X-Odd: 3"))
    stock = answers(Site, render, request_class, *gets)
    assert stock.count(b"HTTP/1.1 200") == len(gets)
    assert answers(HangupSite, render, request_class, *gets) == stock


@given(
    pieces=st.lists(
        st.binary(max_size=20).flatmap(lambda data: st.sampled_from([data, data * 9999]))
    ),
    sized=st.booleans(),
    method=st.sampled_from([b"GET", b"HEAD"]),
    code=st.sampled_from([200, 204, 304]),
)
def test_body_in_pieces(pieces: list[bytes], sized: bool, method: bytes, code: int) -> None:
    """A body that is written piece by piece is the one that Twisted would send."""
    lengths = []

    def writes(request: Any) -> Any:
        if sized:
            request.setHeader(b"Content-Length", b"%d" % len(b"".join(pieces)))
        request.setResponseCode(code)
        for piece in pieces:
            request.write(piece)
        request.finish()
        lengths.append(request.sentLength)
        return server.NOT_DONE_YET

    get = GET.replace(b"GET", method)
    stock = answers(Site, writes, Request, get)
    assert answers(HangupSite, writes, Request, get) == stock
    assert lengths[0] == lengths[1]


def test_head_of_a_body_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes out in the same way as one with its whole body, and the length is kept to."""
    monkeypatch.setattr("twisted_hangup.server.channel.response_head", pytest.fail)
    assert answers(HangupSite, in_pieces, Request, GET).endswith(b"\r\n\r\npieces..")


@pytest.mark.parametrize("version", ["Mine/1", b"Mine/1\r\nX: 1", b"Mine/1"])
def test_server_has_another_name(version: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is put in the place of Twisted's name is sent as Twisted would."""
    monkeypatch.setattr(server, "version", version)
    stock = answers(Site, lambda request: b"", Request, GET, GET)
    assert answers(HangupSite, lambda request: b"", Request, GET, GET) == stock


@pytest.mark.parametrize(
    "name", ["process", "requestReceived", "gotLength", "parseCookies", "setHeader", "finish"]
)
def test_replaced_in_a_class_that_was_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application's class counts as it is when the connection is made."""
    own = class_with()
    site = HangupSite(Keeps(), requestFactory=own)
    feed(site, GET)
    calls: list[str] = []
    inherited = getattr(own, name)

    def replaced(*args: Any) -> Any:
        calls.append(name)
        return inherited(*args)

    monkeypatch.setattr(own, name, replaced, raising=False)
    feed(site, GET, GET)
    assert len(calls) >= 2


def test_touched_by_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks while another one is first asked gets an answer as well."""
    asked: list[Any] = []
    headers = HeadersCache.headers

    class Asks(Resource):
        isLeaf = True

        def render(self, request: Request) -> bytes:
            def meanwhile(cache: HeadersCache, fields: list[Field]) -> Headers:
                monkeypatch.setattr(HeadersCache, "headers", headers)
                asked.append(request.getHeader(b"host"))
                return headers(cache, fields)

            monkeypatch.setattr(HeadersCache, "headers", meanwhile)
            asked.append(request.getHeader(b"host"))
            return b""

    site = HangupSite(Asks())
    feed(site, GET)
    assert asked == [b"a", b"a"]


def test_fields_in_an_error_are_one_client_s_own() -> None:
    """A handler that changes them changes nobody else's."""
    seen: list[Any] = []

    class Waits(Resource):
        isLeaf = True

        def render(self, request: Request) -> int:
            seen.append(request.getHeader(b"X-Mine"))
            return server.NOT_DONE_YET

    site = HangupSite(Waits())

    @site.on_client_error
    def change(failure: Any, socket: Any) -> Any:
        failure.value.request.fields.append((b"X-Mine", b"1"))
        return failure

    for _ in range(3):
        feed(site, GET).feed(fin=True)
    assert seen == [None] * 3
    assert len(site.journal.recent) == 3


@pytest_twisted.ensureDeferred
async def test_what_an_idle_connection_keeps(serve: Serve) -> None:
    """Between requests it keeps no list that nobody needs, and each object once."""
    served = serve(Paths())
    client = await in_thread(lambda: Client(served.port))
    for _ in range(3):
        await in_thread(
            lambda: client.send(b"GET /fast HTTP/1.1\r\nHost: a\r\n\r\n").read_until(b"fast")
        )
    [channel] = served.site.context.connections
    await until(lambda: not channel._undelivered.undelivered)
    assert channel._dataBuffer == channel._after_upgrade == channel._undelivered._ends == ()
    assert HeadersCache()._last is HeadersCache()._last
    assert channel._head.version is channel._inbox.section.version
    client.close()
