"""One conversation in memory, with Twisted's own site or with ours: all that can be compared."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import lru_cache
from io import BytesIO
from math import inf
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from unittest import mock

from twisted.internet import _producer_helpers, tcp
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall, ISSLTransport
from twisted.internet.task import Clock, Cooperator
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request, combinedLogFormatter
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest
from twisted.web.server import Site
from zope.interface import implementer

from twisted_hangup.server.bodies import LARGEST_IN_MEMORY
from twisted_hangup.testing import End, MemoryClient, _Kernel
from twisted_hangup.transport.sockets import telling

#: What a client does next: sends so many bytes in one read, waits so many seconds, ends its input,
#: stops reading what the server sends, or reads on.
Step: TypeAlias = bytes | float | Literal["fin", "stall", "read"]

#: What the transport of a connection is.
Carrier: TypeAlias = Literal["telling", "bare", "string", "secure"]

_CLIENT: Final = IPv4Address("TCP", "192.0.2.7", 49152)
_HOST: Final = IPv4Address("TCP", "192.0.2.1", 80)


class Note(NamedTuple):
    """Something that happened in a conversation.

    Attributes:
        step: During which of the client's steps, counted from 0; infinite for the access log.
        what: Who or what says so, such as ``"sent"`` or ``"access"``.
        value: What it says, in plain types.
    """

    step: float
    what: str
    value: Any


class _Conversation:
    """The one being held; `note` writes into it."""

    began = 0.0
    step = 0.0
    notes: list[Note] = []
    requests: list[Any] = []


_now = _Conversation()


def note(what: str, *value: Any) -> None:
    """Write down what happened, for comparison."""
    _now.notes.append(Note(_now.step, what, plain(value)))


def meet(request: Any) -> None:
    """Look at *request* once more when the conversation is over."""
    _now.requests.append(request)


def hold(site: Site, steps: Iterable[Step], carrier: Carrier = "telling") -> list[Note]:
    """Let a new client of *site* take *steps*, and then leave.

    Args:
        site: Its reactor is a `Clock`.

    Returns:
        What was sent, logged, warned of and noted meanwhile, and how the connection ended.
    """
    clock: Any = site.reactor
    assert isinstance(clock, Clock)
    _now.step, _now.notes, _now.requests = 0, [], []
    _now.began = time.time()
    site.logFile = _AccessLog()
    with _everything_noted(), _one_clock(clock):
        kind = _Stringed if carrier in ("string", "secure") else _Socketed
        client: MemoryClient = kind(site, carrier)
        seen, ended = 0, None
        for step in [*steps, 0.6, "leave", 0.1]:
            if step == "leave":
                note("leaves")
                client.fin()
            elif isinstance(step, bytes):
                client.feed(step)
            elif isinstance(step, float):
                client.advance(step)
            elif step == "fin":
                client.fin()
            else:
                client.reading = step == "read"
            received = client.received
            if received[seen:]:
                note("sent", received[seen:])
                seen = len(received)
            if client.ended != ended:
                ended = client.ended
                note("ended", ended)
            _now.step += 1
        for request in _now.requests:
            note("afterwards", remains(request))
    site.stopFactory()
    left = [call for call in clock.getDelayedCalls() if "expire" not in repr(call)]
    if left:
        note("timers", len(left))
    return _now.notes


@contextmanager
def when_all_is_sent() -> Iterator[None]:
    """What is noted meanwhile belongs to no step: Twisted does it before, and we afterwards."""
    step, _now.step = _now.step, inf
    yield
    _now.step = step


class _AccessLog:
    def write(self, line: str) -> None:
        with when_all_is_sent():
            note("access", line)

    def close(self) -> None: ...


def logged(_: object, request: Any) -> str:
    """What `site.log` sees of *request*, which is over with us, and not yet with Twisted."""
    over: dict[str, Any] = {"finished": 1, "content": None, "notifications": [], "producer": None}
    with when_all_is_sent():
        note("seen by the log", remains(request) | over)
        return str(combinedLogFormatter("[now]", request))


@contextmanager
def _everything_noted() -> Iterator[None]:
    def show(message: Any, category: type[Warning], *rest: object) -> None:
        if category is not ResourceWarning:  # another that garbage collection brings up
            note("warned", category.__name__, str(message))

    def observe(event: LogEvent) -> None:
        namespace, level = event["log_namespace"], event["log_level"].name
        failure: Any = event.get("log_failure")
        if namespace != "twisted.internet.defer":  # which speaks up at garbage collection
            note("logged", namespace, level, event.get("log_format"), failure)

    # What is logged is compared, so nobody else need hear of it.
    with (
        mock.patch.object(globalLogPublisher, "_observers", [observe]),
        mock.patch.object(warnings, "showwarning", show),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("always")
        yield


@contextmanager
def _one_clock(clock: Clock) -> Iterator[None]:
    """Let pull producers run on *clock* too, one step a turn."""
    cooperator = Cooperator(
        terminationPredicateFactory=lambda: lambda: True,
        scheduler=lambda call: clock.callLater(0, call),
    )
    with mock.patch.object(_producer_helpers, "cooperate", cooperator.cooperate):
        yield


_DATE: Final = re.compile(rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT")

#: Where an object is, in the text that stands for it.
_ADDRESS: Final = re.compile(rb"\b0x[0-9a-f]{8,}")


_seconds = lru_cache(lambda date: parsedate_to_datetime(date.decode()).timestamp())


def _undated(match: re.Match[bytes]) -> bytes:
    """``now`` for a date during the conversation; another date stays."""
    when = _seconds(match[0])
    return b"now" if _now.began - 1.1 <= when <= time.time() else match[0]


# Clients.


class _Socketed(MemoryClient):
    """A client of any site, over Twisted's TCP transport."""

    def __init__(self, site: Site, carrier: Carrier) -> None:
        protocol: Any = site.buildProtocol(_CLIENT)
        clock: Any = site.reactor
        self.clock = clock
        self.peer = _CLIENT
        self._kernel = _RealisticKernel(clock)
        kind: Any = telling(tcp.Server) if carrier == "telling" else tcp.Server
        address = (_CLIENT.host, _CLIENT.port)
        transport = kind(self._kernel, protocol, address, None, 1, self._kernel)
        transport.repstr = "a connection in memory"
        protocol.makeConnection(transport)

    def feed(self, *pieces: bytes, fin: bool = False) -> MemoryClient:
        if self._kernel.ended == "reset" or self._kernel.input_ended:
            return self
        return super().feed(*pieces, fin=fin)


class PatientClock(Clock):
    """It goes on where a call raises, as a reactor does."""

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002  # Twisted's name
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        return super().callLater(delay, self._patiently, callable, *args, **kw)

    def _patiently(self, call: Callable[..., object], *args: Any, **kw: Any) -> None:
        try:
            call(*args, **kw)
        except Exception as error:
            note("raised", type(error).__name__, str(error))


class _RealisticKernel(_Kernel):
    """It does what a reactor does where a transport or protocol raises."""

    def _take_turn(self) -> None:
        transport = self._reader or self._writer
        try:
            super()._take_turn()
        except Exception as error:
            note("escaped", type(error).__name__)
            transport.connectionLost(Failure(error))


class _Stringed(MemoryClient):
    """A client of any site, over the transport that Twisted has for tests."""

    def __init__(self, site: Site, carrier: Carrier) -> None:
        clock: Any = site.reactor
        self.clock = clock
        self.protocol: Any = site.buildProtocol(_CLIENT)
        kind = _SecureTransport if carrier == "secure" else StringTransport
        self.transport = kind(_HOST, _CLIENT, lenient=True)
        self.protocol.makeConnection(self.transport)
        self.open = True

    def feed(self, *pieces: bytes, fin: bool = False) -> MemoryClient:
        for piece in pieces:
            if self.open:
                self.clock.callLater(0, self.protocol.dataReceived, piece)
                self.advance(0)
        return self

    def fin(self) -> MemoryClient:
        self.transport.disconnecting = True
        return self.advance(0)

    def advance(self, seconds: float) -> MemoryClient:
        super().advance(seconds)
        if self.transport.disconnecting and self.open:
            self.open = False
            self.clock.callLater(0, self.protocol.connectionLost, Failure(ConnectionDone()))
            super().advance(0)
        return self

    @property
    def received(self) -> bytes:
        return self.transport.value()  # type: ignore[no-any-return]

    @property
    def ended(self) -> End | None:
        if self.transport.disconnected:
            return "reset"
        return "fin" if self.transport.disconnecting else None


class _Handle:
    def get_peer_finished(self) -> bytes:
        return b"finished"


@implementer(ISSLTransport)
class _SecureTransport(StringTransport):
    negotiatedProtocol = b"http/1.1"

    def getTcpNoDelay(self) -> bool:
        return True

    getTcpKeepAlive = getTcpNoDelay

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def setTcpKeepAlive(self, enabled: bool) -> None: ...

    def loseWriteConnection(self) -> None: ...

    def getPeerCertificate(self) -> None:
        return None

    def getHandle(self) -> _Handle:
        return _Handle()


# What can be seen of a request.

#: What Twisted's `Request` has in its own dictionary while it is rendered.
IN_DICTIONARY: Final = (
    *("_adapterCache", "_parsePOSTFormSubmission", "args", "channel", "client", "clientproto"),
    *("content", "cookies", "host", "method", "notifications", "path", "postpath", "prepath"),
    *("queued", "received_cookies", "requestHeaders", "responseHeaders", "site", "sitepath"),
    *("transport", "uri"),
)
ATTRIBUTES: Final = (
    *("appRootURL", "chunked", "code", "code_message", "defaultContentType", "etag"),
    *("finished", "lastModified", "producer", "sentLength", "session", "startedWriting"),
)
METHODS: Final = (
    *("getAllHeaders", "getClientAddress", "getClientIP", "getHost", "getPassword"),
    *("getRequestHostname", "getUser", "isSecure", "prePathURL"),
)


def view(request: Any) -> dict[str, Any]:
    """All that a resource can see of a request of Twisted's without changing it."""
    # First its dictionary, which nothing has been asked for yet.
    words: dict[str, Any] = {"vars": {name: vars(request).get(name) for name in IN_DICTIONARY}}
    words |= {name: getattr(request, name, "missing") for name in (*ATTRIBUTES, *IN_DICTIONARY)}
    words |= {name: getattr(request, name)() for name in METHODS if hasattr(request, name)}
    for name in (b"host", b"X-Twice", "cookie", "nothing"):
        words[f"getHeader {name!r}"] = request.getHeader(name)
    words["getCookie"] = request.getCookie(b"a")
    if hasattr(request, "sibLink") and request.postpath is not None:
        words["links"] = request.sibLink(b"a"), request.childLink(b"a")
    channel: Any = getattr(request, "channel", None)
    if channel is not None:
        words["channel"] = {
            "persistent": bool(channel.persistent),
            "requests": [one is request for one in channel.requests],
            "transport": channel.transport is request.transport,
            "site": channel.site is getattr(request, "site", channel.site),
            "factory": channel.factory is channel.site,
            "peer": channel.getPeer(),
            "secure": channel.isSecure(),
        }
    words["repr"] = repr(request).encode()
    words["kind"] = type(request).__name__, type(request).__module__, type(request).__qualname__
    words["provides"] = IRequest.providedBy(request), isinstance(request, Request)
    words["same"] = request == request, hash(request) == id(request), request != object()
    return words


def remains(request: Any) -> dict[str, Any]:
    """What is left of a request when it has been answered."""
    names = (
        *("args", "channel", "clientproto", "content", "cookies", "method", "notifications"),
        *("path", "received_cookies", "requestHeaders", "responseHeaders", "uri", "_disconnected"),
    )
    words = {name: getattr(request, name, "missing") for name in (*ATTRIBUTES, *names)}
    return {**words, "client": request.getClientAddress()}


def plain(value: Any) -> Any:
    """*value* in types that compare and print well; objects of the two sides become the same."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return {
            name: one if type(one) in _PLAIN else plain(one)  # most of what there is
            for name, one in value.items()
        }
    if kind is list or kind is tuple:
        return kind([plain(one) for one in value])
    if isinstance(value, bytes):
        if b" GMT" in value:
            value = _DATE.sub(_undated, value)
        return _ADDRESS.sub(b"0x", value) if b"0x" in value else value
    if isinstance(value, Headers):
        return [plain(one) for one in value.getAllRawHeaders()]
    if IAddress.providedBy(value):
        return str(value)
    if isinstance(value, Failure):
        return f"Failure {type(value.value).__name__}"
    if hasattr(value, "read") and hasattr(value, "tell"):
        return _file(value)
    for known in (HTTPChannel, Site, Request, Deferred):
        if isinstance(value, known):
            return f"a {known.__name__}"
    return kind.__name__


_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


def _file(file: Any) -> Any:
    if file.closed:
        return ["closed"]
    at = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(at)
    # Twisted makes a file of a body in chunks, however small: see tests/server/test_bodies.py.
    return [isinstance(file, BytesIO) or len(content) < LARGEST_IN_MEMORY, at, content]


def difference(stock: Any, ours: Any, path: str = "") -> str:
    """Where the two differ first, in one line; empty if they do not."""
    if stock == ours:
        return ""
    if type(stock) is type(ours):
        if isinstance(stock, dict) and [*stock] == [*ours]:
            return next(
                filter(None, (difference(stock[key], ours[key], f"{path}.{key}") for key in stock))
            )
        if isinstance(stock, (list, tuple)):
            for index, (one, other) in enumerate(zip(stock, ours, strict=False)):
                if one != other:
                    return difference(one, other, f"{path}[{index}]")
            longer = max(stock, ours, key=len)
            side = "stock" if longer is stock else "ours"
            return f"{path}: only {side} has {longer[min(len(stock), len(ours)) :]!r}"
    return f"{path}:\n    stock {stock!r}\n    ours  {ours!r}"
