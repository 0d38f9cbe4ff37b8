"""A tunnel passes everything on, and waits for nobody for ever."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from support.certificates import server_context
from support.peers import Peer
from support.proxying import Proxied
from support.proxying import proxied as proxied
from support.upstreams import Connection
from support.wire import PATIENCE, Client, filled, in_thread, settled, take_a_little, until
from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ServerEndpoint, serverFromString

from twisted_hangup import Limits, OutboundTimeouts
from twisted_hangup.transport.layers import transport_beneath

UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Go\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n"

#: Far more than all buffers on the way hold.
MUCH = 40_000_000

TIMEOUTS = OutboundTimeouts(silence_seconds=10.0)


def echoing(connection: Connection) -> None:
    connection.read_head()
    connection.send(SWITCHING)
    while data := connection.socket.recv(65536):
        connection.send(data)


def deaf(connection: Connection) -> None:
    """A server that never reads, but is there."""
    connection.read_head()
    connection.send(SWITCHING)
    while connection.socket.fileno() >= 0:
        sleep(0.01)


def flooding(connection: Connection) -> None:
    """A server that sends more than there is room for."""
    connection.read_head()
    connection.send(SWITCHING)
    connection.send(bytes(MUCH))


async def joined(there: Proxied, receive_buffer: int | None = None) -> Client:
    """A client that has its tunnel."""
    client = Client(there.port, receive_buffer=receive_buffer).send(UPGRADE)
    await in_thread(lambda: client.read_until(b"\r\n\r\n"))
    return client


def left(there: Proxied) -> int:
    """How many connections to the server there are."""
    return len(there.proxy.pool._all)


@pytest_twisted.ensureDeferred
async def test_idle(proxied: Callable[..., Proxied]) -> None:
    """Both ends close, quietly, when nothing has come for so long, and not before."""
    there = proxied(echoing, timeouts=TIMEOUTS)
    client = await joined(there)
    for _ in range(3):
        there.clock.wait(9)
        await in_thread(lambda: client.send(b"x").socket.recv(1))
    there.clock.wait(9)
    await settled()
    assert left(there) == 1
    there.clock.wait(2)
    assert await in_thread(client.read_all) == b""
    await until(lambda: not left(there))
    await until(lambda: there.server.ended)
    assert there.clock.getDelayedCalls() == []
    client.close()


@pytest.mark.parametrize("leave", [Client.close, Client.reset])
@pytest_twisted.ensureDeferred
async def test_request_ends_with_its_tunnel(
    proxied: Callable[..., Proxied], leave: Callable[[Client], None]
) -> None:
    """Who counts the requests that run hears that it is over, once, and not before."""
    there = proxied(echoing, timeouts=TIMEOUTS)
    render = there.proxy.render
    over: list[object] = []

    def noted(request: Any) -> int:
        request.notifyFinish().addBoth(over.append)
        return render(request)

    there.proxy.render = noted  # type: ignore[method-assign]
    client = await joined(there)
    await in_thread(lambda: client.send(b"x").socket.recv(1))
    assert over == []
    leave(client)
    await until(lambda: not left(there) and not there.site.context.tunnels)
    assert over == [None]


@pytest_twisted.ensureDeferred
async def test_no_limit(proxied: Callable[..., Proxied]) -> None:
    """0 means that a tunnel may be silent for as long as it likes."""
    there = proxied(echoing, timeouts=OutboundTimeouts(silence_seconds=0))
    client = await joined(there)
    there.clock.wait(10_000)
    await in_thread(lambda: client.send(b"x").socket.recv(1))
    client.close()
    await until(lambda: not left(there))


@pytest_twisted.ensureDeferred
async def test_server_that_takes_nothing(proxied: Callable[..., Proxied]) -> None:
    """It is hung up on, and so is the client."""
    there = proxied(deaf, timeouts=TIMEOUTS)
    client = await joined(there)
    client.socket.setblocking(False)
    (channel,) = there.site.context.tunnels
    await until(lambda: _full(client) and transport_beneath(channel.transport).reading_paused)
    await there.clock.wait_until(lambda: not left(there))
    client.socket.settimeout(PATIENCE)
    with pytest.raises(ConnectionResetError):
        await in_thread(lambda: client.socket.recv(1))
    client.close()
    there.server.close()


def _full(client: Client) -> bool:
    """Send what there is room for; whether there was none."""
    try:
        client.socket.send(bytes(1 << 16))
    except BlockingIOError:
        return True
    return False


@pytest_twisted.ensureDeferred
async def test_client_that_takes_nothing(proxied: Callable[..., Proxied]) -> None:
    """It is hung up on, and so is the server; also one that the server has left."""
    there = proxied(flooding, timeouts=TIMEOUTS)
    client = await joined(there)
    await until(lambda: _stuck(there))
    await there.clock.wait_until(lambda: not left(there) and there.server.ended)
    client.close()


@pytest_twisted.ensureDeferred
async def test_client_that_takes_little(proxied: Callable[..., Proxied]) -> None:
    """However long it takes to take all, each byte starts the time anew."""
    there = proxied(flooding, timeouts=TIMEOUTS)
    client = await joined(there, 16 * 1024)
    await until(lambda: _stuck(there))
    (channel,) = there.site.context.tunnels
    await filled(channel.transport)
    for _ in range(3):
        there.clock.wait(8)
        await take_a_little(lambda: client.socket.recv(4096), channel.transport)

    for _ in range(5):
        await until(lambda: _stuck(there))
        there.clock.wait(8)
        # As much as kernels need to be told of room.
        assert len(await in_thread(lambda: client.read(MUCH // 8))) == MUCH // 8
    assert left(there) == 1
    client.close()


@pytest_twisted.ensureDeferred
async def test_rest_that_is_not_taken(proxied: Callable[..., Proxied]) -> None:
    """What a server that has closed leaves waits for the client no longer than anything else."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(SWITCHING + bytes(3_000_000))
        connection.socket.close()

    there = proxied(script, timeouts=TIMEOUTS)
    client = Client(there.port, receive_buffer=4096).send(UPGRADE)
    await until(lambda: there.server.connections and _stuck(there))
    await there.clock.wait_until(lambda: not left(there))
    await there.served.emptied()
    client.close()


def _stuck(there: Proxied) -> bool:
    """Whether reading from the server is paused."""
    transports = [transport_beneath(one.transport) for one in there.proxy.pool._all]
    return any(transport.reading_paused for transport in transports)


# Half-closes.

FIRST = b"the last of the first\n"

#: The client's connection, and the proxy's; those of a wrapped endpoint have layers of ours.
NETWORK = [
    *[("TCP", "TCP"), ("TLS", "TCP"), ("TCP", "TLS"), ("TLS", "TLS")],
    *[("wrapped TLS", "TCP"), ("PROXY", "TCP")],
]
WAYS = pytest.mark.parametrize("front, over", [*NETWORK, ("UNIX", "UNIX")])

#: Who ends its output first.
ENDS = pytest.mark.parametrize("first", ["client", "server"])


LISTEN: dict[str, Callable[[], Any]] = {
    "wrapped TLS": lambda: SSL4ServerEndpoint(reactor, 0, server_context(), interface="127.0.0.1"),
    "PROXY": lambda: serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1"),
}


class Joined:
    """A client and a server that have a tunnel between them, each with a script of its own."""

    def __init__(
        self,
        proxied: Callable[..., Proxied],
        path: Path,
        front: str,
        over: str,
        client: Callable[[Peer], Any],
        server: Callable[[Peer], Any],
    ) -> None:
        self.got: dict[str, Any] = {}

        def script(connection: Connection) -> None:
            peer = Peer(connection.socket, tls="server" if over == "TLS" else None)
            peer.read_until(b"\r\n\r\n")
            self._run("server", peer.send(SWITCHING), server)

        def ask() -> None:
            plain = Client(self.there.port)
            if front == "PROXY":
                plain.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
            peer = Peer(plain.socket, tls="client" if "TLS" in front else None).send(UPGRADE)
            peer.read_until(b"\r\n\r\n")
            self._run("client", peer, client)

        self.there = proxied(
            script,
            tls=server_context() if front == "TLS" else None,
            unix=str(path / "front") if front == "UNIX" else None,
            listen=LISTEN[front]() if front in LISTEN else None,
            over=over,
            timeouts=TIMEOUTS,
        )
        self.done = in_thread(ask)

    def _run(self, side: str, peer: Peer, script: Callable[[Peer], Any]) -> None:
        try:
            self.got[side] = script(peer)
        except OSError as error:
            self.got[side] = error
        peer.close()

    async def over(self) -> dict[str, Any]:
        """What both have got, once both connections have gone."""
        await self.done
        await until(lambda: len(self.got) == 2 and not left(self.there))
        await until(lambda: not self.there.site.context.tunnels)
        return self.got


@WAYS
@ENDS
@pytest.mark.parametrize("size", [10, 5_000_000])
@pytest_twisted.ensureDeferred
async def test_half_close(
    proxied: Callable[..., Proxied], tmp_path: Path, front: str, over: str, first: str, size: int
) -> None:
    """What comes after the end of the other's output arrives, and so does its own end."""
    answer = bytes(size)

    def ending(peer: Peer) -> bytes:
        return peer.send(FIRST).finish().read_all()

    def answering(peer: Peer) -> bytes:
        received = peer.read_all()
        peer.send(answer).finish()
        return received

    scripts = (ending, answering) if first == "client" else (answering, ending)
    joined = Joined(proxied, tmp_path, front, over, *scripts)
    got = await joined.over()
    second = "server" if first == "client" else "client"
    assert got == {first: answer, second: FIRST}
    assert joined.there.clock.getDelayedCalls() == []


@WAYS
@ENDS
@pytest_twisted.ensureDeferred
async def test_half_close_with_a_peer_that_reads_late(
    proxied: Callable[..., Proxied], tmp_path: Path, front: str, over: str, first: str
) -> None:
    """An end that comes after more than there is room for comes after all of it."""
    full = Event()

    def ending(peer: Peer) -> bytes:
        return peer.send(bytes(MUCH)).finish().read_all()

    def answering(peer: Peer) -> int:
        full.wait(PATIENCE)
        received = peer.read_all()
        peer.send(FIRST).finish()
        return len(received)

    scripts = (ending, answering) if first == "client" else (answering, ending)
    joined = Joined(proxied, tmp_path, front, over, *scripts)
    await until(lambda: _paused(joined.there, first))
    full.set()
    got = await joined.over()
    second = "server" if first == "client" else "client"
    assert got == {first: FIRST, second: MUCH}


@WAYS
@ENDS
@pytest_twisted.ensureDeferred
async def test_half_closed_and_silent(
    proxied: Callable[..., Proxied], tmp_path: Path, front: str, over: str, first: str
) -> None:
    """It waits no longer than any other tunnel."""

    def ending(peer: Peer) -> bytes:
        return peer.finish().read_all()

    def silent(peer: Peer) -> bytes:
        received = peer.read_all()
        heard.set()
        over_now.wait(PATIENCE)
        return received

    heard, over_now = Event(), Event()
    scripts = (ending, silent) if first == "client" else (silent, ending)
    joined = Joined(proxied, tmp_path, front, over, *scripts)
    await until(heard.is_set)
    joined.there.clock.wait(9)
    await settled()
    assert left(joined.there) == 1
    joined.there.clock.wait(2)
    await until(lambda: first in joined.got)
    assert joined.got == {first: b""}
    # The other's close_notify does not come.
    await joined.there.clock.wait_until(lambda: not left(joined.there))
    over_now.set()
    assert await joined.over() == {"client": b"", "server": b""}


@WAYS
@ENDS
@pytest_twisted.ensureDeferred
async def test_reset_after_a_half_close(
    proxied: Callable[..., Proxied], tmp_path: Path, front: str, over: str, first: str
) -> None:
    """A peer that goes for good, with or without a word, is not written to for ever."""

    def going(peer: Peer) -> None:
        peer.send(FIRST).finish()
        ended.wait(PATIENCE)
        peer.reset()

    def writing(peer: Peer) -> bytes:
        received = peer.read_all()
        ended.set()
        with suppress(OSError, SSL.Error):
            for _ in range(10_000):
                peer.send(b"?")
                sleep(0.001)
            raise AssertionError("it was never reset")
        return received

    ended = Event()
    scripts = (going, writing) if first == "client" else (writing, going)
    joined = Joined(proxied, tmp_path, front, over, *scripts)
    second = "server" if first == "client" else "client"
    assert (await joined.over())[second] == FIRST


@pytest.mark.parametrize("front, over", NETWORK)  # UNIX sockets have no reset
@ENDS
@pytest_twisted.ensureDeferred
async def test_reset_by_the_other_after_a_half_close(
    proxied: Callable[..., Proxied], tmp_path: Path, front: str, over: str, first: str
) -> None:
    """An answer that is cut does not look complete."""

    def ending(peer: Peer) -> bytes:
        return peer.send(FIRST).finish().read_all()

    def going(peer: Peer) -> None:
        peer.read_all()
        peer.send(b"half")
        peer.reset()

    scripts = (ending, going) if first == "client" else (going, ending)
    got = await Joined(proxied, tmp_path, front, over, *scripts).over()
    assert isinstance(got[first], ConnectionResetError)


@pytest_twisted.ensureDeferred
async def test_silent_reset_after_a_half_close(proxied: Callable[..., Proxied]) -> None:
    """It is noticed though nothing is written to the peer, and its connection is not read."""
    there = proxied(echoing_late, timeouts=OutboundTimeouts(silence_seconds=0))
    client = (await joined(there)).send(b"x").end()
    await until(lambda: there.proxy.ended._gone)
    client.reset()
    await there.clock.wait_until(lambda: not left(there))


def echoing_late(connection: Connection) -> None:
    """A server that reads to the end, and then thinks for a long time."""
    connection.read_head()
    connection.send(SWITCHING)
    connection.read_all()
    with suppress(OSError):
        while True:
            sleep(0.01)
            connection.socket.getpeername()


def _paused(there: Proxied, side: str) -> bool:
    """Whether reading from that side is paused."""
    if side == "server":
        return _stuck(there)
    channels = there.site.context.tunnels
    return any(transport_beneath(one.transport).reading_paused for one in channels)


@pytest_twisted.ensureDeferred
async def test_end_before_the_tunnel(proxied: Callable[..., Proxied]) -> None:
    """If a FIN is no hang-up (``allow_half_open``), the server gets it once there is a tunnel."""
    ended = Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        ended.wait(PATIENCE)
        connection.send(SWITCHING)
        connection.send(connection.read_all())

    there = proxied(script, timeouts=TIMEOUTS, site_limits=Limits(allow_half_open=True))
    client = Client(there.port).send(UPGRADE + FIRST).end()
    await until(lambda: any(one._ending.input_over for one in there.site.context.connections))
    ended.set()
    received = await in_thread(client.read_all)
    assert received.endswith(b"\r\n\r\n" + FIRST)
    client.close()


@pytest_twisted.ensureDeferred
async def test_site_that_was_retired(proxied: Callable[..., Proxied]) -> None:
    """A connection may still become a tunnel, and goes on."""
    there = proxied(echoing, timeouts=TIMEOUTS)
    there.site.retire()
    client = await joined(there)
    assert await in_thread(lambda: client.send(b"x").socket.recv(1)) == b"x"
    client.close()
    await until(lambda: not left(there))


@pytest_twisted.ensureDeferred
async def test_site_waits_for_a_tunnel(proxied: Callable[..., Proxied]) -> None:
    """`drain` is over when it has ended, and `hang_up_all` ends it."""
    there = proxied(echoing, timeouts=TIMEOUTS)
    client = await joined(there)
    drained = there.site.drain()
    await in_thread(lambda: client.send(b"x").socket.recv(1))
    assert there.site.open_connections == 0
    assert not drained.called
    there.site.hang_up_all()
    await drained
    with pytest.raises(ConnectionResetError):
        await in_thread(client.read_all)
    await until(lambda: not left(there))
    client.close()
