"""`hangup_endpoint`: what only a listening port can report about its connections."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, Protocol

from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.web.http import _genericHTTPChannelProtocolFactory
from zope.interface import implementer

from .._arguments import described, must_have
from .lean_tls import lean
from .preamble import Preamble
from .proxy_protocol import HangupProxyProtocol
from .sockets import telling
from .tls import HangupTLS, accept_http10


class Listens(Protocol):
    """The methods of an `IStreamServerEndpoint`, for type checkers without zope's plugin."""

    def listen(self, protocolFactory: Any, /) -> Deferred[IListeningPort]: ...


def hangup_endpoint(endpoint: IStreamServerEndpoint | Listens) -> HangupEndpoint:
    """Wrap *endpoint* so that a `HangupSite` on it learns more about its connections.

    Use it wherever you listen:

        site = HangupSite(resource)
        hangup_endpoint(TCP4ServerEndpoint(reactor, 8000)).listen(site)

    Without it errors are reported too, with less detail.  With it:

    - a plain HTTP request to a TLS port is answered with a readable 400;
    - over TLS, a reset is told apart from a close, and has its ``errno``;
    - a broken PROXY header is a client error;
    - a client behind the PROXY protocol may half-close.

    Args:
        endpoint: Any stream server endpoint: TCP, UNIX, TLS, PROXY, systemd's.  A port that is not
            one of Twisted's own is used unchanged.

    Returns:
        An endpoint whose ``listen`` gives the port of *endpoint*.  It warns if you listen with a
        `Site` that does not forward its client errors.

    Raises:
        TypeError: *endpoint* is not a stream server endpoint.
    """
    if isinstance(endpoint, str):
        cure = f"serverFromString(reactor, {endpoint!r})"
    else:
        cure = (
            "hangup_endpoint(endpoint).listen(site)" if hasattr(endpoint, "buildProtocol") else ""
        )
    must_have("endpoint", endpoint, "an IStreamServerEndpoint", ("listen",), cure)
    return HangupEndpoint(endpoint)


@implementer(IStreamServerEndpoint)
class HangupEndpoint:
    """The endpoint that `hangup_endpoint` returns."""

    def __init__(self, endpoint: IStreamServerEndpoint | Listens) -> None:
        self._endpoint = endpoint

    def __repr__(self) -> str:
        return f"hangup_endpoint({self._endpoint!r})"

    def listen(self, protocolFactory: IProtocolFactory | Factory[Any]) -> Deferred[IListeningPort]:
        """Listen with *protocolFactory*, as the wrapped endpoint does.

        Raises:
            TypeError: *protocolFactory* is not a protocol factory.
        """
        cure = "HangupSite(resource)" if hasattr(protocolFactory, "render") else ""
        methods = ("buildProtocol", "doStart", "doStop")
        must_have("protocolFactory", protocolFactory, "an IProtocolFactory", methods, cure)
        _warn_of(protocolFactory)
        endpoint: Any = self._endpoint
        listening: Deferred[IListeningPort] = endpoint.listen(protocolFactory)
        return listening.addCallback(_telling)


def _warn_of(factory: Any) -> None:
    """Warn if *factory* is a stock `Site`, which does not report its client errors."""
    while isinstance(factory, WrappingFactory):
        factory = factory.wrappedFactory
    protocol = getattr(factory, "protocol", None)
    if getattr(protocol, "__func__", protocol) is _genericHTTPChannelProtocolFactory:
        warnings.warn(
            f"{described(factory)} does not forward its client errors: "
            "call forward_client_errors(site) first, or listen with HangupSite(resource)",
            stacklevel=3,
        )


def _telling(port: Any) -> Any:
    """Give *port* our transport class and wrappers, before its first connection."""
    if isinstance(port, tcp.Port):
        port.transport = telling(port.transport)
        factory: Any = port.factory
        while isinstance(factory, WrappingFactory):
            factory.protocol = _wrapper(factory.protocol)
            if isinstance(factory, TLSMemoryBIOFactory):
                accept_http10(factory.wrappedFactory)
            factory = factory.wrappedFactory
    return port


@lru_cache(maxsize=16)
def _wrapper(wrapper: Any) -> Any:
    """The class of *wrapper*; with our part before it, if we have one for this class."""
    if isinstance(wrapper, type) and not issubclass(wrapper, Preamble):
        for ours, theirs in (
            (HangupTLS, TLSMemoryBIOProtocol),
            (HangupProxyProtocol, HAProxyProtocolWrapper),
        ):
            if issubclass(wrapper, theirs):
                kind: Any = lean(wrapper)  # type: ignore[arg-type]  # classes are hashable
                return type(kind.__name__, (ours, kind), {"__module__": kind.__module__})
    return wrapper
