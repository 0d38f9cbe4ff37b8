"""Clients that stop at a random byte, and stay: nothing may wait for them for ever.

    python -m tests.soak stopped [--seconds 20] [--seed N]

Each client asks for some responses, over TCP, a UNIX socket, TLS or HTTP/2.  It sends and reads as
many bytes as chance will have it; then it does nothing more, nor does it close.  When all times
have passed, no connection, request, timer or connection to another server may be left.  Then half
of the clients read on: they get responses, of which the last may be cut, and the end.  Prints what
is wrong, with the seed of its batch, and exits with 1.
"""

from __future__ import annotations

import argparse
import math
import random
import selectors
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from support.certificates import server_context
from support.wire import PATIENCE
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    SSL4ServerEndpoint,
    TCP4ServerEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import File

from twisted_hangup import (
    HangupSite,
    Limits,
    OutboundTimeouts,
    ParseError,
    ProxyResource,
    Timeouts,
    hangup_endpoint,
)
from twisted_hangup.events import NEED_DATA, EndOfMessage
from twisted_hangup.parser.response import ResponseParser
from twisted_hangup.service.files import StaticFiles

#: Every time that a client has; and that a server behind the proxy has.
SECONDS: Final = 0.5
#: Seconds in which a client may do something, and in which all is over after that: a few, where
#: the machine does not stop.
ACTIVE: Final = 1.5
OVER: Final = PATIENCE
#: The longest wait of the clients for each other, in seconds.
TURN: Final = 0.05

_TIMEOUTS: Final = Timeouts(
    head_seconds=SECONDS,
    request_seconds=2 * SECONDS,
    handshake_seconds=SECONDS,
    keep_alive_seconds=SECONDS,
    handler_seconds=SECONDS,
    send_seconds=SECONDS,
    linger_seconds=2 * SECONDS,
    linger_silence_seconds=SECONDS,
)
_OUTBOUND: Final = OutboundTimeouts(
    connect_seconds=SECONDS,
    head_seconds=SECONDS,
    silence_seconds=SECONDS,
    idle_seconds=SECONDS,
)
_LARGE: Final = bytes(range(33, 126)) * 30_000
_SIZES: Final = (0, 1, 1000, 16_384, 65_535, 100_000, 1_000_000)


class Answers(Resource):
    """Answers in the way that the first segment of the path below it names.

    Attributes:
        running: The requests that have begun and not ended.
    """

    isLeaf = True

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self.running: set[Any] = set()
        self._reactor = reactor

    def render(self, request: Any) -> int:
        self.running.add(request)
        request.notifyFinish().addBoth(lambda _: self.running.discard(request))
        way, _, size = request.postpath[0].decode().partition("-")
        getattr(self, f"_{way}")(request, int(size or 0))
        return NOT_DONE_YET

    def _echo(self, request: Any, size: int) -> None:
        request.write(b"%d" % len(request.content.read()))
        request.finish()

    def _writes(self, request: Any, size: int) -> None:
        for _ in range(3):
            request.write(_LARGE[:size])
        request.finish()

    def _raises(self, request: Any, size: int) -> None:
        request.write(_LARGE[:size])
        raise ZeroDivisionError

    def _never(self, request: Any, size: int) -> None:
        """Only the proxy asks for it, and gives it up."""
        request.write(_LARGE[:size])

    def _late(self, request: Any, size: int) -> None:
        waiting = self._reactor.callLater(SECONDS / 2, self._writes, request, size)
        request.notifyFinish().addErrback(lambda _: waiting.cancel())

    def _push(self, request: Any, size: int) -> None:
        Producer(request, size, streaming=True)

    def _pull(self, request: Any, size: int) -> None:
        Producer(request, size, streaming=False)


class Producer:
    """Writes *size* bytes five times, when there is room."""

    def __init__(self, request: Any, size: int, *, streaming: bool) -> None:
        self._request, self._data, self._left = request, _LARGE[:size], 5
        self._streaming, self._paused = streaming, False
        request.registerProducer(self, streaming)
        if streaming:
            self.resumeProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        while not self._paused and self._request is not None:
            self._left -= 1
            self._request.write(self._data)
            if not self._left and (request := self._request) is not None:
                self._request = None
                request.unregisterProducer()
                request.finish()
            if not self._streaming:
                return

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._request = None


class Stopped:
    """One client.

    Args:
        kind: ``"tcp"``, ``"unix"``, ``"tls"`` or ``"h2"``.
        address: Where the site listens.
    """

    def __init__(self, kind: str, address: Any, choose: random.Random) -> None:
        self._kind, self._address, self._choose = kind, address, choose
        self.targets: list[bytes] = []
        self.received = bytearray()
        self.over = False
        self._out = b""  # raw
        self._plain = b""  # before encryption
        self._tls: ssl.SSLObject | None = None
        self._h2: H2Connection | None = None
        if kind in ("tls", "h2"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2" if kind == "h2" else "http/1.1"])
            self._in, self._encrypted = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = context.wrap_bio(self._in, self._encrypted)
        self._ask_2() if kind == "h2" else self._ask()
        if self._tls is None:
            self._out, self._plain = self._plain, b""
        total = len(self._out) + len(self._plain) + 600
        self.may_send: float = choose.choice(
            [math.inf, choose.randint(0, 300), choose.randint(0, total)]
        )
        self.may_read: float = choose.choice(
            [0, choose.randint(0, 5000), choose.randint(0, 1_000_000), math.inf]
        )
        self.reads_on = choose.random() < 0.5

    def __repr__(self) -> str:
        return f"{self._kind} may_send={self.may_send} may_read={self.may_read} {self.targets}"

    def _request(self) -> tuple[bytes, list[tuple[bytes, bytes]], bytes | None]:
        """A target, more fields, and a body."""
        choose = self._choose
        ways = (b"echo", b"writes", b"raises", b"late", b"push", b"pull", b"never", b"file")
        way = choose.choice(ways)
        fields = []
        if way == b"file":
            target = choose.choice([b"/files/large", b"/file/large", b"/files/none"])
            ranges = [b"bytes=5-70000", b"bytes=0-9,99-199999", b"bytes=-2000000"]
            if choose.random() < 0.5:
                fields.append((b"range", choose.choice(ranges)))
        else:
            proxied = way == b"never" or choose.random() < 0.3
            target = b"/answers/%b-%d" % (way, choose.choice(_SIZES))
            target = b"/proxy" * proxied + target
        body = _LARGE[: choose.choice(_SIZES)] if way == b"echo" else None
        self.targets.append(target)
        return target, fields, body

    def _ask(self) -> None:
        for _ in range(self._choose.choice([1, 1, 3, 20])):
            target, fields, body = self._request()
            if body is not None:
                fields.append((b"content-length", b"%d" % len(body)))
                if self._choose.random() < 0.2:
                    fields.append((b"expect", b"100-continue"))
            lines = b"".join(b"%b: %b\r\n" % field for field in [(b"host", b"a"), *fields])
            method = b"GET" if body is None else b"POST"
            self._plain += b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, lines, body or b"")
        if self._choose.random() < 0.1:
            self._plain += b"broken\r\n\r\n"

    def _ask_2(self) -> None:
        choose = self._choose
        self._h2 = connection = H2Connection(H2Configuration(header_encoding=None))
        connection.initiate_connection()
        first = choose.choice([0, 1, 1000, 16_384, 65_535, 2**24])
        connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: first})
        if choose.random() < 0.5:
            connection.increment_flow_control_window(2**24)
        #: So many bytes of responses are given back to the windows.
        self._given_back: float = choose.choice([0, choose.randint(0, 300_000), math.inf])
        for number in range(choose.choice([1, 3, 20])):
            target, fields, body = self._request()
            method = b"GET" if body is None else b"POST"
            pseudo = [(b":method", method), (b":scheme", b"https"), (b":path", target)]
            stream = 2 * number + 1
            connection.send_headers(
                stream, [*pseudo, (b":authority", b"a"), *fields], end_stream=body is None
            )
            if body is not None:
                body = body[: connection.local_flow_control_window(stream)]
                for at in range(0, len(body), 16_384):
                    connection.send_data(stream, body[at : at + 16_384])
                if choose.random() < 0.7:
                    connection.end_stream(stream)
        self._plain = connection.data_to_send()

    # Called in a thread.

    def connect(self) -> None:
        self.socket = socket.socket(
            socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET
        )
        if buffer := self._choose.choice([0, 4096, 65536]):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect(self._address)
        self.socket.settimeout(0)
        self._crypt()

    def wants(self) -> int:
        """What to wait for, for a selector."""
        sends = bool(self._out) and self.may_send > 0 and not self.over
        reads = self.may_read > 0 and not self.over
        return selectors.EVENT_WRITE * sends | selectors.EVENT_READ * reads

    def act(self, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                sent = self.socket.send(self._out[: int(min(self.may_send, 2**16))])
                self._out = self._out[sent:]
                self.may_send -= sent
            if events & selectors.EVENT_READ:
                self.read(int(min(self.may_read, 2**16)))
        except BlockingIOError:
            pass
        except OSError:
            self.over = True

    def read(self, most: int) -> None:
        data = self.socket.recv(most)
        self.over = not data
        self.may_read -= len(data)
        if self._tls is None:
            self.received += data
        else:
            self._in.write(data)
            self._crypt()

    def _crypt(self) -> None:
        """Let TLS take what came, and make what is to be sent."""
        if self._tls is None:
            return
        with suppress(ssl.SSLError):  # mostly: it wants more
            self._tls.do_handshake()
            while True:
                if self._plain:
                    self._tls.write(self._plain)
                    self._plain = b""
                data = self._tls.read(2**16)
                if not data:
                    break
                self.received += data
                if self._h2 is not None:
                    self._give_back(self._h2, data)
        self._out += self._encrypted.read()

    def _give_back(self, connection: H2Connection, data: bytes) -> None:
        with suppress(ProtocolError):  # to h2 a GOAWAY is the end
            for event in connection.receive_data(data):
                length = getattr(event, "flow_controlled_length", 0)
                if length and self._given_back > 0:
                    self._given_back -= length
                    connection.acknowledge_received_data(length, event.stream_id)  # type: ignore[attr-defined]
        self._plain += connection.data_to_send()

    def read_on(self) -> str:
        """Read until the end; what is wrong with it, or nothing."""
        self.socket.settimeout(OVER)
        try:
            while not self.over:
                self.read(2**16)
        except TimeoutError:
            return "no end"
        except OSError:
            pass
        return "" if self._kind == "h2" else _judged(bytes(self.received), len(self.targets) + 1)


def _judged(received: bytes, count: int) -> str:
    """What is wrong with *received*: at most *count* responses, of which the last may be cut."""
    try:
        for _ in range(count):
            parser = ResponseParser(Limits())
            parser.expect(b"GET")
            parser.receive(received)
            while not isinstance(event := parser.next_event(), EndOfMessage):
                if event is NEED_DATA:
                    return ""
            received = b"".join(parser.unread())
    except ParseError as error:
        return f"{error.code}: {error.reason}"
    return "too many responses" if received else ""


def _drive(clients: list[Stopped]) -> None:
    """Let *clients* do what they may, for `ACTIVE` seconds in which the machine goes on."""
    for client in clients:
        client.connect()
    left = ACTIVE
    while left > 0:
        began = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for client in clients:
                if events := client.wants():
                    selector.register(client.socket, events, client)
            for key, events in selector.select(TURN) if selector.get_map() else ():
                key.data.act(events)
        time.sleep(0.001)
        left -= min(time.monotonic() - began, TURN)


def _read_on(clients: list[Stopped]) -> list[str]:
    wrong = []
    for client in clients:
        if client.reads_on and (words := client.read_on()):
            wrong.append(f"{words}: {client!r}")
        client.socket.close()
    return wrong


def _is_ours(function: Any) -> bool:
    module: str = getattr(function, "__func__", function).__module__
    return module.startswith("twisted_hangup.")


async def batch(reactor: Any, seed: int, count: int, folder: Path) -> list[str]:
    """Let *count* clients stop; what is wrong after that.

    Args:
        folder: For a file and a socket.
    """
    choose = random.Random(seed)
    (folder / "large").write_bytes(_LARGE)
    answers, behind = Answers(reactor), Answers(reactor)
    upstream_root = Resource()
    upstream_root.putChild(b"answers", behind)
    upstream = HangupSite(upstream_root)
    upstream_port = reactor.listenTCP(0, upstream, interface="127.0.0.1")
    root = Resource()
    proxy = ProxyResource(
        f"http://127.0.0.1:{upstream_port.getHost().port}/", timeouts=_OUTBOUND, reactor=reactor
    )
    for name, child in (
        ("answers", answers),
        ("files", StaticFiles(str(folder))),
        ("file", File(str(folder))),
        ("proxy", proxy),
    ):
        root.putChild(name.encode(), child)
    limits = Limits(
        backlog_bytes=choose.choice([100, 16_384]),
        body_bytes=choose.choice([0, 50_000]),
        allow_half_open=choose.random() < 0.5,
    )
    site = HangupSite(root, limits=limits, timeouts=_TIMEOUTS)
    handler: Callable[..., Any] = choose.choice(
        [
            lambda failure, _: failure,
            lambda *_: Deferred(),
            lambda _, client: client.respond(400, _LARGE),
        ]
    )
    site.on_client_error(handler)
    path = str(folder / f"socket-{seed}")
    tls = SSL4ServerEndpoint(reactor, 0, server_context(), interface="127.0.0.1")
    ports: list[Any] = [
        await hangup_endpoint(endpoint).listen(site)
        for endpoint in (
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
            UNIXServerEndpoint(reactor, path),
            tls,
        )
    ]
    for port in ports:
        if size := choose.choice([0, 4096, 65536]):
            port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    tcp, _, secure = [getattr(port.getHost(), "port", 0) for port in ports]
    addresses = {
        "tcp": ("127.0.0.1", tcp),
        "unix": path,
        "tls": ("127.0.0.1", secure),
        "h2": ("127.0.0.1", secure),
    }
    kinds = [choose.choice(list(addresses)) for _ in range(count)]
    clients = [Stopped(kind, addresses[kind], choose) for kind in kinds]
    if choose.random() < 0.4:
        reactor.callLater(choose.uniform(0, ACTIVE), choose.choice([site.retire, site.drain]))
    await deferToThread(_drive, clients)

    def left() -> list[str]:
        calls = [call for call in reactor.getDelayedCalls() if _is_ours(call.func)]
        kept = {
            "connections": [*site.context.connections, *site.context.tunnels],
            "requests": [*answers.running, *behind.running],
            "timers": [] if site.context.connections else calls,
            "connections to the server": [*upstream.context.connections],
        }
        return [f"{name}: {things}" for name, things in kept.items() if things]

    ends = time.monotonic() + OVER
    while (wrong := left()) and time.monotonic() < ends:
        await task.deferLater(reactor, 0.1)
    if wrong:
        wrong += map(repr, clients)
    site.hang_up_all()
    wrong += await deferToThread(_read_on, clients)
    await proxy.pool.close()
    for port in [*ports, upstream_port]:
        await port.stopListening()
    await site.drain()
    await upstream.drain()
    await task.deferLater(reactor, 2 * SECONDS)  # a handler of the last errors has its time
    return wrong


async def _run(reactor: Any, seconds: float, seed: int) -> None:
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    ends, count = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < ends:
            if wrong := await batch(reactor, seed + count, 100, Path(folder)):
                print(f"seed {seed + count}:", *wrong, sep="\n")
                sys.exit(1)
            count += 1
    print(f"ok      {100 * count} clients have stopped")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)

    def run(reactor: Any) -> Deferred[None]:
        running = Deferred.fromCoroutine(_run(reactor, options.seconds, options.seed))
        return running.addErrback(_show)

    task.react(run)


def _show(failure: Failure) -> Failure:
    if not failure.check(SystemExit):
        failure.printTraceback()
    return failure
