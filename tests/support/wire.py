"""Raw clients on real sockets, and sites for them to talk to."""

from __future__ import annotations

import fcntl
import re
import select
import socket
import ssl
import struct
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from inspect import isawaitable
from math import ceil
from os import fsdecode
from typing import Any, TypeAlias

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from twisted_hangup import ClientError, HangupSite
from twisted_hangup.testing import MemoryClient
from twisted_hangup.transport.layers import transport_beneath
from twisted_hangup.transport.sockets import held_by_kernel

#: Longest wait of a test for anything, in seconds: how busy the machine is does not count.
PATIENCE = 60.0

GOOD = b"GET /fast HTTP/1.1\r\nHost: a\r\n\r\n"
BAD = b"GET /fast HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"

#: What a client reads where no handler answers.
DEFAULT = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
#: The same from ``twistd hangup``, which adds a sentence.
DEFAULT_PAGE = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Vary: Accept\r\nContent-Length: 59\r\n\r\n"
    b"The server cannot read this request: it is not valid HTTP.\n"
)


def close_with_reset(connection: socket.socket) -> None:
    """Close *connection* by a reset (RST), whatever is still to be sent or read."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Client:
    """A client that sends what it is told, on a blocking socket in a thread."""

    def __init__(
        self,
        port: int | str,
        *,
        tls: bool = False,
        alpn: str = "http/1.1",
        receive_buffer: int | None = None,
    ) -> None:
        """Connect to a TCP port of this machine, or to the UNIX socket of that path."""
        family = socket.AF_UNIX if isinstance(port, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(PATIENCE)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if isinstance(port, str):
            self.socket.connect(port)
        else:
            self.socket.connect(("127.0.0.1", port))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.start_tls(alpn)

    def start_tls(self, alpn: str = "http/1.1") -> Client:
        """Speak TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        self.socket = context.wrap_socket(self.socket, suppress_ragged_eofs=True)
        return self

    def send(self, *segments: bytes) -> Client:
        for segment in segments:
            self.socket.sendall(segment)
        return self

    def read_until(self, end: bytes) -> bytes:
        """Read up to and including *end*, or to the end of the connection."""
        data = b""
        while not data.endswith(end):
            more = self.socket.recv(1)
            if not more:
                break
            data += more
        return data

    def read(self, count: int) -> bytes:
        """Read so many bytes, or to the end of the connection."""
        data = bytearray()
        while len(data) < count and (more := self.socket.recv(count - len(data))):
            data += more
        return bytes(data)

    def send_until(self, end: bytes, data: bytes) -> bytes:
        """Send *data*, and read up to and including *end*, after which nothing more is sent.

        In one thread: before Python 3.13, two at one TLS socket take each other's errors for
        their own, and read an end of the connection that never was.
        """
        rest, came = memoryview(data), b""
        self.socket.setblocking(False)
        while not came.endswith(end):
            try:
                more = self.socket.recv(1)
            except (BlockingIOError, ssl.SSLWantReadError):
                writers = [self.socket] if rest else []
                readable, writable, _ = select.select([self.socket], writers, [], PATIENCE)
                assert readable or writable, "nothing can be sent, and nothing comes"
                if writable:
                    with suppress(BlockingIOError, ssl.SSLWantWriteError):
                        rest = rest[self.socket.send(rest[:65536]) :]
            else:
                assert more, came
                came += more
        self.socket.settimeout(PATIENCE)
        return came

    def read_all(self) -> bytes:
        """Read to the end; a reset after the last byte is an error."""
        data = bytearray()
        while more := self.socket.recv(65536):
            data += more
        return bytes(data)

    def end(self) -> Client:
        """Send FIN and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        close_with_reset(self.socket)

    def close(self) -> None:
        self.socket.close()


def talk(
    port: int | str, *segments: bytes, tls: bool = False, fin: bool = False
) -> Deferred[bytes]:
    """Send *segments*, end the input if *fin*, read to the end, close; fires with what came."""

    def run() -> bytes:
        client = Client(port, tls=tls)
        try:
            client.send(*segments)
            if fin:
                client.end()
            return client.read_all()
        finally:
            client.close()

    return in_thread(run)


def in_thread(function: Callable[[], Any]) -> Deferred[Any]:
    """Run a blocking client beside the reactor."""
    return deferToThread(function)


def statuses(received: bytes) -> list[int]:
    """The status codes of the responses in *received*, in order."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def codes(client: MemoryClient) -> list[str]:
    """The codes of the client errors of *client*, in order."""
    return [error.code for error in client.errors]


def pause(seconds: float = 0.05) -> Deferred[None]:
    """Let the reactor run for so long."""
    from twisted.internet import reactor

    return deferLater(reactor, seconds, lambda: None)


async def settled(turns: int = 10) -> None:
    """Let the reactor do all that it can do now.

    What a client has sent may still be on its way: see `Served.has_read`.
    """
    for _ in range(turns):
        await pause(0.0005)  # and the kernel, where a busy machine lets it be late


async def until(true: Callable[[], Any]) -> Any:
    """Let the reactor run until *true* says so, itself or by an awaitable; an error if never.

    Returns:
        What it said.
    """
    ends = time.monotonic() + PATIENCE
    while True:
        answer = true()
        if isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < ends, "what a test waits for does not come"
        await pause(0.001)


async def fill(transport: Any) -> None:
    """Leave no room in the kernel's buffers between *transport* and a peer that does not read."""
    connection = transport_beneath(transport).socket
    for _ in range(20):
        with suppress(BlockingIOError):
            while True:
                connection.send(bytes(64 * 1024))
        await settled()


async def filled(sender: Any) -> None:
    """Wait until the kernel takes no more from *sender*."""
    taken = None
    while taken != sender.taken:
        taken = sender.taken
        await settled()


def taken_by_peer(sender: Any) -> int:
    """How much of what was written to *sender* its peer has, as far as the kernel says."""
    return int(sender.taken) - held_by_kernel(sender)


async def take_some(read: Callable[[], object], sender: Any) -> None:
    """*read*, and wait until the kernel says that the peer of *sender* has taken some more."""
    before = taken_by_peer(sender)
    await in_thread(read)
    await until(lambda: taken_by_peer(sender) > before)


def has_left(connection: Any) -> bool:
    """Whether the kernel knows that the peer of *connection*, a socket, has ended or reset it."""
    if connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


async def take_a_little(read: Callable[[], object], sender: Any) -> None:
    """*read* until the kernel holds less of what it took from *sender*, and has taken no more."""
    taken = held = 0
    while taken != sender.taken or held_by_kernel(sender) >= held:
        taken, held = sender.taken, held_by_kernel(sender)
        await in_thread(read)
        await settled(2)


async def arrived(connection: socket.socket) -> None:
    """Wait until *connection* has something to read, or an end: the kernel may be late."""
    await until(lambda: select.select([connection], [], [], 0)[0])


def unread(transport: Any) -> int:
    """How many bytes the kernel keeps for *transport* to read."""
    descriptor = transport.fileno()
    if descriptor < 0:
        return 0
    count = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def wait_for(true: Callable[[], object]) -> None:
    """Let a thread, or a test without a reactor, sleep until *true* says so; else an error."""
    ends = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < ends, "what a test waits for does not come"
        time.sleep(0.002)


class HandClock(Clock):
    """A clock for sites on real sockets that a test alone moves.

    What is due at once happens all the same, in the reactor's next turn.
    """

    def callLater(self, *args: Any, **kw: Any) -> Any:
        from twisted.internet import reactor as installed

        reactor: Any = installed
        seconds, *_ = args
        if not seconds:
            reactor.callLater(0, self.advance, 0)
        return super().callLater(*args, **kw)

    def wait(self, seconds: float) -> None:
        """Let so many seconds pass, a quarter of one at a time."""
        self.pump([0.25] * ceil(seconds * 4))

    async def wait_until(self, true: Callable[[], object]) -> None:
        """Let time pass until *true* says so: ten seconds in each turn of the reactor."""

        def after_a_while() -> object:
            self.wait(10)
            return true()

        await until(after_a_while)


class Fast(Resource):
    """Answers at once, and remembers what it ran."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[bytes] = []

    def render(self, request: Request) -> bytes:
        self.ran.append(request.uri)
        return b"fast"


class Slow(Resource):
    """Answers when it is told to; `started` fires with each request as it begins."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.started: Deferred[Request] = Deferred()
        self.gone: list[Any] = []

    def render(self, request: Request) -> int:
        self.requests.append(request)
        request.notifyFinish().addErrback(self.gone.append)
        started, self.started = self.started, Deferred()
        started.callback(request)
        return NOT_DONE_YET


class Paths(Resource):
    """``/fast`` and ``/slow``, and whatever a test puts beside them."""

    def __init__(self, **children: Resource) -> None:
        super().__init__()
        self.fast, self.slow = Fast(), Slow()
        self.putChild(b"fast", self.fast)
        self.putChild(b"slow", self.slow)
        for name, child in children.items():
            self.putChild(name.encode(), child)


class Served:
    """A site on a port, and the errors it has seen."""

    def __init__(self, site: Any, port: Any, root: Any) -> None:
        self.site: HangupSite = site
        host = port.getHost()
        #: What a `Client` connects to: the port's number, or the path of a UNIX socket.
        self.port: Any = fsdecode(host.name or b"") if isinstance(host, UNIXAddress) else host.port
        self.root = root
        self.errors: list[ClientError] = []
        if isinstance(site, HangupSite):
            site.journal.watch(self.errors.append)

    @property
    def codes(self) -> list[str]:
        return [error.code for error in self.errors]

    async def has_read(self, *clients: Client) -> None:
        """Let the reactor run until it has read all that *clients* have sent, and acted on it."""
        sockets: list[Any] = [client.socket for client in clients]

        def all_read() -> bool:
            connections = self.site.context.open()
            return len(connections) >= len(clients) and not (
                any(held_by_kernel(connection) for connection in sockets)
                or any(unread(transport_beneath(one.transport)) for one in connections)
            )

        await until(all_read)
        await settled()

    async def emptied(self) -> None:
        """Let the reactor run until no connection is left."""
        await until(lambda: self.site.open_connections == 0)

    async def leave(self, wire: bytes, when: Callable[[], object] | None = None) -> None:
        """Let a client ask and leave, and the server notice.

        Args:
            wire: What it sends.
            when: Says that it is time to leave; without, it is when its request runs.
        """
        known = len(self.errors)
        client = await in_thread(lambda: Client(self.port).send(wire))
        await until(when or (lambda: self.site.context.phases()["response"]))
        await settled()
        client.reset()
        await until(lambda: len(self.errors) > known)
        await settled()


#: Of the fixture ``serve``.
Serve: TypeAlias = Callable[..., Served]


@implementer(IPushProducer, IPullProducer)
class Producer:
    """Gives what it has whenever there is room."""

    def __init__(self, request: Request, data: bytes, finish: bool = False) -> None:
        self.request = request
        self.data = data
        self.finish = finish
        self.stopped = 0

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None:
        self.request.write(self.data)

    def stopProducing(self) -> None:
        self.stopped += 1
        if self.finish:
            self.request.unregisterProducer()
            self.request.finish()
