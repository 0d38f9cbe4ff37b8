"""`HangupAgent`: Node's "socket hang up" for Twisted's clients."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.client import URI, BrowserLikePolicyForHTTPS
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from .._arguments import must_be, must_be_number, must_be_reactor, must_have, must_take
from ..events import Field, ResponseHead
from ..limits import CONTENT_METHODS, Limits, OutboundTimeouts
from ..parser.grammar import TOKEN
from ..parser.target import DEFAULT_PORTS
from .connection import OutboundRequest
from .failures import RequestCancelled, anothers_request_failed
from .named import named_endpoint
from .pool import Exchange, OutboundPool
from .response import AnothersResponse, ClientRequest, ClientResponse, ResponseBody
from .url import RequestURL, request_url

if TYPE_CHECKING:
    from treq.client import HTTPClient

_SCHEME: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*):")

#: Headers that frame the message or the connection: we set them, and there is no upgrade.
_FRAMING: Final = frozenset({b"connection", b"content-length", b"transfer-encoding", b"upgrade"})


class Requests(Protocol):
    """The methods of an `IAgent`, for type checkers without the plugin for zope.interface."""

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]: ...


@implementer(IAgent)
class HangupAgent:
    """An `IAgent` that reports every way in which a server goes away as `ServerHangUp`.

    Use it in place of `twisted.web.client.Agent`, alone or under treq:

        agent = HangupAgent.from_reactor(reactor)
        response = await agent.treq_client().get("https://example.org/")

    `from_reactor` makes one with connections of its own, which fills every attribute of the error.
    Around another agent, attributes that this agent cannot provide are None.  Bodies fail in the
    same way.  If you cancel the Deferred that collects a body, the connection closes.

    It sends no request twice; `RetryAgent` does that.

    Args:
        agent: Any `IAgent`, such as `twisted.web.client.Agent`.  If it has a pool, set the pool's
            ``retryAutomatically`` to False: otherwise the pool silently resends some requests.

    Raises:
        TypeError: *agent* is not an agent.
    """

    def __init__(self, agent: IAgent | Requests) -> None:
        must_be_agent("agent", agent, "HangupAgent")
        self._sender: AnotherAgent | OwnConnections
        self._sender = agent if isinstance(agent, OwnConnections) else AnotherAgent(agent)

    @classmethod
    def from_reactor(
        cls,
        reactor: Any,
        *,
        policy: IPolicyForHTTPS | None = None,
        endpoint: Callable[[URI], IStreamClientEndpoint] | None = None,
        timeouts: OutboundTimeouts | None = None,
        limits: Limits | None = None,
        most_idle: int = 10,
    ) -> HangupAgent:
        """Make one with connections of its own, which are kept for the next request.

        Args:
            reactor: Makes connections, and gives the time.
            policy: Which certificates are trusted; by default those that a browser trusts.
            endpoint: Returns the endpoint for a ``twisted.web.client.URI``; by default its host and
                port.
            timeouts: How long servers may take.
            limits: What responses may cost; only ``head_*`` and ``chunk_*`` count.  Folded headers
                are unfolded, whatever ``lenience`` says.
            most_idle: Most idle connections that are kept for each server.

        Raises:
            TypeError: An argument has the wrong type.
        """
        must_be_reactor("reactor", reactor)
        if policy is not None:
            must_have("policy", policy, "an IPolicyForHTTPS", ("creatorForNetloc",))
        if endpoint is not None:
            must_take("endpoint", endpoint, "uri")
        check_bounds(timeouts, limits)
        must_be_number("most_idle", most_idle, whole=True)
        trust: Any = policy or BrowserLikePolicyForHTTPS()
        limits = limits or Limits()
        # RFC 9112, section 5.2: a user agent MUST replace obs-fold with SP, and goes on.
        limits = replace(limits, lenience=replace(limits.lenience, obs_fold=True))

        def by_name(uri: URI) -> IStreamClientEndpoint:
            secured = trust if uri.scheme == b"https" else None
            return named_endpoint(reactor, uri.host.decode("ascii"), uri.port, secured)

        def make_pool(uri: URI) -> OutboundPool:
            return OutboundPool(
                (endpoint or by_name)(uri),
                reactor,
                timeouts=timeouts,
                limits=limits,
                most_idle=most_idle,
            )

        return cls(OwnConnections(make_pool, by_name=endpoint is None))

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Send a request.

        Returns:
            A Deferred that fires with the `IResponse` once its head has arrived.  It fails with
            `ServerHangUp`, with `ResponseParseError` if the response is not HTTP, or with the
            failure of *bodyProducer*.  If you cancel it, the connection closes.

        Raises:
            ValueError: *method* or *uri* would break the request, or the URI names no possible
                server.  A password in *uri* is refused, and not shown.
        """
        return self._sender.request(method, uri, headers, bodyProducer)

    def treq_client(self) -> HTTPClient:
        """A client of treq that sends through this agent: ``get()``, ``post()``, cookies."""
        return treq_client(self)

    def close(self) -> Deferred[None]:
        """Close all connections of its own for good, and cancel the running requests.

        Later requests fail with a RuntimeError.  Around another agent this does nothing.

        Returns:
            A Deferred that fires with None when no connection is left.
        """
        return self._sender.close()


def treq_client(agent: Any) -> HTTPClient:
    """A client of treq that sends through *agent*."""
    from treq.client import HTTPClient  # here: most who import this package want a server

    return HTTPClient(agent)


def must_be_agent(name: str, agent: object, owner: str) -> None:
    """Raise TypeError unless *agent* is one; for a reactor the error names *owner*'s
    from_reactor."""
    cure = f"{owner}.from_reactor(reactor)" if hasattr(agent, "callLater") else ""
    must_have(name, agent, "an IAgent", ("request",), cure)
    must_take(f"{name}.request", agent.request, "method", "uri", "headers", "bodyProducer")  # type: ignore[attr-defined]  # it has one


def check_bounds(timeouts: object, limits: object) -> None:
    """Raise TypeError unless these are `OutboundTimeouts` and `Limits`, or None."""
    none = type(None)
    cure = "OutboundTimeouts(head_seconds=...)"
    must_be("timeouts", timeouts, (OutboundTimeouts, none), cure)
    must_be("limits", limits, (Limits, none), "Limits(head_bytes=...)")


@implementer(IAgent)
class AnotherAgent:
    """Sends with an agent that is not ours, and translates its errors."""

    def __init__(self, agent: IAgent | Requests) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        responding: Deferred[Any] = self._agent.request(method, uri, headers, bodyProducer)
        return responding.addCallbacks(AnothersResponse, anothers_request_failed)

    def close(self) -> Deferred[None]:
        """Do nothing: its connections are not ours to close."""
        return succeed(None)


@implementer(IAgent)
class OwnConnections:
    """Sends over connections of our own, from a pool for each server."""

    def __init__(self, make_pool: Callable[[URI], OutboundPool], by_name: bool) -> None:
        self._make_pool = make_pool
        self._by_name = by_name
        # A pool lives as long as its connections, which refer to it.
        self._pools: WeakValueDictionary[tuple[bytes, bytes, int], OutboundPool]
        self._pools = WeakValueDictionary()
        self._closed = False

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        uri = uri.strip()
        if not TOKEN.fullmatch(method) or method == b"CONNECT":
            raise ValueError(f"{method!r} is not a method of requests that have a response")
        scheme = _SCHEME.match(uri)
        if scheme is not None and scheme[1].lower() not in DEFAULT_PORTS:
            return fail(SchemeNotSupported(f"Unsupported scheme: {scheme[1]!r}"))
        url = request_url(uri, self._by_name)
        if self._closed:
            return fail(RuntimeError("the agent is closed"))
        headers = headers or Headers()
        receiver = _ResponseReceiver(ClientRequest(method, uri, headers))
        outbound = _outbound_request(method, url, headers, bodyProducer)
        receiver.exchange = self._pool(uri, url).request(outbound, receiver)
        return receiver.responding

    def close(self) -> Deferred[None]:
        self._closed = True
        closing = [pool.close() for pool in [*self._pools.values()]]
        return gatherResults(closing).addCallback(lambda _: None)

    def _pool(self, uri: bytes, url: RequestURL) -> OutboundPool:
        key = (url.scheme, url.host.lower(), url.port)
        pool = self._pools.get(key)
        if pool is None:
            parsed = URI.fromBytes(uri)
            parsed.host, parsed.port = url.host, url.port
            pool = self._pools[key] = self._make_pool(parsed)
        return pool


class _ResponseReceiver:
    """One request until the head of its response, then the body's; see `Receiver`."""

    def __init__(self, request: ClientRequest) -> None:
        self.exchange: Exchange | None = None
        self.responding: Deferred[IResponse] = Deferred(self._cancelled)
        self._request = request
        self._body: ResponseBody | None = None

    def _cancelled(self, responding: Deferred[IResponse]) -> None:
        exchange, self.exchange = self.exchange, None
        assert exchange is not None  # it is set before anybody can cancel
        phase = exchange.phase
        exchange.abort()
        responding.errback(Failure(RequestCancelled(phase)))

    def head(self, head: ResponseHead) -> None:
        if head.interim:
            return
        assert self.exchange is not None
        self._body = ResponseBody(self.exchange, head.until_close)
        self.responding.callback(ClientResponse(head, self._request, self._body))

    def data(self, data: bytes) -> None:
        assert self._body is not None
        self._body.data(data)

    def all_read(self) -> None:
        if self._body is not None:
            self._body.all_read()

    def end(self, trailers: list[Field]) -> None:
        assert self._body is not None
        self._body.end(trailers)

    def failed(self, error: Exception) -> None:
        self.exchange = None
        if self._body is not None:
            self._body.failed(error)
        else:
            self.responding.errback(Failure(error))


def _outbound_request(
    method: bytes, url: RequestURL, headers: Headers, body: IBodyProducer | None
) -> OutboundRequest:
    """The request in the form in which it is sent."""
    fields: list[Field] = [
        (name, value)
        for name, values in headers.getAllRawHeaders()
        if name.lower() not in _FRAMING
        for value in values
    ]
    if not headers.hasHeader(b"Host"):
        fields.insert(0, (b"Host", url.authority))
    length: int | None = 0
    if body is not None:
        length = None if body.length is UNKNOWN_LENGTH else body.length
    if length is None:
        fields.append((b"Transfer-Encoding", b"chunked"))
    elif body is not None or method in CONTENT_METHODS:
        fields.append((b"Content-Length", b"%d" % length))
    lines = [b"%b %b HTTP/1.1" % (method, url.target)]
    lines += [b"%b: %b" % line for line in fields]
    return OutboundRequest(method, b"\r\n".join([*lines, b"", b""]), body, length)
