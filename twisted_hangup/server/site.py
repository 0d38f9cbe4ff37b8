"""Client errors for a whole site: `HangupSite`, and `forward_client_errors` for your own site."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import (
    H2_ENABLED,
    HTTPChannel,
    HTTPFactory,
    _GenericHTTPChannelProtocol,
    _genericHTTPChannelProtocolFactory,
)
from twisted.web.server import Site
from zope.interface import implementer

from .._arguments import (
    described,
    must_be,
    must_be_class,
    must_be_number,
    must_have,
)
from ..errors import ClientError
from ..journal.journal import Journal
from ..limits import Limits, Timeouts
from ..report.masking import DEFAULT_POLICY, MaskingPolicy
from ..transport.forwarded import ForwardedClients
from ..transport.layers import transport_beneath
from ..transport.preamble import IPreambleListener
from .channel import HangupChannel
from .context import SiteContext
from .errbacks import HandlerT

if H2_ENABLED:  # the extra [http2] is installed
    from .http2.connection import HangupHTTP2

#: Site(resource, requestFactory, logPath, timeout, ...)
_POSITION_OF_TIMEOUT: Final = 3


@implementer(IHalfCloseableProtocol, IPreambleListener)
class HangupProtocol(_GenericHTTPChannelProtocol):
    """Twisted's switch between HTTP/1.1 and HTTP/2, which passes half-closes on."""

    def dataReceived(self, data: bytes) -> None:
        """Choose the protocol at the first read; HTTP/2 takes the connection from our channel.

        A channel that is closing keeps the connection, and drops what still comes.
        """
        channel: Any = self._channel
        if self._negotiatedProtocol is not None or channel.over:
            channel.dataReceived(data)
            return
        transport: Any = channel.transport
        if H2_ENABLED and getattr(transport, "negotiatedProtocol", None) == b"h2":
            self._speak_http2(transport)
        super().dataReceived(data)

    def _speak_http2(self, transport: Any) -> None:
        """Give the connection to a `HangupHTTP2`, which uses the channel's ``client_error``."""
        first: Any = self._channel
        first.release_transport()
        heir: Any = HangupHTTP2(first, first.factory.reactor)
        heir.requestFactory = self._requestFactory
        heir.site, heir.factory = self._site, self._factory
        self._channel = heir
        heir.makeConnection(transport)
        transport.registerProducer(heir, True)
        first.leave()  # last, so that the site is never without this connection
        self._negotiatedProtocol = b"h2"  # type: ignore[assignment]  # Twisted's is untyped

    def preamble_failed(self, error: ClientError, transport: Any) -> None:
        """A PROXY header or the TLS handshake is broken."""
        channel: Any = self._channel
        channel.preamble_failed(error, transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has gone."""
        channel: Any = self._channel
        channel.connectionLost(reason)  # Twisted's proxy looks it up by name
        if isinstance(channel, HangupChannel) and channel.heir is not None:
            channel.tunnel_lost()

    def readConnectionLost(self) -> None:
        """The peer ended its input."""
        if isinstance(self._channel, HangupChannel):
            self._channel.readConnectionLost()
        else:
            transport: Any = self._channel.transport
            transport_beneath(transport).connectionLost(Failure(CONNECTION_DONE))

    def writeConnectionLost(self) -> None:
        """The kernel has our output and its end."""
        if isinstance(self._channel, HangupChannel):
            self._channel.writeConnectionLost()


class SiteErrors:
    """The client errors of one site: its handlers, its journal, its limits.

    A `HangupSite` has one as ``errors``.  `forward_client_errors` returns one for a site of your
    own.  `StatusSite` and `Metrics` take it in place of a `HangupSite`.

    Attributes:
        site: The site.
        context: What its connections share.
        errbacks: Its handlers.
        journal: Its recent errors, and those who watch them.
        limits: The site's `Limits`.
        masking: Which secrets are hidden when an error is shown.
    """

    def __init__(
        self, site: HTTPFactory, context: SiteContext, make_channel: Callable[[], HangupChannel]
    ) -> None:
        """Take over *site*: it makes our protocols from now on.

        Its ``timeOut`` is the keep-alive time.

        Raises:
            ValueError: ``site.protocol`` is not Twisted's own: replacing it would lose something.
        """
        protocol: Any = site.protocol
        if isinstance(getattr(protocol, "__self__", None), SiteErrors):
            words = f"{described(site)} forwards its client errors already"
            ours = isinstance(site, HangupSite)
            raise ValueError(
                f"{words}: use {'site.errors' if ours else 'what the first call returned'}"
            )
        if getattr(protocol, "__func__", protocol) is not _genericHTTPChannelProtocolFactory:
            raise ValueError(
                f"site.protocol is {protocol!r} and not Twisted's own; "
                "pass your channel class as channel= instead"
            )
        self.site = site
        self.context = context
        self.errbacks = context.errbacks
        self.journal = context.journal
        self.limits = context.limits
        self.masking = context.masking
        self._make_channel = make_channel
        self._was_asked = False
        site.timeOut = context.timeouts.keep_alive_seconds or None
        site.protocol = self._make_protocol  # type: ignore[method-assign]  # as Twisted does
        if type(site).buildProtocol not in (HTTPFactory.buildProtocol, Site.buildProtocol):
            self._look_at_first_protocol()

    def add(self, handler: HandlerT) -> HandlerT:
        """Call *handler* for every client error from now on; see `ClientErrbacks.add`."""
        return self.errbacks.add(handler)

    @property
    def timeouts(self) -> Timeouts:
        """The site's `Timeouts`."""
        return self.context.timeouts

    @property
    def open_connections(self) -> int:
        """How many connections are open, without those that were upgraded."""
        return len(self.context.open())

    def adopt(self, channel: HangupChannel) -> HangupProtocol:
        """Report the client errors of *channel* to this site's handlers.

        For a site that makes its channels itself, in a ``buildProtocol`` that does not call
        Twisted's:

            class MySite(Site):
                def buildProtocol(self, address):
                    return self.errors.adopt(MyChannel(self))

        Args:
            channel: The channel of a new connection.  If its class has a ``requestFactory``, it
                replaces the site's.

        Returns:
            The protocol that ``buildProtocol`` returns.

        Raises:
            TypeError: *channel* is not a `HangupChannel`.
        """
        must_be("channel", channel, HangupChannel, "adopt(MyChannel())")
        site: Any = self.site
        protocol: Any = self._protocol_of(channel)
        protocol.factory = site
        if isinstance(site, Site):
            protocol.site = site
        protocol.callLater = site.reactor.callLater
        own_factory = channel.requestFactory
        if own_factory is HTTPChannel.requestFactory:
            own_factory = getattr(site, "requestFactory", own_factory)
        protocol.requestFactory = own_factory
        return protocol  # type: ignore[no-any-return]

    def retire(self) -> None:
        """Let each connection end with its next response, which says so.

        Then no client sends a request to a connection that is about to be closed.  Nothing idle is
        closed before its time.  Call it when the site accepts no more connections; `drain` then
        closes those whose client sends nothing.
        """
        self.context.retired = True
        for channel in self.context.open():
            channel.retire()

    def drain(self) -> Deferred[None]:
        """Read no further requests, finish the running ones, and close all connections.

        The proxy's tunnels go on until they end.  Connections that an application has upgraded are
        left alone.

        Returns:
            A Deferred that fires with None when every other connection has gone.
        """
        for channel in self.context.open():
            channel.close_when_done()
        return self.context.when_empty()

    def hang_up_all(self) -> None:
        """Abort every connection now."""
        for channel in [*self.context.open(), *self.context.tunnels]:
            channel.transport.abortConnection()

    def _make_protocol(self) -> HangupProtocol:
        return self._protocol_of(self._make_channel())

    def _protocol_of(self, channel: HangupChannel) -> HangupProtocol:
        context = self.context
        seconds = self.site.timeOut or 0.0  # for a new connection, as Twisted reads it
        if seconds != context.timeouts.keep_alive_seconds:
            context.timeouts = context.timeouts.with_keep_alive(seconds)
        channel.context = context
        self._was_asked = True
        return HangupProtocol(channel)

    def _look_at_first_protocol(self) -> None:
        """Warn if the site's own ``buildProtocol`` does not make our protocols."""
        site: Any = self.site
        build_protocol = site.buildProtocol
        looked = False

        def build_and_look(address: Any) -> Any:
            nonlocal looked
            protocol = build_protocol(address)
            if protocol is not None and not looked:
                looked = True
                if site.buildProtocol is build_and_look:
                    site.buildProtocol = build_protocol
                if not self._was_asked:
                    warnings.warn(
                        f"{type(site).__name__}.buildProtocol makes protocols of its own; their "
                        "client errors are not forwarded: let it call super().buildProtocol(), "
                        "or return what adopt() does",
                        stacklevel=2,
                    )
            return protocol

        site.buildProtocol = build_and_look


class HangupSite(Site):
    """A `twisted.web.server.Site` whose client errors reach the application.

    Use it in place of `Site`; it takes the same arguments, and these in addition:

    Args:
        resource: The root resource.
        limits: What one connection may send and cost; `Limits` by default.
        timeouts: How long a client may take; `Timeouts` by default.
        channel: A subclass of `HangupChannel` for every connection.
        masking: Which secrets ``ClientError.report()`` hides; credentials by default.
        forwarded: Which proxies may name the client, and in which header; none by default.

    `Site`'s ``timeout`` is the keep-alive time in seconds, and overrides
    ``timeouts.keep_alive_seconds``; None means no limit.  If you set ``timeOut`` later, it counts
    for the connections made from then on.

    Attributes:
        channel: The channel class.  A subclass of `HangupSite` may set it.
        errors: The site's `SiteErrors`.
        context: What the connections share.
        journal: The site's recent errors, and those who watch them.
        masking: Which secrets are hidden when an error is shown.
    """

    channel: type[HangupChannel] = HangupChannel

    def __init__(
        self,
        resource: Any,
        *args: Any,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        channel: type[HangupChannel] | None = None,
        masking: MaskingPolicy = DEFAULT_POLICY,
        forwarded: ForwardedClients | None = None,
        **kwargs: Any,
    ) -> None:
        cure = "File('public')" if isinstance(resource, (str, bytes)) else ""
        must_have("resource", resource, "an IResource", ("render", "getChildWithDefault"), cure)
        if channel is not None:
            self.channel = channel
        _check(limits, timeouts, self.channel, masking, forwarded)
        timeouts = timeouts or Timeouts()
        if len(args) < _POSITION_OF_TIMEOUT:
            kwargs.setdefault("timeout", timeouts.keep_alive_seconds)
        super().__init__(resource, *args, **kwargs)
        if not callable(self.requestFactory):
            came = described(self.requestFactory)
            raise TypeError(
                "requestFactory must be a class of requests, or a function that makes them, "
                f"not {came}"
            )
        if self.timeOut is not None:
            must_be_number("timeout", self.timeOut)
        timeouts = timeouts.with_keep_alive(self.timeOut)
        context = SiteContext(limits or Limits(), timeouts, masking, self.reactor)
        context.forwarded = forwarded
        self.errors = SiteErrors(self, context, lambda: self.channel())
        self.context = context
        self.journal: Journal = context.journal
        self.masking = masking

    def on_client_error(self, handler: HandlerT) -> HandlerT:
        """Call *handler* for every client error from now on; see `ClientErrbacks.add`.

        It serves as a decorator.
        """
        return self.errors.add(handler)

    @property
    def open_connections(self) -> int:
        """How many connections are open, without those that were upgraded."""
        return self.errors.open_connections

    def retire(self) -> None:
        """See `SiteErrors.retire`."""
        self.errors.retire()

    def drain(self) -> Deferred[None]:
        """See `SiteErrors.drain`."""
        return self.errors.drain()

    def hang_up_all(self) -> None:
        """Abort every connection now."""
        self.errors.hang_up_all()


def forward_client_errors(
    site: HTTPFactory,
    *,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    channel: type[HangupChannel] = HangupChannel,
    masking: MaskingPolicy = DEFAULT_POLICY,
    forwarded: ForwardedClients | None = None,
) -> SiteErrors:
    """Give a site of your own what `HangupSite` has.

    Use it for a subclass of `Site`, or a site that a framework makes; otherwise use `HangupSite`.

    Args:
        site: A `Site` or `HTTPFactory`, before it listens.  Its ``timeOut`` stays the keep-alive
            time; with *timeouts* it is set to theirs, and you may set it again.
        limits: What one connection may send and cost; `Limits` by default.
        timeouts: How long a client may take; `Timeouts` by default.
        channel: A subclass of `HangupChannel` for every connection.
        masking: Which secrets are hidden when an error is shown; credentials by default.
        forwarded: Which proxies may name the client, and in which header; none by default.

    Returns:
        The site's errors.  Add handlers with ``errors.add(handler)``, also as a decorator.

    Raises:
        TypeError: *site* is not a site, or another argument has the wrong type.
        ValueError: ``site.protocol`` is not Twisted's own, so replacing it would lose something; or
            the site forwards its client errors already.
    """
    cure = "" if isinstance(site, type) or not hasattr(site, "render") else "HangupSite(resource)"
    must_be("site", site, HTTPFactory, cure)
    _check(limits, timeouts, channel, masking, forwarded)
    timeouts = timeouts or Timeouts().with_keep_alive(site.timeOut)
    context = SiteContext(limits or Limits(), timeouts, masking, site.reactor)
    context.forwarded = forwarded
    return SiteErrors(site, context, channel)


def errors_of(site: HangupSite | SiteErrors) -> SiteErrors:
    """The `SiteErrors` of *site*.

    Raises:
        TypeError: *site* is neither a `HangupSite` nor a `SiteErrors`.
    """
    cure = "forward_client_errors(site)" if isinstance(site, HTTPFactory) else ""
    must_be("site", site, (HangupSite, SiteErrors), cure)
    return site.errors if isinstance(site, HangupSite) else site


def _check(
    limits: object, timeouts: object, channel: object, masking: object, forwarded: object
) -> None:
    """Raise TypeError unless all arguments have their types."""
    none = type(None)
    must_be("limits", limits, (Limits, none), "Limits(body_bytes=...)")
    must_be("timeouts", timeouts, (Timeouts, none), "Timeouts(head_seconds=...)")
    must_be_class("channel", channel, HangupChannel)
    must_be("masking", masking, MaskingPolicy, "MaskingPolicy(extra_fields=...)")
    must_be("forwarded", forwarded, (ForwardedClients, none), "ForwardedClients(['10.0.0.1'])")
