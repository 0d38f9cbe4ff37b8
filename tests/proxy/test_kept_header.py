"""A header that a client repeats is passed on as if it had come for the first time."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.certificates import server_context
from support.http2_client import H2Client
from support.proxying import Proxied, ServerInMemory, proxy_in_memory
from support.proxying import proxied as proxied
from support.upstreams import OK, Connection
from support.wire import Paths, in_thread
from twisted.web.http_headers import Headers
from twisted.web.server import Request

from twisted_hangup import Forwarding, HangupSite, ProxyResource, testing
from twisted_hangup.events import Field
from twisted_hangup.proxy import resource, upstream
from twisted_hangup.testing import feed

REWRITE = Forwarding(host="rewrite")

LINES = st.sampled_from(
    [
        *(b"GET / HTTP/1.1", b"GET /x?y HTTP/1.1", b"GET /x/../y HTTP/1.1", b"PUT /x HTTP/1.1"),
        *(b"POST / HTTP/1.1", b"GET /x HTTP/1.0", b"GET http://b/x HTTP/1.1", b"BREW /x HTTP/1.1"),
        *(b"OPTIONS * HTTP/1.1", b"OPTIONS /x HTTP/1.1", b"GET http://c HTTP/1.1"),
        *(b"GET /below/x HTTP/1.1", b"GET /below/../x HTTP/1.1"),
    ]
)
SECTIONS = st.sampled_from(
    [
        b"Host: a\r\n",
        b"Host: a\r\nTE: trailers\r\nCookie: k=v\r\nx-b: 1\r\nX-B: 2\r\n",
        b"Host: a\r\nConnection: keep-alive, X-B\r\nX-B: 1\r\nX-Forwarded-For: 10.0.0.1\r\n",
        b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
        b"Host: a\r\nMax-Forwards: 2\r\n",
        b"Host: a\r\nContent-Length: 0\r\n",
        b"Host: a\r\nExpect: 100-continue\r\n",
        b"Host: a\r\nConnection: keep-alive\r\n",
    ]
)


@given(st.lists(st.tuples(LINES, SECTIONS), max_size=8))
def test_repeated_header(requests: list[tuple[bytes, bytes]]) -> None:
    """Whatever came before it on the same connection, a request goes out as it would alone."""
    server, alone = ServerInMemory(), ServerInMemory()

    def site_of(server: ServerInMemory) -> HangupSite:
        below = proxy_in_memory(server, "http://below/v1", forwarding=REWRITE)
        return HangupSite(Above(proxy_in_memory(server, forwarding=REWRITE), below))

    client = feed(site_of(server))
    for line, section in requests:
        request = line + b"\r\n" + section + b"\r\n"
        if client.ended is not None:
            client = feed(site_of(server))
        client.feed(request)
        feed(site_of(alone), request)
    assert server.asked == alone.asked


class Above(Paths):
    """Has one proxy at ``/below``, and another one for everything else."""

    def __init__(self, proxy: ProxyResource, below: ProxyResource) -> None:
        super().__init__(below=below)
        self._proxy = proxy

    def getChild(self, path: bytes, request: Any) -> Any:
        request.postpath.insert(0, request.prepath.pop())
        return self._proxy


def test_header_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written anew only if it, or what is done with it, has changed."""
    headers: list[object] = []
    field_section = upstream.field_section

    def note(fields: list[Field]) -> bytes:
        headers.append(fields)
        return field_section(fields)

    monkeypatch.setattr(resource, "field_section", note)
    server = ServerInMemory()
    client = feed(HangupSite(proxy_in_memory(server)))
    for target in (b"/a", b"/b", b"/c"):
        client.feed(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
    assert [outbound.head.split()[1] for outbound in server.asked] == [b"/a", b"/b", b"/c"]
    assert len(headers) == 1
    client.feed(b"GET /d HTTP/1.1\r\nHost: b\r\n\r\n")
    assert len(headers) == 2 and b"Host: b" in server.asked[-1].head


def adds(request: Any) -> None:
    request.requestHeaders.setRawHeaders(b"X-User", [request.uri])


def replaces(request: Any) -> None:
    request.requestHeaders = Headers({b"Host": [request.uri[1:]]})


def writes_a_body(request: Any) -> None:
    request.content.write(request.uri * 2)


def sets_a_body(request: Any) -> None:
    request.content = BytesIO(request.uri * 2)


def secures(request: Any) -> None:
    request._forceSSL = True


def ages(request: Any) -> None:
    request.clientproto = b"HTTP/1.0"


def asks_elsewhere(request: Any) -> None:
    request.uri = b"http://elsewhere" + request.uri


@pytest.mark.parametrize(
    "change, seen",
    [
        (adds, b"X-User: /1\r\n"),
        (replaces, b"Host: 1\r\n"),
        (writes_a_body, b"Content-Length: 4\r\n"),
        (sets_a_body, b"Content-Length: 4\r\n"),
        (secures, b"X-Forwarded-Proto: https\r\n"),
        (ages, b"Via: 1.0 twisted_hangup\r\n"),
        (asks_elsewhere, b"Host: elsewhere\r\n"),
    ],
)
def test_application_that_changes_a_request(change: Callable[[Any], None], seen: bytes) -> None:
    """What it has done to this request goes out, and not what was kept of one before."""

    class Changes(ProxyResource):
        def render(self, request: Any) -> int:
            if request.uri == b"/1":
                change(request)
            return super().render(request)

    server = ServerInMemory()
    client = feed(HangupSite(proxy_in_memory(server, kind=Changes)))
    for target in (b"/0", b"/1", b"/2"):
        client.feed(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
    assert [seen in outbound.head for outbound in server.asked] == [False, True, False]


def test_operator_who_changes_the_proxy() -> None:
    """What it does from now on is what it is told now."""
    server = ServerInMemory()
    proxy = proxy_in_memory(server)
    client = feed(HangupSite(proxy))
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    client.feed(request)
    proxy.forwarding = Forwarding(host="rewrite", via=b"", forwarded="off")
    client.feed(request)
    assert server.asked[1].head == b"GET / HTTP/1.1\r\nHost: behind\r\n\r\n"


def test_addresses_are_those_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is kept for one client."""
    server = ServerInMemory()
    site = HangupSite(proxy_in_memory(server))
    heads = set()
    for host in ("192.0.2.1", "192.0.2.2"):
        monkeypatch.setattr(testing, "_CLIENT", host)
        client = feed(site)
        for _ in range(2):
            client.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        heads.add(server.asked[-1].head)
    assert len(heads) == 2


class ReadsNoCookies(Request):
    """Twisted reads the header for them, even if there are none."""

    def parseCookies(self) -> None:
        pass


@pytest.mark.parametrize("kind", [Request, ReadsNoCookies])
async def test_streams_keep_no_header(proxied: Callable[..., Proxied], kind: type[Request]) -> None:
    """Over HTTP/2 each request has a header of its own, whatever has been read of it."""
    heads: list[bytes] = []

    def server(connection: Connection) -> None:
        while head := connection.read_head():
            heads.append(head)
            connection.send(OK)

    front = proxied(server, tls=server_context())
    front.site.requestFactory = kind

    def ask() -> None:
        for name in (b"x-1", b"x-2"):
            client = H2Client(front.port)
            client.answer(client.request(b"/", (name, b"own")))
            client.close()

    await in_thread(ask)
    assert [(b"x-1: own" in head.lower(), b"x-2: own" in head.lower()) for head in heads] == [
        (True, False),
        (False, True),
    ]
