"""A proxy in front of a server that does what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint

from twisted_hangup import HangupSite, UpstreamError
from twisted_hangup.proxy import ProxyResource

from .upstreams import Connection, RawServer
from .wire import Served, until

Serve = Callable[..., Served]


class Proxied:
    """A proxy, the server behind it, and what its journal heard."""

    def __init__(self, served: Served, server: RawServer, proxy: ProxyResource) -> None:
        self.port = served.port
        self.site: HangupSite = served.site
        self.served = served
        self.server = server
        self.proxy = proxy
        self.upstream_errors: list[UpstreamError] = []
        self.site.journal.watch_upstream(self.upstream_errors.append)

    async def until(self, true: Callable[[], Any]) -> None:
        await until(true)


@pytest.fixture
def proxied(serve: Serve) -> Iterator[Callable[..., Proxied]]:
    """Put a proxy before a script: ``proxied(script, path="", tls=None, **ProxyResource's)``.

    A clock given as ``reactor`` tells the time to what it asks of the server.
    """
    from twisted.internet import reactor as installed

    made: list[Proxied] = []

    def make(
        script: Callable[[Connection], object], path: str = "", tls: Any = None, **arguments: Any
    ) -> Proxied:
        server = RawServer(script)
        if "reactor" in arguments:
            endpoint = TCP4ClientEndpoint(cast(Any, installed), "127.0.0.1", server.port)
            arguments["endpoint"] = endpoint
        proxy = ProxyResource(server.url + path, **arguments)
        proxied = Proxied(serve(proxy, tls=tls, parsePOSTFormSubmission=False), server, proxy)
        made.append(proxied)
        return proxied

    yield make
    for proxied in made:
        proxied.site.hang_up_all()
        pytest_twisted.blockon(proxied.site.drain())
        pytest_twisted.blockon(proxied.proxy.pool.close())
        proxied.server.close()
