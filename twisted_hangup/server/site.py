"""Client errors for a whole site: a drop-in `Site`, and the same for a site of one's own."""

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
    """Twisted's switch between HTTP/1.1 and HTTP/2, with the half-closes it hides."""

    def dataReceived(self, data: bytes) -> None:
        """The first read decides on the protocol; over HTTP/2 our channel has no part.

        A channel that is closing by then keeps the connection: it drops what still comes.
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
        """Let a `HangupHTTP2` have the connection; our channel keeps its ``client_error``."""
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
        self._channel.connectionLost(reason)  # Twisted's proxy looks it up by name

    def readConnectionLost(self) -> None:
        """The peer ended its input."""
        if isinstance(self._channel, HangupChannel):
            self._channel.readConnectionLost()
        else:
            transport: Any = self._channel.transport
            transport_beneath(transport).connectionLost(Failure(CONNECTION_DONE))

    def writeConnectionLost(self) -> None:
        """Our output is with the kernel, and its end too."""
        if isinstance(self._channel, HangupChannel):
            self._channel.writeConnectionLost()


class SiteErrors:
    """The client errors of one site: who answers them, and what is known of them.

    A `HangupSite` has one as ``errors``, and `forward_client_errors` returns that of a site of
    your own.  Status page and metrics take it in place of a `HangupSite`.

    Attributes:
        site: The site.
        context: What its connections share.
        errbacks: Its handlers.
        journal: What went wrong lately, and who watches.
        limits: What a connection may cost.
        masking: What is hidden of an error where it is shown.
    """

    def __init__(
        self, site: HTTPFactory, context: SiteContext, make_channel: Callable[[], HangupChannel]
    ) -> None:
        """*site* makes our protocols from now on, and its ``timeOut`` is the keep-alive time.

        Raises:
            ValueError: ``site.protocol`` is not Twisted's own, so that something would be
                lost by replacing it.
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
        """Let *handler* see every client error from now on; see `ClientErrbacks.add`."""
        return self.errbacks.add(handler)

    @property
    def timeouts(self) -> Timeouts:
        """How long a connection may take."""
        return self.context.timeouts

    @property
    def open_connections(self) -> int:
        """How many connections are open now, without those that speak another protocol."""
        return len(self.context.open())

    def adopt(self, channel: HangupChannel) -> HangupProtocol:
        """Let client errors of *channel* be those of the site.

        For a site that makes its channels itself, in a ``buildProtocol`` that does not call
        Twisted's::

            class MySite(Site):
                def buildProtocol(self, address):
                    return self.errors.adopt(MyChannel(self))

        Args:
            channel: Of a new connection.  The ``requestFactory`` of its class counts, where
                it has one, else the site's.

        Returns:
            What ``buildProtocol`` may return.

        Raises:
            TypeError: *channel* is no `HangupChannel`.
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

    def drain(self) -> Deferred[None]:
        """Read no further request, finish the running ones, and close.

        Returns:
            A Deferred that fires with None when every connection has gone.
        """
        for channel in self.context.open():
            channel.close_when_done()
        return self.context.when_empty()

    def hang_up_all(self) -> None:
        """Abort every connection now."""
        for channel in self.context.open():
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
        """Warn where the site's own ``buildProtocol`` turns out not to make ours."""
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
                        f"{type(site).__name__}.buildProtocol makes protocols of its own, whose "
                        "client errors are not forwarded: let it call super().buildProtocol(), "
                        "or return what adopt() does",
                        stacklevel=2,
                    )
            return protocol

        site.buildProtocol = build_and_look


class HangupSite(Site):
    """A `twisted.web.server.Site` whose client errors reach the application.

    Args:
        resource: The root resource.
        limits: What a connection may cost; `Limits` by default.
        timeouts: How long it may take; `Timeouts` by default.
        channel: The channel class for every connection, in place of the class attribute.
        masking: What ``ClientError.report()`` hides; credentials by default.
        forwarded: Which proxies may name the client, and where; by default none may.

    Everything else is `Site`'s.  Its ``timeout``, where given, is the keep-alive time in
    seconds and stands above ``timeouts.keep_alive_seconds``; None means no limit.  So does
    ``timeOut``, where it is set later, for the connections made from then on.

    Attributes:
        channel: The channel class; a subclass of `HangupChannel`.
        errors: Its client errors, as those of any site.
        context: What the connections share.
        journal: What went wrong lately, and who watches.
        masking: What is hidden of it where it is shown.
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
                f"requestFactory must make requests, as a class of them does, not {came}"
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
        """Let *handler* see every client error from now on; see `ClientErrbacks.add`."""
        return self.errors.add(handler)

    @property
    def open_connections(self) -> int:
        """How many connections are open now, without those that speak another protocol."""
        return self.errors.open_connections

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

    Args:
        site: Any `Site`, or `HTTPFactory`, before it listens.  Without *timeouts*, its
            ``timeOut`` stays the keep-alive time; with them, it becomes theirs, and may be
            set again.

    Returns:
        Its errors; ``errors.add(handler)`` serves as a decorator, too.

    Raises:
        TypeError: *site* is no site, or another argument is not what it should be.
        ValueError: ``site.protocol`` is not Twisted's own, so that something would be
            lost by replacing it; or it forwards them already.
    """
    cure = "" if isinstance(site, type) or not hasattr(site, "render") else "HangupSite(resource)"
    must_be("site", site, HTTPFactory, cure)
    _check(limits, timeouts, channel, masking, forwarded)
    timeouts = timeouts or Timeouts().with_keep_alive(site.timeOut)
    context = SiteContext(limits or Limits(), timeouts, masking, site.reactor)
    context.forwarded = forwarded
    return SiteErrors(site, context, channel)


def errors_of(site: HangupSite | SiteErrors) -> SiteErrors:
    """The errors of *site*, whichever of the two it is.

    Raises:
        TypeError: It is neither.
    """
    cure = "forward_client_errors(site)" if isinstance(site, HTTPFactory) else ""
    must_be("site", site, (HangupSite, SiteErrors), cure)
    return site.errors if isinstance(site, HangupSite) else site


def _check(
    limits: object, timeouts: object, channel: object, masking: object, forwarded: object
) -> None:
    """Raise TypeError unless all of these are what their names say."""
    none = type(None)
    must_be("limits", limits, (Limits, none), "Limits(body_bytes=...)")
    must_be("timeouts", timeouts, (Timeouts, none), "Timeouts(head_seconds=...)")
    must_be_class("channel", channel, HangupChannel)
    must_be("masking", masking, MaskingPolicy, "MaskingPolicy(extra_fields=...)")
    must_be("forwarded", forwarded, (ForwardedClients, none), "ForwardedClients(['10.0.0.1'])")
