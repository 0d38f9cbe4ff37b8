"""What a client reads where the server answers it itself: a sentence, for a browser as a page."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest
import pytest_twisted
from support.certificates import server_context
from support.wire import BAD, DEFAULT, Client, HandClock, Paths, Serve, Served, in_thread, talk
from twisted.python.threadpool import ThreadPool
from twisted.web.resource import Resource

from twisted_hangup import HangupWSGIResource, Limits, ProxyResource, Timeouts
from twisted_hangup.server.pages import SENTENCES, ErrorPages, wants_html
from twisted_hangup.service.files import StaticFiles

#: Seconds: longer than a request may take.
LONG = 600.0

BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


class Raises(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        raise ZeroDivisionError


class NoBytes(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> Any:
        return "text with \xe4"


class Begun(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        request.write(b"begun")
        raise ZeroDivisionError


HEAD = b"%b %b HTTP/1.1\r\nHost: a\r\nAccept: %b\r\n"

#: What is asked, and how it is answered.
ASKED = [
    (HEAD + b"Bad SECRET: 1\r\n\r\n", b"GET", b"/", 400),
    (HEAD + b"\r\n", b"GET", b"/SECRET", 404),
    (HEAD + b"\r\n", b"POST", b"/raises?SECRET", 405),
    (HEAD + b"Content-Length: 9\r\n\r\nSECRET", b"POST", b"/slow", 408),
    (HEAD + b"Content-Length: 999\r\n\r\n", b"POST", b"/SECRET", 413),
    (HEAD + b"Expect: SECRET\r\n\r\n", b"GET", b"/slow", 417),
    (HEAD + b"Cookie: " + b"SECRET" * 200 + b"\r\n\r\n", b"GET", b"/slow", 431),
    (HEAD + b"\r\n", b"GET", b"/raises?SECRET", 500),
    (HEAD + b"\r\n", b"GET", b"/nobytes?SECRET", 500),
    (HEAD + b"\r\n", b"GET", b"/wsgi/SECRET", 500),
    (HEAD + b"\r\n", b"DELETE", b"/raises?SECRET", 501),
    (HEAD + b"\r\n", b"CONNECT", b"SECRET:80", 501),
    (HEAD + b"\r\n", b"GET", b"/proxy/SECRET", 502),
]
PLAIN_ONLY = [
    (b"GET /" + b"SECRET" * 200 + b" HTTP/1.1\r\n", 414),
    (b"GET /SECRET HTTP/1.1\r\nHos", 408),
    (b"\x16\x03\x01SECRET", 400),
]


def application(environ: Any, start_response: Any) -> list[bytes]:
    raise ZeroDivisionError


@pytest.fixture
def site(serve: Serve, tmp_path: Any, expected_errors: Any) -> Any:
    """A site with pages, and everything that can go wrong behind it."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    threads = ThreadPool(0, 1)
    threads.start()
    root: Any = StaticFiles(str(tmp_path))
    root.putChild(b"raises", Raises())
    root.putChild(b"nobytes", NoBytes())
    root.putChild(b"begun", Begun())
    root.putChild(b"slow", Paths().slow)
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))  # and does not listen: nobody else can have this port meanwhile
    host, port = deaf.getsockname()
    root.putChild(b"proxy", ProxyResource(f"http://{host}:{port}", reactor=reactor))
    root.putChild(b"wsgi", HangupWSGIResource(reactor, threads, application))
    limits = Limits(head_bytes=1000, body_bytes=100)
    served = serve(root, limits=limits, reactor=HandClock())
    served.site.context.pages = ErrorPages()
    yield served
    deaf.close()
    threads.stop()
    expected_errors.flush()


async def answer(site: Served, wire: bytes, status: int) -> bytes:
    """What *site* answers *wire*, which is complete unless the *status* is 408."""
    client = await in_thread(lambda: Client(site.port).send(wire))
    if status == 408:
        await site.has_read(client)
        clock: Any = site.site.reactor
        clock.wait(LONG)
    received: bytes = await in_thread(client.read_all)
    client.close()
    return received


def parts(response: bytes) -> tuple[int, bytes, str]:
    """Status, header and body, which is as long as its Content-Length."""
    head, _, body = response.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    assert length is not None and int(length[1]) == len(body)
    return int(head.split()[1]), head, body.decode("utf-8")


@pytest.mark.parametrize("wire, method, target, status", ASKED, ids=lambda value: str(value)[:20])
@pytest_twisted.ensureDeferred
async def test_page(site: Any, wire: bytes, method: bytes, target: bytes, status: int) -> None:
    """A browser gets a page, and everybody else a sentence; neither has a byte of the client's."""
    for accept in (BROWSER, b"*/*"):
        data = wire % (method, target, accept)
        if b"Content-Length" not in wire:
            data = data.replace(b"Host: a\r\n", b"Host: a\r\nConnection: close\r\n")
        got, head, body = parts(await answer(site, data, status))
        assert got == status
        assert b"\r\nVary: Accept" in head
        assert "SECRET" not in body
        if accept is BROWSER:
            assert b"\r\nContent-Type: text/html; charset=utf-8" in head
            assert f"<title>{status} " in body
        else:
            assert b"\r\nContent-Type: text/plain; charset=utf-8" in head
            assert body.count("\n") == 1
            assert "proxy" in body or body == SENTENCES[status] + "\n"


@pytest.mark.parametrize("wire, status", PLAIN_ONLY)
@pytest_twisted.ensureDeferred
async def test_before_accept(site: Any, wire: bytes, status: int) -> None:
    """Who has not come to say what he reads gets the sentence."""
    got, _, body = parts(await answer(site, wire, status))
    assert (got, body) == (status, SENTENCES[status] + "\n")


@pytest_twisted.ensureDeferred
async def test_allow(site: Any) -> None:
    """405 says which methods there are, as Twisted does."""
    wire = HEAD % (b"POST", b"/raises", BROWSER) + b"Connection: close\r\n\r\n"
    allow = re.search(rb"\r\nAllow: (.*)\r\n", await talk(site.port, wire))
    assert allow is not None and {*allow[1].split(b", ")} == {b"GET", b"HEAD"}


@pytest.mark.parametrize("target", [b"/nix", b"/raises", b"/proxy/", b"/wsgi"])
@pytest_twisted.ensureDeferred
async def test_head(site: Any, target: bytes) -> None:
    """HEAD has the length of the page, and no page."""
    answers = []
    for method in (b"GET", b"HEAD"):
        wire = HEAD % (method, target, BROWSER) + b"Connection: close\r\n\r\n"
        answers.append(await talk(site.port, wire))
    got, asked = answers
    assert asked.endswith(b"\r\n\r\n")
    length = re.search(rb"Content-Length: \d+", got)
    assert length is not None and length[0] in asked


@pytest_twisted.ensureDeferred
async def test_over_http2(serve: Serve) -> None:
    """A refused request and a page that is not there are answered in the same way."""
    from support.http2_client import H2Client, fields_of
    from support.http2_client import talk as talk_http2

    served = serve(Raises(), tls=server_context())
    served.site.context.pages = ErrorPages()

    def ask(client: H2Client) -> None:
        for method, path, status in ((b"GET", b"/a b", 400), (b"POST", b"/", 405)):
            frame = client.headers(fields_of(path, (b"accept", BROWSER), method=method))
            answer = client.send(frame).answer(frame.stream_id)
            assert answer.status == status
            assert answer.fields[b"content-type"] == b"text/html; charset=utf-8"
            assert int(answer.fields[b"content-length"]) == len(answer.body)
            assert f"<title>{status} ".encode() in answer.body

    await talk_http2(served.port, ask)


@pytest_twisted.ensureDeferred
async def test_response_that_has_begun(site: Any) -> None:
    """No page is put after the begin of another response."""
    client = await in_thread(lambda: Client(site.port).send(HEAD % (b"GET", b"/begun", BROWSER)))
    client.send(b"\r\n")
    assert b"<title>" not in await in_thread(lambda: client.read_until(b"never"))
    client.close()


@pytest_twisted.ensureDeferred
async def test_forgetful_handler(serve: Serve, expected_errors: Any) -> None:
    """The answer that comes when a handler's time is over is the same page."""
    served = serve(timeouts=Timeouts(handler_seconds=0.1))
    served.site.context.pages = ErrorPages()
    served.site.on_client_error(lambda failure, socket: None)
    assert parts(await talk(served.port, BAD))[2] == SENTENCES[400] + "\n"
    expected_errors.flush()


@pytest_twisted.ensureDeferred
async def test_handlers_answer_comes_first(serve: Serve) -> None:
    """What a handler answers is what the client reads."""
    served = serve()
    served.site.context.pages = ErrorPages()
    served.site.on_client_error(lambda failure, socket: b"mine")
    assert await talk(served.port, BAD) == b"mine"


@pytest_twisted.ensureDeferred
async def test_without_pages(serve: Serve) -> None:
    """The library's default is Node's answer, byte for byte."""
    assert await talk(serve().port, BAD) == DEFAULT


@pytest.mark.parametrize(
    "accept, html",
    [
        ([], False),
        ([BROWSER], True),
        ([b"*/*"], False),
        ([b"text/*"], False),
        ([b"text/html"], True),
        ([b"TEXT/HTML ; Q=0.5"], True),
        ([b"text/html;q=0"], False),
        ([b"text/html;q=0.000"], False),
        ([b"text/html;q=0.4, text/plain;q=0.5"], False),
        ([b"text/plain", b"text/html"], True),
        ([b"text/html;level=1;q=0.1, text/plain;q=0.2"], False),
        ([b"text/html;q=nonsense"], True),
        ([b"application/json, text/plain, */*"], False),
        ([b"\xff,;;,q=1,text/html;"], True),
    ],
)
def test_who_reads_html(accept: list[bytes], html: bool) -> None:
    assert wants_html(accept) is html


def test_pages_of_an_operator() -> None:
    """They stand before ours, each for those who read its type; they may load what they like."""
    pages = ErrorPages({"404.html": b"<p>mine", "500.txt": b"mine"})
    body, fields = pages.page(404, [BROWSER])
    assert body == b"<p>mine"
    assert dict(fields).keys() == {b"Content-Type", b"Vary"}
    assert pages.page(404, [b"*/*"])[0].decode() == SENTENCES[404] + "\n"
    assert pages.page(500, [])[0] == b"mine"
    assert b"<title>500 " in pages.page(500, [BROWSER])[0]


def test_status_without_a_sentence() -> None:
    """Whatever a subclass of `ClientError` answers has its phrase."""
    assert ErrorPages().page(418, [])[0] == b"I'm a teapot.\n"
    assert ErrorPages().page(599, [])[0] == b"Unknown Status.\n"
