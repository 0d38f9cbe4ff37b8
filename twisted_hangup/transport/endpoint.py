"""An endpoint that tells what only a listening port can know of its connections."""

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
    """What an `IStreamServerEndpoint` does, for those who check types without zope's plugin."""

    def listen(self, protocolFactory: Any, /) -> Deferred[IListeningPort]: ...


def hangup_endpoint(endpoint: IStreamServerEndpoint | Listens) -> HangupEndpoint:
    """Wrap *endpoint* so that a `HangupSite` on it hears all there is to hear.

    With it a plain HTTP request to a TLS port is answered with a readable 400; a reset over
    TLS is told from an end of input, and has its ``errno``; a broken PROXY header is a client
    error; and a client behind the PROXY protocol may close its half.

    Args:
        endpoint: Any stream server endpoint: TCP, UNIX, TLS, PROXY, systemd's.  Its port
            is used as it is where it is not one of Twisted's own.

    Returns:
        An endpoint whose ``listen`` gives the same port as that of *endpoint*, and warns of a
        `Site` that does not forward its client errors.

    Raises:
        TypeError: *endpoint* is none.
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
    """What `hangup_endpoint` returns."""

    def __init__(self, endpoint: IStreamServerEndpoint | Listens) -> None:
        self._endpoint = endpoint

    def __repr__(self) -> str:
        return f"hangup_endpoint({self._endpoint!r})"

    def listen(self, protocolFactory: IProtocolFactory | Factory[Any]) -> Deferred[IListeningPort]:
        """Listen with *protocolFactory*, as the endpoint within does.

        Raises:
            TypeError: *protocolFactory* is none.
        """
        cure = "HangupSite(resource)" if hasattr(protocolFactory, "render") else ""
        methods = ("buildProtocol", "doStart", "doStop")
        must_have("protocolFactory", protocolFactory, "an IProtocolFactory", methods, cure)
        _warn_of(protocolFactory)
        endpoint: Any = self._endpoint
        listening: Deferred[IListeningPort] = endpoint.listen(protocolFactory)
        return listening.addCallback(_telling)


def _warn_of(factory: Any) -> None:
    """Warn of a site of Twisted's own, which tells nobody what it hears of us."""
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
    """Give *port* the transport and the wrappers that tell; before its first connection."""
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
    """The class of *wrapper*, or the same with our part in front where we have one for it."""
    if isinstance(wrapper, type) and not issubclass(wrapper, Preamble):
        for ours, theirs in (
            (HangupTLS, TLSMemoryBIOProtocol),
            (HangupProxyProtocol, HAProxyProtocolWrapper),
        ):
            if issubclass(wrapper, theirs):
                kind: Any = lean(wrapper)  # type: ignore[arg-type]  # classes are hashable
                return type(kind.__name__, (ours, kind), {"__module__": kind.__module__})
    return wrapper
