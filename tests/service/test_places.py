"""One client cannot take all places, and where all are taken the right one makes room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path
from socket import AF_UNIX, create_connection, socket
from typing import Any

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry
from support.certificates import server_context
from support.http2_client import H2Client
from support.wire import PATIENCE, Serve, in_thread, settled, unread, until
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.web.resource import Resource

from twisted_hangup.metrics import Metrics
from twisted_hangup.server import room
from twisted_hangup.server.site import HangupSite
from twisted_hangup.service import Options, makeService
from twisted_hangup.service.accept import Gate
from twisted_hangup.testing import feed
from twisted_hangup.transport.sockets import held_by_kernel

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx"
HEAD = b"GET / HTTP/1.1\r\nHost:"


class Places:
    """A service with few places, and what it has logged."""

    def __init__(self, *arguments: str) -> None:
        options = Options()
        options.parseOptions([*arguments, *([] if "--port" in arguments else ["--port", TCP])])
        service: Any = makeService(options)
        self.service = service
        self.clients: list[socket] = []
        self.service.privilegedStartService()
        self.service.startService()
        self.metrics = Metrics(self.service.site, registry=CollectorRegistry())
        self.events: Sequence[LogEvent] = []

    @property
    def port(self) -> int:
        port: int = self.service.ports[0].getHost().port
        return port

    @property
    def gate(self) -> Gate:
        gate: Gate = self.service._gate
        return gate

    @property
    def warnings(self) -> list[str]:
        lines = [formatEvent(event) for event in self.events]
        return [line for line in lines if "connections" in line and "At most" not in line]

    def turned_away(self, why: str) -> float | None:
        name = "hangup_connections_turned_away_total"
        return self.metrics.registry.get_sample_value(name, {"why": why})

    async def ask(self, source: str = "127.0.0.1", data: bytes = GET) -> tuple[socket, bytes]:
        """A new connection, and the start of the answer to *data*; nothing where it is closed."""

        def run() -> tuple[socket, bytes]:
            client = create_connection(("127.0.0.1", self.port), PATIENCE, (source, 0))
            return client, sent(client, data)

        client, answer = await in_thread(run)
        self.clients.append(client)
        if data != GET:
            await until(lambda: self.has_read(client))
        return client, answer

    def has_read(self, client: Any) -> bool:
        """Whether the server has read all that *client*, a socket, has sent."""
        from twisted.internet import reactor as installed

        reactor: Any = installed
        address = client.getsockname()
        return not held_by_kernel(client) and any(
            isinstance(reader, Connection)
            and (reader.getPeer().host, reader.getPeer().port) == address
            and not unread(reader)
            for reader in reactor.getReaders()
        )


TCP = "tcp:0:interface=127.0.0.1"


def sent(client: socket, data: bytes = GET) -> bytes:
    """The first bytes of the answer to *data*; nothing where the connection is closed."""
    try:
        client.sendall(data)
        return client.recv(12) if data == GET else b""
    except ConnectionError:
        return b""


def again(client: socket) -> Any:
    """Ask once more on *client*, and read to the end of either answer."""

    def run() -> None:
        client.sendall(GET)
        answers = b""
        while answers.count(b"</html>") < 2:
            answers += (more := client.recv(65536))
            assert more, answers

    return in_thread(run)


async def closed(client: socket) -> bool:
    """Whether the server has hung up on *client*, once all that it does now is done."""
    await settled()
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    finally:
        client.settimeout(PATIENCE)
    return True


@pytest.fixture
def places() -> Iterator[Callable[..., Places]]:
    """Start a service with these options; its clients are gone at the end."""
    started: list[Places] = []
    with capturedLogs() as events:

        def start(*arguments: str) -> Places:
            started.append(Places("--grace", "0", *arguments))
            started[-1].events = events
            return started[-1]

        yield start
    for one in started:
        for client in one.clients:
            client.close()
        pytest_twisted.blockon(one.service.stopService())


OK = b"HTTP/1.1 200"


@pytest_twisted.ensureDeferred
async def test_an_address_has_its_share(places: Callable[..., Places]) -> None:
    """By default a quarter of all: more is closed at once, logged, counted, and free later."""
    served = places("--max-connections", "8")
    clients = [await served.ask() for _ in range(4)]
    assert [answer for _, answer in clients] == [OK, OK, b"", b""]
    assert (await served.ask("127.0.0.2"))[1] == OK
    assert served.warnings == [
        "127.0.0.1 has 2 connections, as many as one address may have; more are closed"
    ]
    assert served.turned_away("address") == 2
    for client, _ in clients:
        client.close()
    await until(lambda: served.gate.open == 1)
    assert len(served.gate.of_address) == 1
    assert (await served.ask())[1] == OK


EXEMPT = [
    ("--trusted-proxy", "127.0.0.0/8"),
    ("--max-connections-per-address", "0"),
    ("--max-connections-per-address", "3"),
]


@pytest.mark.parametrize("arguments", EXEMPT)
@pytest_twisted.ensureDeferred
async def test_trusted_addresses_have_no_share(
    places: Callable[..., Places], arguments: Sequence[str]
) -> None:
    """A proxy that is named has as many as it likes; so has everybody where that is asked for."""
    served = places("--max-connections", "4", *arguments)
    assert [(await served.ask())[1] for _ in range(3)] == [OK] * 3


@pytest_twisted.ensureDeferred
async def test_the_proxy_protocol_has_no_share(places: Callable[..., Places]) -> None:
    """Behind it one address has many clients."""
    served = places("--max-connections", "4", "--port", f"haproxy:{TCP}")
    line = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    clients = [(await served.ask(data=line))[0] for _ in range(3)]
    assert await in_thread(lambda: [sent(client) for client in clients]) == [OK] * 3


@pytest_twisted.ensureDeferred
async def test_unix_sockets_have_no_share(places: Callable[..., Places], tmp_path: Path) -> None:
    """Whoever may open them is no stranger."""
    path = tmp_path / "web.sock"
    served = places("--max-connections", "4", "--port", f"unix:{path}")

    def run() -> list[bytes]:
        clients = [socket(AF_UNIX) for _ in range(3)]
        for client in clients:
            client.connect(str(path))
        served.clients.extend(clients)
        return [sent(client) for client in clients]

    assert await in_thread(run) == [OK] * 3


SHARED = [
    ("192.0.2.1", "192.0.2.1", True),
    ("192.0.2.1", "192.0.2.2", False),
    ("192.0.2.1", "::ffff:192.0.2.1", True),
    ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
    ("2001:db8::1", "2001:db8:0:1::1", False),
    ("fe80::1%eth0", "fe80::2%eth0", True),
]


@pytest.mark.parametrize("one, other, same", SHARED)
def test_who_shares(one: str, other: str, same: bool) -> None:
    """An IPv6 client has all of its /64; an IPv4 client is the same in either form."""
    gate = Gate(Clock(), 8, most_of_address=2)
    assert (gate.shares(one) == gate.shares(other)) is same


def test_trusted_networks() -> None:
    """They are told by any address in them, in either form."""
    trusted = [ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")]
    gate = Gate(Clock(), 8, most_of_address=2, trusted=trusted)
    counted = [
        gate.shares(host) is not None for host in ("10.1.2.3", "::ffff:10.1.2.3", "11.0.0.1")
    ]
    assert counted == [False, False, True]
    assert gate.shares("2001:db8::1") is None


@pytest_twisted.ensureDeferred
async def test_who_makes_room(
    places: Callable[..., Places], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest idle first, then the oldest without a whole head; never one with a body."""
    monkeypatch.setattr(room, "LEAST_HEAD_SECONDS", 0)
    monkeypatch.setattr(room, "_REST_SHARE", 0)  # what it has seen of a slow look may be old
    served = places("--max-connections", "4", "--max-connections-per-address", "0")
    body, _ = await served.ask(data=BODY)
    head, _ = await served.ask(data=HEAD)
    idle, _ = await served.ask()
    used, _ = await served.ask()
    await again(idle)  # of these two, used is the longer idle

    await served.ask(data=HEAD)
    await until(lambda: closed(used))
    assert [await closed(one) for one in (body, head, idle)] == [False] * 3
    await served.ask(data=HEAD)
    await until(lambda: closed(idle))
    assert [await closed(one) for one in (body, head)] == [False] * 2
    last, _ = await served.ask(data=HEAD)
    await until(lambda: closed(head))
    assert [await closed(one) for one in (body, last)] == [False] * 2
    assert (served.turned_away("idle"), served.turned_away("head")) == (2, 1)
    assert served.gate.open == 4
    assert "All 4 connections are taken; those that were idle for longest make room" in (
        served.warnings
    )
    assert not served.service.site.journal.snapshot().entries  # it is no fault of theirs


@pytest_twisted.ensureDeferred
async def test_a_place_comes_free_without_an_end(places: Callable[..., Places]) -> None:
    """A client waits while all are busy, and is let in when one of them has its answer."""
    served = places("--max-connections", "1", "--max-connections-per-address", "0")
    busy, _ = await served.ask(data=BODY)
    waiting = ensureDeferred(served.ask())
    await until(lambda: served.warnings)
    assert not await closed(busy)
    assert await in_thread(lambda: busy.send(b"x")) == 1
    assert (await waiting)[1] == OK


def test_a_young_head_is_left_alone() -> None:
    """A client has a second to send its head, however many wait."""
    site = HangupSite(Resource())
    client = feed(site, HEAD)
    places = site.context.room
    client.advance(room.LEAST_HEAD_SECONDS - 0.1)
    assert not places.can_make()
    client.advance(0.2)
    assert places.can_make()
    assert places.make() == "head"
    client.advance(0)
    assert not site.open_connections
    assert not client.errors
    assert not places.can_make()


@pytest_twisted.ensureDeferred
async def test_idle_http2_makes_room(serve: Serve) -> None:
    """So does a client of HTTP/2 without streams; one with a stream does not."""
    served = serve(tls=server_context())
    places = served.site.context.room
    client: H2Client = await in_thread(lambda: H2Client(served.port))
    await in_thread(lambda: client.answer(client.request()))
    [channel] = served.site.context.open()
    assert places.can_make()
    assert channel.spare.waits_for == "idle"
    await in_thread(lambda: client.request(b"/slow"))
    await until(lambda: channel.spare is None)
    assert not places.can_make()
    client.client.close()
