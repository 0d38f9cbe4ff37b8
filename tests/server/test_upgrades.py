"""After an upgrade the connection is another protocol's, and nothing of ours touches it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
from support.certificates import server_context
from support.wire import (
    BAD,
    GOOD,
    Client,
    HandClock,
    Paths,
    Serve,
    in_thread,
    settled,
    statuses,
    talk,
    until,
)
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.util import DeferredResource
from zope.interface import implementer

UPGRADE: Final = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

#: More than any two socket buffers hold.
MUCH: Final = 16 * 1024 * 1024

#: Longer than any of the timeouts.
LONG: Final = 3600.0


def masked(text: bytes, opcode: int = 1) -> bytes:
    """A client's frame (RFC 6455, section 5.2), masked with zeros."""
    return bytes([0x80 | opcode, 0x80 | len(text)]) + bytes(4) + text


class Chat:
    """What the server's side of one websocket connection did, on any stack.

    It sends each text back; ``much`` asks for 16 MiB, and ``bye`` for the end.
    """

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.lost: list[Failure] = []
        self.close: Callable[[], object] = lambda: None
        self.send: Callable[[bytes], object] = lambda data: None

    def hear(self, text: str) -> None:
        self.heard.append(text)
        if text == "bye":
            self.close()
        else:
            self.send(bytes(MUCH) if text == "much" else text.encode())


def twisted_resource(chats: list[Chat]) -> Any:
    """A resource of ``twisted.web.websocket``."""
    websocket = pytest.importorskip("twisted.web.websocket")

    class Protocol(Chat):
        def negotiationStarted(self, transport: Any) -> None:
            self.transport = transport
            self.close = transport.loseConnection
            self.send = transport.sendBytesMessage

        def negotiationFinished(self) -> None: ...
        def pongReceived(self, payload: bytes) -> None: ...

        def textMessageReceived(self, message: str) -> None:
            self.hear(message)

        def bytesMessageReceived(self, data: bytes) -> None: ...

        def connectionLost(self, reason: Failure) -> None:
            self.lost.append(reason)

    class Factory:
        def buildProtocol(self, request: Request) -> Protocol:
            chats.append(protocol := Protocol())
            return protocol

    return websocket.WebSocketResource(Factory())


def autobahn_resource(chats: list[Chat]) -> Any:
    """A resource of autobahn."""
    resource = pytest.importorskip("autobahn.twisted.resource")
    websocket = pytest.importorskip("autobahn.twisted.websocket")

    class Protocol(websocket.WebSocketServerProtocol):  # type: ignore[misc, name-defined]
        def onOpen(self) -> None:
            chats.append(Chat())
            self.chat = chats[-1]
            self.chat.close = lambda: self.sendClose(1000)
            self.chat.send = lambda data: self.sendMessage(data, isBinary=True)

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            self.chat.hear(payload.decode())

        def connectionLost(self, reason: Failure) -> None:
            super().connectionLost(reason)
            self.chat.lost.append(reason)

    factory = websocket.WebSocketServerFactory()
    factory.protocol = Protocol
    # Seconds of a real clock, in which a client on a busy machine may have done nothing.
    factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
    return resource.WebSocketResource(factory)


STACKS: Final = {"twisted": twisted_resource, "autobahn": autobahn_resource}
TRANSPORTS: Final = ("tcp", "unix", "tls")

stacks = pytest.mark.parametrize("stack", STACKS)
transports = pytest.mark.parametrize("transport", TRANSPORTS)


class Upgraded:
    """A site with a chat, and clients that have upgraded."""

    def __init__(self, serve: Serve, directory: Path, stack: str, transport: str) -> None:
        self.chats: list[Chat] = []
        self.tls = transport == "tls"
        self.served = serve(
            Paths(chat=STACKS[stack](self.chats)),
            tls=server_context() if self.tls else None,
            unix=str(directory / "socket") if transport == "unix" else None,
            reactor=HandClock(),
        )

    def wait(self) -> None:
        """Let more time pass than there is for anything."""
        clock: Any = self.served.site.reactor
        clock.wait(LONG)

    @property
    def chat(self) -> Chat:
        (chat,) = self.chats
        return chat

    async def client(self, *segments: bytes, **arguments: Any) -> Client:
        """A client that has sent *segments* and read the head of the 101."""

        def run() -> Client:
            client = Client(self.served.port, tls=self.tls, **arguments).send(*segments)
            head = client.read_until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            return client

        client: Client = await in_thread(run)
        return client

    def assert_nothing_of_ours(self) -> None:
        """No registry has the connection, no deadline, no timer."""
        context = self.served.site.context
        assert self.served.site.open_connections == 0
        assert not context.connections
        assert context.deadlines._waiting == 0
        assert context.deadlines._timer is None
        assert context.paused._gone == {}
        assert self.served.errors == []


def read_message(client: Client) -> bytes:
    """The payload of one unmasked frame."""
    _, length = client.socket.recv(1), client.socket.recv(1)[0]
    if length == 126:
        (length,) = struct.unpack("!H", exactly(client, 2))
    elif length == 127:
        (length,) = struct.unpack("!Q", exactly(client, 8))
    return exactly(client, length)


def exactly(client: Client, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (more := client.socket.recv(count - len(data))):
        data += more
    return bytes(data)


@stacks
@transports
@pytest.mark.parametrize("before", [b"", GOOD])
@pytest_twisted.ensureDeferred
async def test_frame_in_the_segment_of_the_upgrade(
    serve: Serve, tmp_path: Path, stack: str, transport: str, before: bytes
) -> None:
    """It reaches the new protocol, as do those after it; stock Twisted loses it."""
    upgraded = Upgraded(serve, tmp_path, stack, transport)
    wire = UPGRADE + masked(b"one") + masked(b"two")

    def run() -> Client:
        client = Client(upgraded.served.port, tls=upgraded.tls).send(before + wire)
        if before:
            client.read_until(b"fast")
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        return client

    client = await in_thread(run)
    assert await in_thread(lambda: read_message(client)) == b"one"
    assert await in_thread(lambda: read_message(client)) == b"two"
    await in_thread(lambda: client.send(masked(b"three")))
    assert await in_thread(lambda: read_message(client)) == b"three"
    upgraded.assert_nothing_of_ours()
    await in_thread(client.close)
    await until(lambda: upgraded.chat.lost)


@stacks
@pytest_twisted.ensureDeferred
async def test_site_that_was_retired(serve: Serve, tmp_path: Path, stack: str) -> None:
    """It leaves alone what was upgraded, and a connection may still be upgraded."""
    upgraded = Upgraded(serve, tmp_path, stack, "tcp")
    before = await upgraded.client(UPGRADE)
    upgraded.served.site.retire()
    for client in (before, await upgraded.client(UPGRADE)):
        client.send(masked(b"still here"))
        assert await in_thread(partial(read_message, client)) == b"still here"
        client.close()
    await until(lambda: all(chat.lost for chat in upgraded.chats))


@stacks
@transports
@pytest_twisted.ensureDeferred
async def test_no_deadline(serve: Serve, tmp_path: Path, stack: str, transport: str) -> None:
    """None of our deadlines touches it, however long it is idle, and drain() does not wait."""
    upgraded = Upgraded(serve, tmp_path, stack, transport)
    client = await upgraded.client(UPGRADE)
    upgraded.wait()
    upgraded.assert_nothing_of_ours()
    await upgraded.served.site.drain()
    await in_thread(lambda: client.send(masked(b"still here")))
    assert await in_thread(lambda: read_message(client)) == b"still here"
    await in_thread(client.close)
    await until(lambda: upgraded.chat.lost)


@stacks
@transports
@pytest_twisted.ensureDeferred
async def test_client_that_takes_nothing(
    serve: Serve, tmp_path: Path, stack: str, transport: str
) -> None:
    """``send_seconds`` is for responses: an upgraded client may take its time to read."""
    upgraded = Upgraded(serve, tmp_path, stack, transport)
    client = await upgraded.client(UPGRADE, receive_buffer=16 * 1024)
    await in_thread(lambda: client.send(masked(b"much")))
    await until(lambda: upgraded.chat.heard == ["much"])
    upgraded.wait()
    upgraded.assert_nothing_of_ours()
    assert upgraded.chat.lost == []
    assert len(await in_thread(lambda: read_message(client))) == MUCH
    await in_thread(client.close)
    await until(lambda: upgraded.chat.lost)


@stacks
@transports
@pytest.mark.parametrize("leave", ["close", "reset", "end"])
@pytest_twisted.ensureDeferred
async def test_client_hangs_up(
    serve: Serve, tmp_path: Path, stack: str, transport: str, leave: str
) -> None:
    """The new protocol hears of it, once; it is no client error of ours."""
    upgraded = Upgraded(serve, tmp_path, stack, transport)
    client = await upgraded.client(UPGRADE + masked(b"hello"))
    await in_thread(getattr(client, leave))
    await until(lambda: upgraded.chat.lost)
    await settled()
    assert len(upgraded.chat.lost) == 1
    upgraded.assert_nothing_of_ours()
    await in_thread(client.close)


@stacks
@transports
@pytest_twisted.ensureDeferred
async def test_server_closes(serve: Serve, tmp_path: Path, stack: str, transport: str) -> None:
    """The new protocol can close the connection at once, over TLS too."""
    upgraded = Upgraded(serve, tmp_path, stack, transport)
    client = await upgraded.client(UPGRADE)

    def run() -> bytes:
        client.send(masked(b"bye"))
        client.read_until(b"\x88\x02\x03\xe8")
        if stack == "autobahn":  # it waits for the client's own close frame, and then aborts
            client.send(masked(b"\x03\xe8", opcode=8))
        received = b""
        with suppress(ConnectionResetError):
            received = client.read_all()
        client.close()
        return received

    assert await in_thread(run) == b""
    await until(lambda: upgraded.chat.lost)
    assert len(upgraded.chat.lost) == 1
    upgraded.assert_nothing_of_ours()


@stacks
@pytest_twisted.ensureDeferred
async def test_what_is_no_frame(serve: Serve, tmp_path: Path, stack: str) -> None:
    """Bytes that break the new protocol are the new protocol's, not ours to refuse."""
    upgraded = Upgraded(serve, tmp_path, stack, "tcp")
    client = await upgraded.client(UPGRADE)

    def run() -> bytes:
        client.send(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
        received = b""
        with suppress(ConnectionResetError):
            received = client.read_until(b"\x88\x02")
        client.close()
        return received

    assert b"HTTP" not in await in_thread(run)
    await until(lambda: upgraded.chat.lost)
    upgraded.assert_nothing_of_ours()
    assert len(upgraded.chat.lost) == 1


@stacks
@transports
@pytest_twisted.ensureDeferred
async def test_upgrade_that_takes_time(
    serve: Serve, tmp_path: Path, stack: str, transport: str
) -> None:
    """Where the resource has to be found first, what came meanwhile waits for it."""
    upgraded = Upgraded(serve, tmp_path, stack, transport)
    found = upgraded.served.root.children[b"chat"]
    finding: Deferred[Any] = Deferred()
    upgraded.served.root.putChild(b"chat", DeferredResource(finding))
    much = masked(b"0123456789") * 2000  # more than is taken in meanwhile

    def run() -> bytes:
        client = Client(upgraded.served.port, tls=upgraded.tls).send(UPGRADE + masked(b"one"))
        client.send(much)
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        received = [read_message(client) for _ in range(2001)]
        client.close()
        return b"".join(received)

    received = in_thread(run)
    await until(lambda: upgraded.served.site.context.phases()["response"])
    await settled()
    finding.callback(found)
    assert await received == b"one" + b"0123456789" * 2000
    await until(lambda: upgraded.chat.lost)
    upgraded.assert_nothing_of_ours()


@implementer(IPushProducer)
class Nudged:
    """A producer that notes what its consumer tells it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


@transports
@pytest_twisted.ensureDeferred
async def test_producer_of_the_new_protocol(serve: Serve, tmp_path: Path, transport: str) -> None:
    """The new protocol can have a producer; under stock Twisted the channel stays the one."""
    upgraded = Upgraded(serve, tmp_path, "twisted", transport)
    client = await upgraded.client(UPGRADE)
    chat: Any = upgraded.chat
    chat.transport.attachProducer(producer := Nudged())
    await in_thread(lambda: client.send(masked(b"much")))
    assert len(await in_thread(lambda: read_message(client))) == MUCH
    await until(lambda: producer.told[1:])
    assert producer.told == ["pause", "resume"]
    chat.transport.detachProducer()
    await in_thread(client.close)
    await until(lambda: chat.lost)


class RefusesUpgrade(Resource):
    """Refuses the upgrade, and answers."""

    isLeaf = True

    def render(self, request: Request) -> Any:
        request.setResponseCode(426)
        request.finish()
        return NOT_DONE_YET


@pytest_twisted.ensureDeferred
async def test_upgrade_that_is_refused(serve: Serve) -> None:
    """The bytes after an upgrade that does not come are HTTP, and are answered."""
    served = serve(Paths(chat=RefusesUpgrade()))
    assert statuses(await talk(served.port, UPGRADE + GOOD + BAD)) == [426, 200, 400]
