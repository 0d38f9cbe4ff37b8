"""A proxy in front of a server that does what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.internet.task import Clock

from twisted_hangup import HangupSite, Limits, UpstreamError
from twisted_hangup.client.connection import OutboundRequest, Receiver
from twisted_hangup.events import ResponseHead
from twisted_hangup.proxy import ProxyResource

from .certificates import pem
from .upstreams import Connection, RawServer
from .wire import HandClock, Served

Serve = Callable[..., Served]


class Proxied:
    """A proxy, the server behind it, and what its journal heard.

    Attributes:
        clock: By which the server has its time.
    """

    def __init__(
        self, served: Served, server: RawServer, proxy: ProxyResource, clock: HandClock
    ) -> None:
        self.port = served.port
        self.site: HangupSite = served.site
        self.served = served
        self.server = server
        self.proxy = proxy
        self.clock = clock
        self.upstream_errors: list[UpstreamError] = []
        self.site.journal.watch_upstream(self.upstream_errors.append)


@pytest.fixture
def proxied(serve: Serve, tmp_path: Path) -> Iterator[Callable[..., Proxied]]:
    """Put a proxy before a script: ``proxied(script, path="", tls=None, **ProxyResource's)``.

    *over* is how the proxy reaches it; over TLS the script does its part of that.  *unix* is the
    path of a socket that the site listens on, *listen* an endpoint that is wrapped in
    `hangup_endpoint`, and *site_limits* are the site's.
    """
    from twisted.internet import reactor

    made: list[Proxied] = []

    def make(
        script: Callable[[Connection], object],
        path: str = "",
        tls: Any = None,
        *,
        over: str = "TCP",
        unix: str | None = None,
        listen: Any = None,
        site_limits: Limits | None = None,
        **arguments: Any,
    ) -> Proxied:
        clock = HandClock()
        endpoint: Any
        if over == "UNIX":
            socket = str(tmp_path / "upstream")
            server = RawServer(script, unix=socket)
            endpoint = UNIXClientEndpoint(reactor, socket)
        else:
            server = RawServer(script)
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", server.port)
        if over == "TLS":
            trust = optionsForClientTLS("localhost", Certificate.loadPEM(pem()))
            endpoint = wrapClientTLS(trust, endpoint)
        proxy = ProxyResource(server.url + path, reactor=clock, endpoint=endpoint, **arguments)
        served = serve(
            proxy,
            tls=tls,
            unix=unix,
            endpoint=listen,
            limits=site_limits,
            parsePOSTFormSubmission=False,
        )
        proxied = Proxied(served, server, proxy, clock)
        made.append(proxied)
        return proxied

    yield make
    for proxied in made:
        proxied.site.hang_up_all()
        pytest_twisted.blockon(proxied.site.drain())
        pytest_twisted.blockon(proxied.proxy.pool.close())
        proxied.server.close()


class ServerInMemory:
    """Stands for the pool of a proxy: it keeps the requests.

    Args:
        answers: Whether each is answered at once; else its receiver waits in *receivers*.

    Attributes:
        aborted: How many were given up.
    """

    def __init__(self, answers: bool = True) -> None:
        self.answers = answers
        self.asked: list[OutboundRequest] = []
        self.receivers: list[Receiver] = []
        self.aborted = 0

    def request(self, outbound: OutboundRequest, receiver: Receiver, *, fresh: bool) -> Any:
        self.asked.append(outbound)
        self.receivers.append(receiver)
        if self.answers:
            self.answer()
        return SimpleNamespace(connection=None, abort=self._abort)

    def answer(self) -> None:
        """Answer the oldest request that waits."""
        receiver = self.receivers.pop(0)
        receiver.head(ResponseHead(200, b"OK", b"1.1", [(b"Content-Length", b"0")]))
        receiver.end([])

    def _abort(self) -> None:
        self.aborted += 1


def proxy_in_memory(
    server: ServerInMemory, url: str = "http://behind", kind: Any = ProxyResource, **options: Any
) -> ProxyResource:
    endpoint: Any = SimpleNamespace(connect=print)  # never asked
    proxy: ProxyResource = kind(url, reactor=Clock(), endpoint=endpoint, **options)
    proxy.pool = server  # type: ignore[assignment]  # it has what is used
    return proxy
