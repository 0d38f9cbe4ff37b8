"""Where a trusted proxy has the connection, requests and their errors are its clients'."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from support.certificates import server_context
from support.http2_client import talk
from support.wire import Serve
from twisted.internet.address import IPv4Address
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from twisted_hangup import ForwardedClients, HangupSite, Limits, forward_client_errors
from twisted_hangup.report.text import peer_text
from twisted_hangup.testing import feed

GET = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.7\r\n"
POST = b"POST" + GET[3:]


class Who(Resource):
    """Tells who asks, in every way that Twisted has for it; /wait never does."""

    isLeaf = True

    def render(self, request: Any) -> Any:
        self.request = request
        if request.uri == b"/wait":
            return NOT_DONE_YET
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = request.getClientAddress().host, request.getClientIP(), request.client.host
        return b" ".join(str(one).encode() for one in told)


def trusting(root: Resource, **options: Any) -> HangupSite:
    return HangupSite(root, forwarded=ForwardedClients(["192.0.2.7", "127.0.0.1"]), **options)


class Own(Request):
    """An application's own class."""


class Reads(Request):
    """One that knows better."""

    def getClientAddress(self) -> Any:
        return IPv4Address("TCP", "198.51.100.1", 1)


def made(channel: Any, queued: Any) -> Any:
    return Own(channel, queued)


def own_site(root: Resource) -> Site:
    site = Site(root)
    forward_client_errors(site, forwarded=ForwardedClients(["192.0.2.7"]))
    return site


@pytest.mark.parametrize("make_site", [trusting, own_site])
@pytest.mark.parametrize("factory", [Request, Own, made])
def test_request(factory: Callable[..., Any], make_site: Callable[..., Site]) -> None:
    """Whatever class the request has, and also when it is over."""
    root = Who()
    site = make_site(root)
    site.requestFactory = factory  # type: ignore[assignment]
    logged: list[Any] = []
    site.log = lambda request: logged.append(request.getClientAddress().host)  # type: ignore[method-assign]
    client = feed(site, GET + b"\r\n", GET.replace(b"203.0.113.7", b"203.0.113.8") + b"\r\n")
    assert client.received.count(b"203.0.113.7 203.0.113.7 203.0.113.7") == 1
    assert client.received.count(b"203.0.113.8 203.0.113.8 203.0.113.8") == 1
    assert logged == ["203.0.113.7", "203.0.113.8"]
    assert root.request.getClientAddress().host == "203.0.113.8"


@pytest_twisted.ensureDeferred
async def test_http2(serve: Serve) -> None:
    """Each stream has its own client, and so have its errors."""
    served = serve(trusting(Who(), limits=Limits(body_bytes=5)), tls=server_context())
    field = b"x-forwarded-for"

    def run(client: Any) -> list[bytes]:
        first = client.request(b"/", (field, b"6.6.6.6"), (field, b"203.0.113.7"))
        second = client.request(b"/", (field, b"203.0.113.8"))
        third = client.request(
            b"/", (field, b"203.0.113.9"), (b"content-length", b"6"), method=b"POST", end=False
        )
        fourth = client.request(b"/", (b"a b", b"c"), (field, b"203.0.113.10"))
        client.answer(first, second, third, fourth)
        return [client.stream(one).body for one in (first, second)]

    bodies = await talk(served.port, run)
    assert bodies == [b" ".join([b"203.0.113.%d" % one] * 3) for one in (7, 8)]
    assert [peer_text(error.peer) for error in served.errors] == ["203.0.113.9", "203.0.113.10"]


@pytest_twisted.ensureDeferred
async def test_error_of_a_connection_over_http2(serve: Serve) -> None:
    """It is that of all who share the connection, and so of the proxy."""
    served = serve(trusting(Who()), tls=server_context())

    def run(client: Any) -> None:
        client.request(b"/wait", (b"x-forwarded-for", b"203.0.113.7"))
        client.raw(b"\0\0\1\6\0\0\0\0\0x").to_the_end()  # a PING of one byte

    await talk(served.port, run)
    [error] = [one for one in served.errors if one.code.startswith("ERR_HTTP2")]
    assert peer_text(error.peer).startswith("127.0.0.1:")


def test_application_has_the_last_word() -> None:
    """What a class of requests says of its client itself stays so."""
    site = trusting(Who())
    site.requestFactory = Reads
    assert feed(site, GET + b"\r\n").received.endswith(b"198.51.100.1 203.0.113.7 203.0.113.7")


@pytest.mark.parametrize("forwarded", [None, ForwardedClients(["192.0.2.8"])])
def test_nobody_else(forwarded: ForwardedClients | None) -> None:
    """Without a proxy to trust, the client is the other end of the connection."""
    client = feed(HangupSite(Who(), forwarded=forwarded), GET + b"\r\n")
    assert client.received.endswith(b"192.0.2.7 192.0.2.7 192.0.2.7")


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (POST + b"Transfer-Encoding: chunked\r\n\r\nx", "HPE_INVALID_CHUNK_SIZE"),
        (POST + b"Content-Length: 9\r\n\r\n", "ERR_HTTP_BODY_TOO_LARGE"),
        (GET + b"Host: b\r\n\r\n", "ERR_HTTP_INVALID_HOST"),
        (GET.replace(b"Host: a", b"Host: a/") + b"\r\n", "ERR_HTTP_INVALID_HOST"),
        (GET.replace(b"Host: a\r\n", b"") + b"\r\n", "ERR_HTTP_HOST_REQUIRED"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", "HPE_INVALID_TRANSFER_ENCODING"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "HPE_INVALID_TRANSFER_ENCODING"),
    ],
)
def test_error_inside_a_request(wire: bytes, code: str) -> None:
    """One whose head is known belongs to the client that the proxy names."""
    client = feed(trusting(Who(), limits=Limits(body_bytes=5)), *(bytes([one]) for one in wire))
    [error] = client.errors
    assert (error.code, peer_text(error.peer)) == (code, "203.0.113.7")


def test_hang_up_inside_a_request() -> None:
    for fin in True, False:
        client = feed(trusting(Who()), GET.replace(b"/", b"/wait", 1) + b"\r\n", fin=fin)
        if not fin:
            client.reset()
        assert [peer_text(error.peer) for error in client.errors] == ["203.0.113.7"]


@pytest.mark.parametrize(
    "wire",
    [
        b"\x16\x03",
        GET.partition(b"203")[0] + b"\0\r\n\r\n",  # the line of the proxy is not there yet
        GET + b"A b: c\r\n\r\n",  # and whether another one comes is not known
    ],
)
def test_error_outside_of_a_request(wire: bytes) -> None:
    """Nothing that a client has written before the proxy's line names anybody."""
    client = feed(trusting(Who()), wire)
    assert [error.peer for error in client.errors] == [client.peer]


def test_handler_has_the_same() -> None:
    site = trusting(Who())
    peers = []
    site.on_client_error(lambda failure, socket: peers.append((failure.value.peer, socket.peer)))
    feed(site, POST + b"Transfer-Encoding: chunked\r\n\r\nx")
    [(peer, of_socket)] = peers
    assert peer == of_socket
    assert peer.host == "203.0.113.7"
