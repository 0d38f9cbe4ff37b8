"""Lingering close over every transport: the last answer arrives whole, and then it ends."""

from __future__ import annotations

import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
from support.certificates import server_context
from support.wire import (
    BAD,
    DEFAULT,
    PATIENCE,
    Client,
    HandClock,
    Paths,
    Serve,
    Served,
    in_thread,
    settled,
    until,
)
from twisted.python.failure import Failure
from twisted.web.static import Data

from twisted_hangup import ClientSocket, Limits, Timeouts

MIB: Final = 1024 * 1024
#: Every byte stands elsewhere in the next kilobyte, so that a gap shows.
PAGE: Final = bytes(range(251)) * (4 * MIB // 251 + 1)
TRIES: Final = 20
LINGER: Final = Timeouts()

transports = pytest.mark.parametrize("transport", ["tcp", "unix", "tls"])


def served_over(serve: Serve, directory: Path, transport: str, **arguments: Any) -> Served:
    arguments.setdefault("reactor", HandClock())  # which stands, unless the test moves it
    root = Paths()
    for size in (1, 4):
        page = Data(PAGE[: size * MIB], "application/octet-stream")
        root.putChild(b"%d" % size, page)
    return serve(
        root,
        tls=server_context() if transport == "tls" else None,
        unix=str(directory / "socket") if transport == "unix" else None,
        **arguments,
    )


def send_what_goes(client: Client, wire: bytes) -> None:
    """Send as much of *wire* as there is room for, without waiting."""
    client.socket.setblocking(False)
    with suppress(BlockingIOError, ssl.SSLWantWriteError):
        while wire:
            wire = wire[client.socket.send(wire[:4096]) :]
    client.socket.settimeout(PATIENCE)


@transports
@pytest.mark.parametrize("mebibytes", [1, 4])
@pytest.mark.parametrize("late", [0.0, 0.2])
@pytest_twisted.ensureDeferred
async def test_response_with_input_unread(
    serve: Serve, tmp_path: Path, late: float, mebibytes: int, transport: str
) -> None:
    """A response before Connection: close is whole, though its client sent more than it read.

    Stock Twisted cuts one of 1 MB short in 16 of 20 tries, and each of 4 MB.
    """
    served = served_over(serve, tmp_path, transport)
    request = b"GET /%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % mebibytes

    def try_once(_: int) -> bool:
        client = Client(served.port, tls=transport == "tls")
        try:
            send_what_goes(client, request + bytes(300 * 1024))
            time.sleep(late)
            return client.read_all().endswith(PAGE[: mebibytes * MIB])
        finally:
            client.close()

    def tries() -> list[bool]:
        with ThreadPoolExecutor(TRIES) as pool:
            return list(pool.map(try_once, range(TRIES)))

    assert (await in_thread(tries)).count(True) == TRIES


@transports
@pytest_twisted.ensureDeferred
async def test_slow_reader_of_an_error_page(serve: Serve, tmp_path: Path, transport: str) -> None:
    """A client that reads slowly gets all of a 1 MB page, long after the lingering time."""
    clock = HandClock()
    served = served_over(serve, tmp_path, transport, reactor=clock)
    page = PAGE[:MIB]
    served.site.on_client_error(lambda failure, socket: page)
    tls = transport == "tls"
    client = await in_thread(
        lambda: Client(served.port, tls=tls, receive_buffer=16 * 1024).send(BAD)
    )
    received = b""
    for _ in range(32):
        received += await in_thread(lambda: client.socket.recv(16 * 1024))
        await settled()
        clock.wait(LINGER.linger_silence_seconds + 1)
    received += await in_thread(client.read_all)
    await in_thread(client.close)
    assert received == page


# How it ends.


@transports
@pytest_twisted.ensureDeferred
async def test_ends_when_the_client_does(serve: Serve, tmp_path: Path, transport: str) -> None:
    """A client that has read the answer and closes is gone at once."""
    served = served_over(serve, tmp_path, transport)

    def run() -> None:
        client = Client(served.port, tls=transport == "tls").send(BAD)
        assert client.read_all() == DEFAULT
        client.close()

    await in_thread(run)
    await until(lambda: served.site.open_connections == 0)
    assert served.site.context.deadlines._timer is None


@transports
@pytest_twisted.ensureDeferred
async def test_ends_after_silence(serve: Serve, tmp_path: Path, transport: str) -> None:
    """A silent client is closed on, and can still read what it was sent."""
    clock = HandClock()
    served = served_over(serve, tmp_path, transport, reactor=clock)
    client = await in_thread(lambda: Client(served.port, tls=transport == "tls").send(BAD))
    await served.has_read(client)
    clock.wait(LINGER.linger_silence_seconds - 1)
    assert served.site.open_connections == 1
    clock.wait(2)  # nothing is on its way that could start the time anew
    await until(lambda: served.site.open_connections == 0)
    assert served.site.context.lingered["silence"] == 1
    assert await in_thread(client.read_all) == DEFAULT
    await in_thread(client.close)


def send_until_refused(client: Client, pieces: int) -> int:
    """Send pieces of 64 KiB until the connection is reset; gives how many went."""
    for sent in range(pieces):
        try:
            client.socket.sendall(bytes(64 * 1024))
        except OSError:
            return sent
    return pieces


@transports
@pytest_twisted.ensureDeferred
async def test_ends_after_linger_bytes(serve: Serve, tmp_path: Path, transport: str) -> None:
    """A client that goes on sending is aborted when it has sent too much."""
    served = served_over(serve, tmp_path, transport, limits=Limits(linger_bytes=MIB))

    def run() -> int:
        client = Client(served.port, tls=transport == "tls").send(BAD)
        assert client.read_until(DEFAULT) == DEFAULT
        sent = send_until_refused(client, 1000)
        client.close()
        return sent

    assert 16 <= await in_thread(run) < 1000
    await until(lambda: served.site.open_connections == 0)


@transports
@pytest_twisted.ensureDeferred
async def test_ends_after_linger_seconds(serve: Serve, tmp_path: Path, transport: str) -> None:
    """A client that sends a byte now and then is aborted when its time is over."""
    clock = HandClock()
    served = served_over(serve, tmp_path, transport, reactor=clock)
    client = await in_thread(lambda: Client(served.port, tls=transport == "tls").send(BAD))
    assert await in_thread(lambda: client.read_until(DEFAULT)) == DEFAULT
    for _ in range(int(LINGER.linger_seconds) - 1):
        await in_thread(lambda: client.send(b"x"))
        await served.has_read(client)
        clock.wait(1)
    assert served.site.open_connections == 1
    clock.wait(2)
    await until(lambda: served.site.open_connections == 0)
    assert served.site.context.lingered["time"] == 1
    assert await in_thread(lambda: send_until_refused(client, 1000)) < 1000
    await in_thread(client.close)
    assert served.site.context.deadlines._timer is None


@transports
@pytest_twisted.ensureDeferred
async def test_half_closed_client_waits_for_nobody(
    serve: Serve, tmp_path: Path, transport: str
) -> None:
    """Where the client has ended its input there is nothing to linger for."""
    served = served_over(serve, tmp_path, transport)

    def run() -> None:
        client = Client(served.port, tls=transport == "tls")
        client.send(b"GET /fast HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        if isinstance(client.socket, ssl.SSLSocket):
            time.sleep(0.1)
            client.read_all()
            with suppress(OSError):
                client.socket.unwrap()
        else:
            client.socket.shutdown(socket.SHUT_WR)
            client.read_all()
        client.close()

    await in_thread(run)
    await until(lambda: served.site.open_connections == 0)


@transports
@pytest_twisted.ensureDeferred
async def test_answer_that_is_destroyed_unsent(
    serve: Serve, tmp_path: Path, transport: str
) -> None:
    """What a handler writes and destroys in one turn never leaves, and is no answer."""
    served = served_over(serve, tmp_path, transport)

    @served.site.on_client_error
    def destroy(failure: Failure, socket: ClientSocket) -> None:
        socket.write(DEFAULT)
        socket.destroy()

    def run() -> None:
        client = Client(served.port, tls=transport == "tls").send(BAD)
        with suppress(ConnectionError):
            assert client.read_all() == b""
        client.close()

    await in_thread(run)
    (error,) = served.errors
    assert (error.settled, error.answered) == (True, None)
