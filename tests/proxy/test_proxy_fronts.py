"""The proxy over HTTP/2 and TLS, on both of its sides."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hyperframe.frame import RstStreamFrame
from support.certificates import pem, server_context
from support.http2_client import H2Client
from support.proxying import Proxied
from support.proxying import proxied as proxied
from support.upstreams import OK, Connection, RawServer, always
from support.wire import PATIENCE, Serve, in_thread, statuses, talk, wait_for
from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.web.resource import Resource
from twisted.web.server import Site

from twisted_hangup import HangupSite, ProxyResource, UpstreamError
from twisted_hangup.server.bodies import LARGEST_HELD

LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
CANCEL = 8  # RFC 9113, section 7


@pytest.mark.parametrize("begun", [False, True])
@pytest_twisted.ensureDeferred
async def test_stream_is_given_up(proxied: Callable[..., Proxied], begun: bool) -> None:
    """A stream that its client resets aborts its own upstream request, and no other."""

    given_up = threading.Event()

    def script(connection: Connection) -> None:
        if b"/other" in connection.read_head():
            given_up.wait(PATIENCE)
            connection.send(OK)
            return
        if begun:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        connection.read_all()

    there = proxied(script, tls=server_context())

    def run() -> bytes:
        client = H2Client(there.port)
        first, other = client.request(b"/"), client.request(b"/other")
        if begun:
            client.until(lambda: client.stream(first).body)
        wait_for(lambda: [bool(each.received) for each in there.server.connections] == [True] * 2)
        assert not there.server.ended
        client.send(RstStreamFrame(first, error_code=CANCEL))
        wait_for(lambda: there.server.ended)
        given_up.set()
        body = client.answer(other).body
        client.close()
        return body

    assert await in_thread(run) == b"ok"
    assert there.upstream_errors == []


@pytest_twisted.ensureDeferred
async def test_interim_over_http2(proxied: Callable[..., Proxied]) -> None:
    """103 crosses to HTTP/2, too; no field of the other connection does."""
    there = proxied(
        always(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nKeep-Alive: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nKeep-Alive: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nok\r\n0\r\nX: y\r\n\r\n"
        ),
        tls=server_context(),
    )

    def run() -> tuple[list[int], bytes, set[bytes]]:
        client = H2Client(there.port)
        stream = client.answer(client.request(b"/"))
        client.close()
        return stream.statuses, stream.body, set(stream.fields)

    found, body, names = await in_thread(run)
    assert (found, body) == ([103, 200], b"ok")
    assert not names & {b"keep-alive", b"transfer-encoding", b"connection"}


def over_tls(port: int, url: str) -> ProxyResource:
    trusted = optionsForClientTLS("localhost", trustRoot=Certificate.loadPEM(pem()))
    return ProxyResource(
        url, endpoint=wrapClientTLS(trusted, HostnameEndpoint(reactor, "localhost", port))
    )


@pytest.mark.parametrize("clean", [True, False])
@pytest_twisted.ensureDeferred
async def test_end_of_a_tls_server(serve: Serve, tmp_path: Path, clean: bool) -> None:
    """Without TLS's own end a body that ends with the connection may be cut, and is."""
    (tmp_path / "pem").write_bytes(pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")

    def script(connection: Connection) -> None:
        connection.socket = context.wrap_socket(connection.socket, server_side=True)
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        if clean:
            connection.socket = connection.socket.unwrap()

    server = RawServer(script)
    proxy = over_tls(server.port, "https://localhost/")
    served = serve(HangupSite(proxy))
    errors: list[UpstreamError] = []
    served.site.journal.watch_upstream(errors.append)
    received = await talk(served.port, LAST)
    assert received.endswith(b"4\r\nhalf\r\n0\r\n\r\n") == clean
    assert [error.code for error in errors] == ([] if clean else ["ERR_UPSTREAM_RESET"])
    await proxy.pool.close()
    server.close()


@pytest.mark.parametrize("size", [10, 3_000_000])
@pytest_twisted.ensureDeferred
async def test_upload_over_tls(serve: Serve, size: int) -> None:
    """A body goes to a TLS server whole, and the connection is kept for one that is held."""

    class Count(Resource):
        isLeaf = True

        def render_POST(self, request: Any) -> bytes:
            return b"%d from %d" % (
                len(request.content.read()),
                request.getClientAddress().port,
            )

    server = serve(Count(), tls=server_context())
    proxy = over_tls(server.port, "https://localhost/")
    served = serve(proxy, parsePOSTFormSubmission=False)
    post = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
    answers = [await talk(served.port, post, b"x" * size) for _ in range(2)]
    first, second = (answer.rpartition(b"\r\n\r\n")[2] for answer in answers)
    assert first.startswith(b"%d from " % size) and second.startswith(b"%d from " % size)
    assert (first == second) == (size <= LARGEST_HELD)
    await proxy.pool.close()


@pytest.mark.parametrize("stock", [False, True])
@pytest_twisted.ensureDeferred
async def test_part_of_a_tree(serve: Serve, tmp_path: Path, stock: bool) -> None:
    """Below a path, over a UNIX socket, on a site of ours or of Twisted's."""
    path = str(tmp_path / "s")

    class Told(Resource):
        isLeaf = True

        def render(self, request: Any) -> bytes:
            return b"%b %b" % (request.uri, request.getHeader(b"Host"))

    serve(Told(), unix=path)
    proxy = ProxyResource("http://told/v1/", endpoint=UNIXClientEndpoint(reactor, path))
    root = Resource()
    root.putChild(b"api", proxy)
    served = serve(Site(root) if stock else root)
    answer = await talk(served.port, LAST.replace(b"/last", b"/api/x%2Fy?z"))
    assert answer.endswith(b"/v1/x%2Fy?z a")
    assert statuses(await talk(served.port, LAST)) == [404]
    await proxy.pool.close()


@pytest_twisted.ensureDeferred
async def test_failure_on_a_stock_site(serve: Serve) -> None:
    """Where no journal is kept, the failure is in Twisted's log, and the client has its 502."""
    server = RawServer(lambda connection: connection.read_head())
    proxy = ProxyResource(server.url)
    served = serve(Site(proxy))
    assert statuses(await talk(served.port, LAST)) == [502]
    await proxy.pool.close()
    server.close()


@pytest_twisted.ensureDeferred
async def test_authority_and_host_that_mean_the_same(proxied: Callable[..., Proxied]) -> None:
    """The server behind gets one Host: ``:authority``, as it was sent (RFC 9113, 8.3.1)."""
    there = proxied(always(OK), tls=server_context())

    def run() -> int | None:
        client = H2Client(there.port)
        try:
            return client.answer(client.request(b"/", (b"host", b"LocalHost:443"))).status
        finally:
            client.close()

    assert await in_thread(run) == 200
    (connection,) = there.server.connections
    assert connection.received.lower().count(b"\r\nhost:") == 1
    assert b"\r\nHost: localhost\r\n" in connection.received
