"""A tunnel waits for nobody for ever."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep

import pytest
import pytest_twisted
from support.proxying import Proxied
from support.proxying import proxied as proxied
from support.upstreams import Connection
from support.wire import Client, in_thread, settled, until

from twisted_hangup import OutboundTimeouts

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


async def joined(there: Proxied) -> Client:
    """A client that has its tunnel."""
    client = Client(there.port).send(UPGRADE)
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
    await until(lambda: _full(client))
    there.clock.wait(12)
    await until(lambda: not left(there))
    with pytest.raises(ConnectionResetError):
        client.socket.recv(1)
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
    there.clock.wait(12)
    await until(lambda: not left(there) and there.server.ended)
    client.close()


@pytest_twisted.ensureDeferred
async def test_client_that_takes_little(proxied: Callable[..., Proxied]) -> None:
    """However long it takes to take all, each byte starts the time anew."""
    there = proxied(flooding, timeouts=TIMEOUTS)
    client = await joined(there)

    def take() -> None:
        """As much as kernels need to be told of room."""
        count = 0
        while count < MUCH // 8:
            count += len(client.socket.recv(1 << 16))

    for _ in range(5):
        await until(lambda: _stuck(there))
        there.clock.wait(8)
        await in_thread(take)
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
    for _ in range(5):
        there.clock.wait(12)
        await settled()
    await until(lambda: not left(there))
    await there.served.emptied()
    client.close()


def _stuck(there: Proxied) -> bool:
    """Whether reading from the server is paused."""
    return any(connection.transport.reading_paused for connection in there.proxy.pool._all)
