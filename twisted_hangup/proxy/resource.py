"""`ProxyResource`: a reverse proxy that stops the upstream server's work when the client hangs up.

It uses connections of its own to the upstream server (`twisted_hangup.client.connection`), because
Twisted's `Agent` drops interim responses, upgrades and trailers.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IPushProducer, IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from .._arguments import must_be, must_be_number, must_be_reactor, must_have
from ..client.agent import check_bounds
from ..client.connection import OutboundRequest
from ..client.named import named_endpoint
from ..client.pool import Exchange, OutboundPool, PoolBusy
from ..errors import ParseError, ServerHangUp, UpstreamError
from ..events import Field, RequestHead, ResponseHead
from ..journal.journal import Journal
from ..limits import CONTENT_METHODS, IDEMPOTENT_METHODS, Limits, OutboundTimeouts
from ..server.bodies import StreamedBody
from ..server.headers import HeadersCache, fields_of, headers_of, replace_fields
from ..server.lean import untouched
from ..server.pages import error_page
from ..server.request import Carrier, HangupRequest, UpgradableCarrier
from ..transport.clock import steady
from ..transport.paused import PausedSockets
from .forwarding import (
    Client,
    Forwarding,
    asks_for_tunnel,
    listed,
    request_fields,
    response_fields,
    trailer_fields,
)
from .tunnel import Tunnel
from .upstream import CannotForward, Upstream, field_section, host_asked_for, request_line

#: After how many seconds a client may ask again if all connections to the server are in use.
BUSY_SECONDS: Final = 1

#: The longest Max-Forwards, in digits; a longer one counts as endless.
_COUNT: Final = re.compile(rb"[0-9]{1,9}")

_log = Logger()


class ProxyResource(Resource):
    """A resource that passes all requests at and below it on to another server.

    Use it as a root resource, or put it into a tree:

        site = HangupSite(ProxyResource("http://127.0.0.1:9000"))

    A request body of more than 64 KiB is passed on while it arrives, if Twisted is sure to find
    this resource: at the root of a site, or put there by ``putChild`` alone.  Any other body, and
    every one with *buffer_requests*, arrives completely before it is passed on.  Twisted keeps it
    in memory up to 100,000 bytes, and in a temporary file beyond.  ``Limits.body_bytes`` bounds
    both.  The body of a response is passed on as it arrives.  Nothing is passed on faster than the
    other side takes it.

    If the client hangs up, the upstream request is aborted at once.  If the upstream server fails,
    the client gets a 502 or 504; once a part of the response has been sent, the client's connection
    is cut.  Both are an `UpstreamError` in the site's journal.  If the server closes an idle
    connection just as a request is sent on it, the request is sent once more, provided that its
    method is idempotent.

    Args:
        url: The URL of the upstream server.  Without a path, requests keep their target.  A path
            replaces the path at which this resource stands.  ``unix:/run/app.sock`` is a server on
            a UNIX socket.
        reactor: Makes connections, and gives the time; the installed one by default.
        endpoint: How to reach the server, if the URL does not say.
        forwarding: What the server is told about the client.
        timeouts: How long the server may take.
        limits: What its responses may cost; only ``head_*`` and ``chunk_*`` count.
        trust_root: Which certificates to trust if the URL is ``https``, as Twisted's
            ``trustRootFromCertificates`` returns it; the system's by default.
        most_connections: Most connections to the server at a time; 0 = no limit.  Beyond them, as
            many requests again wait, each for at most ``timeouts.connect_seconds``.  Others are
            answered 503 with a Retry-After.
        buffer_requests: Pass no request on before its body is complete.  A client that sends
            slowly then occupies no connection to the server, and a broken upload never gets there.

    Attributes:
        takes_bodies: Whether it may be asked before the body of a request is complete.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: *url* is not an ``http`` or ``https`` URL with a host, nor ``unix:`` and a path;
            or there is a *trust_root* for a URL that is not ``https``.
    """

    isLeaf = True

    def __init__(
        self,
        url: str,
        *,
        reactor: Any = None,
        endpoint: IStreamClientEndpoint | None = None,
        forwarding: Forwarding | None = None,
        timeouts: OutboundTimeouts | None = None,
        limits: Limits | None = None,
        trust_root: Any = None,
        most_connections: int = 0,
        buffer_requests: bool = False,
    ) -> None:
        super().__init__()
        if reactor is None:
            from twisted.internet import reactor
        upstream = Upstream(url)
        must_be_reactor("reactor", reactor)
        if endpoint is not None:
            cure = f"clientFromString(reactor, {endpoint!r})" if isinstance(endpoint, str) else ""
            must_have("endpoint", endpoint, "an IStreamClientEndpoint", ("connect",), cure)
        none = type(None)
        must_be("forwarding", forwarding, (Forwarding, none), "Forwarding(host=...)")
        check_bounds(timeouts, limits)
        if trust_root is not None:
            _check_trust_root(trust_root)
            if not upstream.secure:
                raise ValueError(f"trust_root is for https: URLs, and not for {url}")
        must_be_number("most_connections", most_connections, whole=True)
        must_be("buffer_requests", buffer_requests, bool)
        self.takes_bodies = not buffer_requests
        self.upstream = upstream
        self.forwarding = forwarding or Forwarding()
        #: The ends of tunnels whose peers send no more.
        self.ended = PausedSockets(steady(reactor))
        self.pool = OutboundPool(
            endpoint or _endpoint(upstream, reactor, trust_root),
            reactor,
            timeouts=timeouts,
            limits=limits,
            most_connections=most_connections,
        )

    def render(self, request: Any) -> int:
        """Pass *request* on."""
        if request.method in (b"OPTIONS", b"TRACE") and self._is_the_last(request):
            return NOT_DONE_YET
        if request.method == b"CONNECT":  # a stock Site accepts it
            _answer(request, 501, "This server opens no tunnels to other servers.")
            return NOT_DONE_YET
        try:
            relay = _Relay(self, request)
        except CannotForward as error:
            _answer(request, 400, f"This request cannot be passed on: {error}.")
        else:
            relay.start()
        return NOT_DONE_YET

    def _is_the_last(self, request: Any) -> bool:
        """Answer TRACE or OPTIONS here if Max-Forwards is 0 (RFC 9110, section 7.6.2)."""
        value = request.getHeader(b"Max-Forwards")
        if value is None or not _COUNT.fullmatch(value):
            return False
        if int(value):
            request.requestHeaders.setRawHeaders(b"Max-Forwards", [b"%d" % (int(value) - 1)])
            return False
        request.setResponseCode(204 if request.method == b"OPTIONS" else 405)
        request.setHeader(b"Content-Length", b"0")
        request.finish()
        return True


class _Header(NamedTuple):
    """The header of a request to the server.

    Attributes:
        section: As it is sent, with the empty line.
        trailers_wanted: Whether the client asks for trailers.
        upgrade: Whether the server may answer 101.
    """

    section: bytes
    trailers_wanted: bool
    upgrade: bool


@implementer(IPushProducer)
class _Relay:
    """One request and its response on their way through the proxy."""

    def __init__(self, proxy: ProxyResource, request: Any) -> None:
        self._proxy = proxy
        self._request = request
        #: The body while it comes; None where all of it is there.
        self._streamed: StreamedBody | None = getattr(request, "_hangup_streamed", None)
        self._outbound = self._make_outbound()
        self._exchange: Exchange | None = None
        self._retried = False
        self._producing = False
        self._over = False

    def start(self) -> None:
        """Send the request."""
        request = self._request
        if isinstance(request, HangupRequest):
            request._hangup_lost = self._give_up  # a Deferred for each request takes longer
        else:
            request.notifyFinish().addErrback(self._eb_client_left)
        # What is not kept cannot be sent again where an idle connection turns out to be closed.
        self._send(fresh=self._streamed is not None)

    def _send(self, fresh: bool) -> None:
        self._exchange = self._proxy.pool.request(self._outbound, self, fresh=fresh)

    # The request.

    def _make_outbound(self) -> OutboundRequest:
        request, proxy = self._request, self._proxy
        body: Any = self._streamed
        length: int | None = 0
        cache = untouched(request)
        if cache is not None:
            header = self._kept_header(cache)
        else:
            if body is None:
                body = request.content
                length = body.seek(0, 2)
                body.seek(0)
            else:
                length = None if body.length is UNKNOWN_LENGTH else body.length
            header = self._make_header(request.requestHeaders, length)
        self._trailers_wanted = header.trailers_wanted
        target = proxy.upstream.target(request.method, request.uri, len(request.prepath))
        return OutboundRequest(
            request.method,
            request_line(request.method, target) + header.section,
            None if length == 0 else body,
            length,
            header.upgrade,
        )

    def _kept_header(self, cache: HeadersCache) -> _Header:
        """What `_make_header` makes of a header in *cache*: once, while nothing else changes."""
        request, proxy = self._request, self._proxy
        key = (
            *(proxy, proxy.upstream, proxy.forwarding),
            *(request.clientproto, request.isSecure(), request.method in CONTENT_METHODS),
            not request.uri.startswith(b"/") and request.uri,  # it names the host
        )
        if cache.passed_on is None or cache.passed_on[0] != key:
            cache.passed_on = key, self._make_header(headers_of(cache.looked_at or ()), 0)
        header: _Header = cache.passed_on[1]
        return header

    def _make_header(self, headers: Headers, length: int | None) -> _Header:
        """The header of the request to the server.

        Args:
            headers: What came from the client.
            length: Bytes of the body; None if they are not known.
        """
        request, proxy = self._request, self._proxy
        fields = fields_of(headers)
        version = request.clientproto.removeprefix(b"HTTP/")
        upgrade = (
            version == b"1.1"
            and length == 0
            and asks_for_tunnel(fields)
            and isinstance(request.channel, UpgradableCarrier)
        )
        trailers_wanted = version == b"1.1" and b"trailers" in listed(fields, b"te")
        fields = request_fields(
            fields,
            method=request.method,
            client=Client(
                # The other end of the connection, not the client it names: for the list of proxies.
                getattr(request.channel.getPeer(), "host", "").encode("ascii"),
                request.isSecure(),
                host_asked_for(request.uri, headers.getRawHeaders(b"Host", ())),
                version,
            ),
            authority=proxy.upstream.authority,
            forwarding=proxy.forwarding,
            content_length=length or None,
            chunked=length is None,
            upgrade=upgrade,
        )
        return _Header(field_section(fields), trailers_wanted, upgrade)

    # The upstream server's response: see `Receiver`.

    def head(self, head: ResponseHead) -> None:
        if head.upgrade:
            self._tunnel(head)
        elif head.interim:
            self._pass_on_interim(head)
        else:
            request = self._request
            request.setResponseCode(head.status, head.reason)
            request.defaultContentType = None
            headers = request.responseHeaders
            headers.removeHeader(b"Server")  # Twisted's; another server answers
            # Date stays if the server sends none (section 6.6.1).
            replace_fields(headers, self._fields_of(head))

    def data(self, data: bytes) -> None:
        self._request.write(data)

    def all_read(self) -> None:
        """What comes next takes time: send the client what has arrived."""
        exchange = self._exchange
        if exchange is None or exchange.connection is None or self._over:
            return
        if exchange.connection.phase == "body":
            if not self._request.startedWriting:
                self._request.write(b"")
            if not self._producing:
                self._producing = True
                self._request.registerProducer(self, True)
                channel = self._request.channel
                if isinstance(channel, Carrier) and channel.backed_up:
                    # The client had enough before there was a producer; a TLS transport
                    # says so only once.
                    exchange.connection.pause()

    def end(self, trailers: list[Field]) -> None:
        request = self._request
        self._release()
        if request.startedWriting and request.chunked and self._trailers_wanted:
            lines = b"".join(b"%b: %b\r\n" % line for line in trailer_fields(trailers))
            request.channel.write(b"0\r\n" + lines + b"\r\n")
            request.chunked = 0  # so that finish() writes no second end
        request.finish()

    def failed(self, error: Exception) -> None:
        if self._may_be_sent_again(error):
            self._retried = True
            if self._outbound.body is not None:
                self._request.content.seek(0)
            self._send(fresh=True)
            return
        request = self._request
        if self._over:
            return  # the body was broken, which is the client's affair
        self._release()
        failure = _upstream_error(error, self._proxy.upstream.url, request)
        _tell(failure, request)
        if failure.status is None:
            _cut(request)
            return
        words = _FAILURES[failure.code][1]
        if failure.code == "ERR_UPSTREAM_BUSY":
            request.setHeader(b"Retry-After", b"%d" % BUSY_SECONDS)
        _answer(request, failure.status, f"The server behind this proxy failed: {words}.")

    def _may_be_sent_again(self, error: Exception) -> bool:
        """Whether an idle connection was closed under the request (RFC 9110, section 9.2.2)."""
        return (
            isinstance(error, ServerHangUp)
            and not self._retried
            and self._streamed is None
            and bool(error.reused)
            and not error.bytes_received
            and error.phase in ("request", "waiting")
            and error.code in ("ECONNRESET", "EPIPE")
            and self._request.method in IDEMPOTENT_METHODS
        )

    def _fields_of(self, head: ResponseHead) -> list[Field]:
        return response_fields(
            head.fields, self._proxy.forwarding, status=head.status, version=head.version
        )

    def _pass_on_interim(self, head: ResponseHead) -> None:
        """Pass an interim response on, except 100: we have answered the client's Expect."""
        request = self._request
        if head.status != 100 and request.clientproto != b"HTTP/1.0":
            fields = self._fields_of(head)
            code = b"%d" % head.status
            request.channel.writeHeaders(request.clientproto, code, head.reason, headers_of(fields))

    def _tunnel(self, head: ResponseHead) -> None:
        """Both sides have left HTTP: join them."""
        request, exchange = self._request, self._exchange
        assert exchange is not None and exchange.connection is not None
        request.setResponseCode(101, head.reason)
        fields = self._fields_of(head)
        fields += [field for field in head.fields if field[0].lower() == b"upgrade"]
        fields.append((b"Connection", b"Upgrade"))
        channel = request.channel
        channel.writeHeaders(b"HTTP/1.1", b"101", head.reason, headers_of(fields))
        self._release()
        pool = self._proxy.pool
        tunnel = Tunnel(pool.deadlines, pool.timeouts.silence_seconds, self._proxy.ended)
        rest = exchange.connection.hand_over(tunnel.server)
        channel.upgrade(tunnel.client)
        tunnel.join()
        for data in rest:
            tunnel.server.dataReceived(data)
        channel.rendered(channel.transport)

    # The client.

    def pauseProducing(self) -> None:
        if self._exchange is not None and self._exchange.connection is not None:
            self._exchange.connection.pause()

    def resumeProducing(self) -> None:
        if self._exchange is not None and self._exchange.connection is not None:
            self._exchange.connection.resume()

    def stopProducing(self) -> None:
        self._give_up()

    def _eb_client_left(self, failure: Failure) -> None:
        self._give_up()

    def _give_up(self) -> None:
        """Nobody waits for the response any more."""
        self._over = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort()

    def _release(self) -> None:
        """The upstream server has done its part."""
        self._exchange = None
        self._request._hangup_lost = None
        if self._producing:
            self._producing = False
            self._request.unregisterProducer()


def _check_trust_root(trust_root: Any) -> None:
    """Raise TypeError unless Twisted can use it."""
    try:
        optionsForClientTLS("localhost", trustRoot=trust_root)
    except TypeError:
        came = type(trust_root).__name__
        raise TypeError(
            "trust_root must be what twisted.internet.ssl.trustRootFromCertificates([...])"
            f" returns, and is {came}"
        ) from None


def _endpoint(upstream: Upstream, reactor: Any, trust_root: Any) -> IStreamClientEndpoint:
    """How to connect to *upstream*."""
    if upstream.socket is not None:
        endpoint: Any = UNIXClientEndpoint(reactor, upstream.socket, timeout=None)
        return endpoint  # type: ignore[no-any-return]
    policy = BrowserLikePolicyForHTTPS(trust_root) if upstream.secure else None
    return named_endpoint(reactor, upstream.host, upstream.port, policy)


def _answer(request: Any, status: int, text: str) -> None:
    """Answer the client ourselves."""
    request.write(error_page(request, status, text))
    request.finish()


#: Code -> status, and what the client is told; the operator gets more.
_FAILURES: Final = {
    "ERR_UPSTREAM_REFUSED": (502, "it cannot be reached"),
    "ERR_UPSTREAM_RESET": (502, "it hung up before its answer was complete"),
    "ERR_UPSTREAM_RESPONSE": (502, "its answer is not HTTP"),
    "ERR_UPSTREAM_TIMEOUT": (504, "it took too long to answer"),
    "ERR_UPSTREAM_BUSY": (503, "it is busy"),
}


def _upstream_error(cause: Exception, url: str, request: Any) -> UpstreamError:
    """The `UpstreamError` for *cause*."""
    if isinstance(cause, ParseError):
        code, words = "ERR_UPSTREAM_RESPONSE", f"{cause.code}: {cause.reason}"
    elif isinstance(cause, PoolBusy):
        code, words = "ERR_UPSTREAM_BUSY", str(cause)
    elif not isinstance(cause, ServerHangUp):  # the endpoint's own error
        code, words = "ERR_UPSTREAM_REFUSED", f"{type(cause).__name__}: {cause}"
    else:
        words = f"{cause.reason}, {cause.phase}"
        if cause.code == "ETIMEDOUT":
            code = "ERR_UPSTREAM_TIMEOUT"
        elif cause.phase == "connecting":
            code = "ERR_UPSTREAM_REFUSED"
        else:
            code = "ERR_UPSTREAM_RESET"
    error = UpstreamError(
        f"{words} ({url})",
        code=code,
        phase="response",
        request=RequestHead(request.method, request.uri),
        peer=request.client,
    )
    error.upstream = url
    error.default_status = None if request.startedWriting else _FAILURES[code][0]
    error.__cause__ = cause
    return error


def _tell(error: UpstreamError, request: Any) -> None:
    """Record *error* in the site's journal, or log it if there is none."""
    journal = getattr(request.site, "journal", None)
    if isinstance(journal, Journal):
        journal.record_upstream(error)
    else:
        _log.warn("{error}", error=str(error))


def _cut(request: Any) -> None:
    """End the client's connection or stream so that it sees an incomplete response."""
    channel = request.channel
    if isinstance(channel, Carrier):
        channel.cut_response(request)
    elif isinstance(channel, HTTPChannel):
        channel.forceAbortClient()
    else:
        channel.abortConnection()
