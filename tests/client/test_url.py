"""A URL is judged where it is given, and sent as it is."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from support.certificates import pem
from support.upstreams import OK, RawServer, always
from twisted.internet import reactor as installed
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.ssl import Certificate
from twisted.web.client import BrowserLikePolicyForHTTPS, readBody
from zope.interface import implementer

from twisted_hangup.client import HangupAgent, RetryAgent
from twisted_hangup.client.url import request_url
from twisted_hangup.proxy.upstream import Upstream

reactor: Any = installed

SECRET = "s3cret"


@pytest.mark.parametrize(
    "url, host, port, authority, target",
    [
        (b"http://h", b"h", 80, b"h", b"/"),
        (b"http://h?x=1", b"h", 80, b"h", b"/?x=1"),
        (b"http://h/?", b"h", 80, b"h", b"/?"),
        (b"http://h/a?", b"h", 80, b"h", b"/a?"),
        (b"http://h/a;", b"h", 80, b"h", b"/a;"),
        (b"http://h/a;b?c;d#e?f", b"h", 80, b"h", b"/a;b?c;d"),
        (b"http://h#e", b"h", 80, b"h", b"/"),
        (b"http://h//a/../b", b"h", 80, b"h", b"//a/../b"),
        (b"http://h/?u=http://a@b/", b"h", 80, b"h", b"/?u=http://a@b/"),
        (b"HTTPS://H.example:443/", b"H.example", 443, b"H.example", b"/"),
        (b"http://h:443/", b"h", 443, b"h:443", b"/"),
        (b"http://h:/", b"h", 80, b"h", b"/"),
        (b"http://my_service:81/", b"my_service", 81, b"my_service:81", b"/"),
        (b"http://_a.b-/", b"_a.b-", 80, b"_a.b-", b"/"),
        (b"http://h.example./", b"h.example.", 80, b"h.example.", b"/"),
        (b"http://127.0.0.1:8/", b"127.0.0.1", 8, b"127.0.0.1:8", b"/"),
        (b"http://[::1]/", b"::1", 80, b"[::1]", b"/"),
        (b"http://[::1]:81/", b"::1", 81, b"[::1]:81", b"/"),
    ],
)
def test_url(url: bytes, host: bytes, port: int, authority: bytes, target: bytes) -> None:
    """Host and port, and what of it is sent."""
    assert request_url(url)[1:] == (host, port, authority, target)


NO_SERVER = [
    *("http:///", "http://", "http://:80/", "http://a..b/", "http://.a/", "http://a:x/"),
    *("http://a:0/", "http://a:65536/", "http://a:123456789/", "http://a:1:2/", "http://[::1/"),
    *("http://[::g]/", "http://[1]/", "http://a b/", "http://a,b/", "http://a%2eb/", "a/b", "/a"),
    *(f"http://{'a' * 64}/", f"http://{'a.' * 127}aa/", "//a/", "http:a", "http:/a"),
]


@pytest.mark.parametrize("url", NO_SERVER)
def test_no_server(url: str) -> None:
    """A mistake is told at once, as one of the program's and no hang-up; a proxy does not start."""
    with pytest.raises(ValueError, match=r"\S"):
        HangupAgent.from_reactor(reactor).request(b"GET", url.encode())
    with pytest.raises(ValueError, match=r"\S"):
        Upstream(url)


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@h/",
        f"http://{SECRET}@h",
        f"https://user:{SECRET}@h:x/",
        f"http://user:{SECRET}@a..b/",
        f"http://user:{SECRET}@@h?a",
        f"http://a:{SECRET}@[::1/",
        f"HTTP://:{SECRET}@/",
        # What is not even that, since the password has what ends it.
        f"http://user:{SECRET}/x@h/",
        f"http://user:{SECRET}#@h",
        f"http://{SECRET}..a/@",
        f"http://[{SECRET}]/@",
        f"http://user:{SECRET}\xe4@h/",
        f"http://user:x/{SECRET}\xe4@h/",
        f"http:/{SECRET}@h/",
    ],
)
@pytest_twisted.ensureDeferred
async def test_password(url: str) -> None:
    """It is refused, and not shown."""
    agent = HangupAgent.from_reactor(reactor)
    for give in (
        lambda: agent.request(b"GET", url.encode("latin-1")),
        lambda: RetryAgent(agent).request(b"GET", url.encode("latin-1")),
        lambda: Upstream(url),
    ):
        error: BaseException | None = None
        try:
            await give()  # type: ignore[misc]
        except ValueError as raised:
            error = raised
        assert error is not None and ("userinfo" in str(error) or "@" in str(error))
        assert SECRET not in "".join(traceback.format_exception(error))


@implementer(IHostnameResolver)
class ToLoopback:
    """Knows every name."""

    def resolveHostName(
        self, resolutionReceiver: Any, hostName: str, portNumber: int = 0, *others: Any, **more: Any
    ) -> Any:
        resolutionReceiver.resolutionBegan(None)
        resolutionReceiver.addressResolved(IPv4Address("TCP", "127.0.0.1", portNumber))
        resolutionReceiver.resolutionComplete()


@pytest.fixture
def resolved() -> Iterator[None]:
    before = reactor.installNameResolver(ToLoopback())
    yield
    reactor.installNameResolver(before)


@pytest.mark.parametrize("host", ["my_service", "_a.b_c.example", "r3---sn-x.example"])
@pytest.mark.parametrize("secured", [True, False])
@pytest_twisted.ensureDeferred
async def test_names_that_idna_forbids(
    host: str, secured: bool, resolved: None, tmp_path: Path
) -> None:
    """They are reached as with curl, and over TLS the certificate is held against them."""
    context = None
    if secured:
        (tmp_path / "pem").write_bytes(pem(host))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "pem")
    server = RawServer(always(OK), tls=context)
    policy = BrowserLikePolicyForHTTPS(Certificate.loadPEM(pem(host)))
    agent = HangupAgent.from_reactor(reactor, policy=policy)
    scheme = "https" if secured else "http"
    response = await agent.request(b"GET", f"{scheme}://{host}:{server.port}/".encode())
    assert await readBody(response) == b"ok"
    if secured:
        with pytest.raises(Exception, match="ALTNAME"):
            await agent.request(b"GET", f"https://x{host}:{server.port}/".encode())
    await agent.close()
    server.close()


@pytest_twisted.ensureDeferred
async def test_host_for_an_endpoint_of_ones_own() -> None:
    """It has to be no name that a DNS knows: it may say where a UNIX socket is."""
    server = RawServer(always(OK))
    hosts: list[bytes] = []

    def endpoint(uri: Any) -> Any:
        hosts.append(uri.host)
        return TCP4ClientEndpoint(reactor, "127.0.0.1", server.port)

    agent = HangupAgent.from_reactor(reactor, endpoint=endpoint)
    assert await readBody(await agent.request(b"GET", b"http://%2Frun%2Fa.sock:/x")) == b"ok"
    assert hosts == [b"%2Frun%2Fa.sock"]
    assert b"Host: %2Frun%2Fa.sock\r\n" in server.connections[0].received
    await agent.close()
    server.close()
