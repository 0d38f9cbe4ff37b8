"""Node's "socket hang up" for Twisted's clients: an `IAgent` whose every loss is one error."""

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

#: What frames the message and the connection is ours; no other protocol is changed to.
_FRAMING: Final = frozenset({b"connection", b"content-length", b"transfer-encoding", b"upgrade"})


class Requests(Protocol):
    """What an `IAgent` does, for those who check types without the plugin for zope.interface."""

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]: ...


@implementer(IAgent)
class HangupAgent:
    """An agent that says in one way how a server went away: `ServerHangUp`.

    From `from_reactor` it has connections of its own and fills every attribute of the error.
    Around another agent it gives None for what it cannot see.  Bodies fail in the same way,
    and cancelling what collects a body closes the connection.

    No request is sent twice: that is `RetryAgent`'s.

    Args:
        agent: Any `IAgent`, such as `twisted.web.client.Agent`.  Its pool, if it has one,
            resends some requests silently unless its ``retryAutomatically`` is False.
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
        """Make one with connections of its own, kept for the next request.

        Args:
            reactor: For connections and time.
            policy: What certificates are trusted; a browser's by default.
            endpoint: How to reach a URI, in place of host and port.
            timeouts: How long servers may take.
            limits: What responses may cost; ``head_*`` and ``chunk_*`` count.  Folded fields
                are unfolded whatever its ``lenience`` says.
            most_idle: Connections kept for each server.

        Raises:
            TypeError: An argument is of the wrong type.
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
            A Deferred that fires with the `IResponse` when its head has come.  It fails with
            `ServerHangUp`, with `ParseError` where the response is not HTTP, or with what
            *bodyProducer* has failed with.  Cancelling it closes the connection.

        Raises:
            ValueError: *method* or *uri* would break the request, or there can be no such server;
                a password in *uri* is refused, and not shown.
        """
        return self._sender.request(method, uri, headers, bodyProducer)

    def treq_client(self) -> HTTPClient:
        """A client of treq's, which asks through this agent: ``get()``, ``post()``, cookies."""
        return treq_client(self)

    def close(self) -> Deferred[None]:
        """Close every connection of its own for good, and cancel what is under way.

        What is requested from now on fails with a RuntimeError.  Around another agent this does
        nothing.

        Returns:
            A Deferred that fires with None when no connection is left, and none can come.
        """
        return self._sender.close()


def treq_client(agent: Any) -> HTTPClient:
    """A client of treq's that asks through *agent*."""
    from treq.client import HTTPClient  # most who import this package want a server

    return HTTPClient(agent)


def must_be_agent(name: str, agent: object, owner: str) -> None:
    """Raise TypeError unless *agent* is one; with a reactor *owner* makes its own."""
    cure = f"{owner}.from_reactor(reactor)" if hasattr(agent, "callLater") else ""
    must_have(name, agent, "an IAgent", ("request",), cure)
    must_take(f"{name}.request", agent.request, "method", "uri", "headers", "bodyProducer")  # type: ignore[attr-defined]  # it has one


def check_bounds(timeouts: object, limits: object) -> None:
    """Raise TypeError unless these are of servers that we ask, or None."""
    none = type(None)
    cure = "OutboundTimeouts(head_seconds=...)"
    must_be("timeouts", timeouts, (OutboundTimeouts, none), cure)
    must_be("limits", limits, (Limits, none), "Limits(head_bytes=...)")


@implementer(IAgent)
class AnotherAgent:
    """Sends with an agent that is not ours, and says in our way how a server went away."""

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
        """Its connections are not ours to close."""
        return succeed(None)


@implementer(IAgent)
class OwnConnections:
    """Sends over connections of our own, kept in a pool for each server."""

    def __init__(self, make_pool: Callable[[URI], OutboundPool], by_name: bool) -> None:
        self._make_pool = make_pool
        self._by_name = by_name
        # A pool lives as long as one of its connections, which refer to it.
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
    """One request until the head of its response; then the body's. See `Receiver`."""

    def __init__(self, request: ClientRequest) -> None:
        self.exchange: Exchange | None = None
        self.responding: Deferred[IResponse] = Deferred(self._cancelled)
        self._request = request
        self._body: ResponseBody | None = None

    def _cancelled(self, responding: Deferred[IResponse]) -> None:
        exchange, self.exchange = self.exchange, None
        assert exchange is not None  # it is there before anybody can cancel
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
    """The request as it goes out."""
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
