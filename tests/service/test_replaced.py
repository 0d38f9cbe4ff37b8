"""A service that stops because another process goes on in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from support.wire import GOOD, SLOW, Client, HandClock, Paths, in_thread, settled, until
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Protocol
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from twisted_hangup import HangupSite, Timeouts
from twisted_hangup.service.accept import Gate
from twisted_hangup.service.serving import HangupService

CLOSE = b"\r\nConnection: close\r\n"


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Upgrade(Resource):
    """Takes the connection away, as autobahn does."""

    isLeaf = True

    def render(self, request: Request) -> int:
        channel: Any = request.channel
        transport, channel.transport = channel.transport, None
        transport.protocol = echo = Echo()
        echo.makeConnection(transport)
        transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        return NOT_DONE_YET


class Running:
    """A service, with the time in our hands, and what the operator reads."""

    def __init__(self, grace: float, replaced: bool, **timeouts: float) -> None:
        from twisted.internet import reactor

        self.root = Paths(upgrade=Upgrade())
        self.clock = HandClock()
        self.clock.getReaders = reactor.getReaders  # type: ignore[attr-defined]
        self.clock.getWriters = reactor.getWriters  # type: ignore[attr-defined]
        site = HangupSite(self.root, reactor=self.clock, timeouts=Timeouts(**timeouts))
        site.noisy = False
        self.service = HangupService(
            site,
            [("web", serverFromString(reactor, "tcp:0:interface=127.0.0.1"))],
            Gate(self.clock, room=site.context.room),
            reactor=self.clock,
            grace_seconds=grace,
            replaced=lambda: replaced,
        )
        self.service.startService()
        port: Any
        [port] = self.service.ports
        self.port = port.getHost().port
        self.lines: list[str] = []
        self.ended: list[None] = []

    def stop(self) -> None:
        @implementer(ILogObserver)
        def note(event: LogEvent) -> None:
            if event["log_namespace"].startswith("twisted_hangup"):
                self.lines.append(formatEvent(event))

        globalLogPublisher.addObserver(note)
        stopped = self.service.stopService()
        stopped.addBoth(lambda _: globalLogPublisher.removeObserver(note))
        stopped.addCallback(lambda _: self.ended.append(None))

    def upgraded(self) -> Client:
        client = Client(self.port).send(GOOD.replace(b"fast", b"upgrade"))
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        return client


Start = Callable[..., Running]


@pytest_twisted.ensureDeferred
async def test_idle_client() -> None:
    """It may stay until its next response, which ends its connection."""
    running = Running(30, True)
    client = await in_thread(lambda: Client(running.port).send(GOOD))
    await in_thread(lambda: client.read_until(b"fast"))
    running.stop()
    await settled()
    assert not running.ended
    response = await in_thread(lambda: client.send(GOOD).read_all())
    client.close()
    assert CLOSE in response and response.endswith(b"fast")
    await until(lambda: running.ended)
    assert running.lines == ["Stopping: 1 open connection to finish in 30 seconds"]


@pytest.mark.parametrize(("grace", "keep_alive", "seconds"), [(30, 10, 10), (8, 65, 8)])
@pytest_twisted.ensureDeferred
async def test_client_that_stays_idle(grace: float, keep_alive: float, seconds: float) -> None:
    """It is closed after the keep-alive time, or shortly before the end of the grace."""
    running = Running(grace, True, keep_alive_seconds=keep_alive)
    client = await in_thread(lambda: Client(running.port).send(GOOD))
    await in_thread(lambda: client.read_until(b"fast"))
    running.stop()
    await settled()
    running.clock.wait(seconds - 0.5)
    await settled()
    assert not running.ended
    running.clock.wait(0.25)
    if grace < keep_alive:  # before the grace hangs up on it
        await until(lambda: not running.service.site.open_connections)
    running.clock.wait(0.25)
    assert await in_thread(client.read_all) == b""
    client.close()
    await until(lambda: running.ended)
    assert len(running.lines) == 1


@pytest_twisted.ensureDeferred
async def test_response_that_takes_longer_than_the_keep_alive_time() -> None:
    """It could not say that it is the last; so one more request is served."""
    running = Running(30, True, keep_alive_seconds=10)
    started = running.root.slow.started
    client = await in_thread(lambda: Client(running.port).send(SLOW))
    request = await started
    request.write(b"begun")
    running.stop()
    await settled()
    running.clock.wait(20)
    request.finish()
    await in_thread(lambda: client.read_until(b"\r\n0\r\n\r\n"))
    response = await in_thread(lambda: client.send(GOOD).read_all())
    client.close()
    assert CLOSE in response and response.endswith(b"fast")
    await until(lambda: running.ended)


@pytest_twisted.ensureDeferred
async def test_upgraded_connection_ends() -> None:
    """It is waited for."""
    running = Running(30, True)
    client = await in_thread(running.upgraded)
    running.stop()
    await settled()
    assert not running.ended
    assert await in_thread(lambda: client.send(b"still here").read_until(b"here"))
    client.close()
    await until(lambda: running.ended)
    assert running.lines == ["Stopping: 1 open connection to finish in 30 seconds"]


@pytest.mark.parametrize("slow", [False, True])
@pytest_twisted.ensureDeferred
async def test_end_of_the_grace(slow: bool) -> None:
    """Upgraded connections are hung up on, too, and the operator reads how many there were."""
    running = Running(30, True)
    clients = [await in_thread(running.upgraded) for _ in range(2)]
    if slow:
        started = running.root.slow.started
        clients.append(await in_thread(lambda: Client(running.port).send(SLOW)))
        await started
    running.stop()
    await settled()
    running.clock.wait(30)
    for client in clients:
        with pytest.raises(ConnectionResetError):
            await in_thread(client.read_all)
        client.close()
    await until(lambda: running.ended)
    assert running.lines[1:] == [f"Hanging up on {2 + slow} clients (2 upgraded)"]


@pytest_twisted.ensureDeferred
async def test_service_whose_successor_ends_too() -> None:
    """It goes on as if nobody had replaced it: a running request alone has the grace."""
    running = Running(30, True)
    clients = [await in_thread(lambda: Client(running.port)), await in_thread(running.upgraded)]
    started = running.root.slow.started
    clients.append(await in_thread(lambda: Client(running.port).send(SLOW)))
    request = await started
    running.stop()
    await settled()
    running.service.hasten()
    running.service.hasten()
    assert await in_thread(clients[0].read_all) == b""
    assert not running.ended
    request.finish()
    assert await in_thread(clients[2].read_all)
    clients[2].close()
    await until(lambda: running.ended)
    for client in clients:
        client.close()
    running.service.hasten()


@pytest_twisted.ensureDeferred
async def test_service_that_nobody_replaces() -> None:
    """It closes what is idle at once, and waits for nobody who was upgraded."""
    running = Running(30, False)
    clients = [await in_thread(lambda: Client(running.port)), await in_thread(running.upgraded)]
    await until(lambda: running.service.site.open_connections)
    running.stop()
    await until(lambda: running.ended)
    for client in clients:
        client.close()
