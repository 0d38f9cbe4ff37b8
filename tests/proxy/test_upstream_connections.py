"""How many connections the proxy has to its server, for how long, and over what."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from support.certificates import pem, server_context
from support.peers import Peer
from support.proxying import Proxied
from support.proxying import proxied as proxied
from support.upstreams import OK, Connection, RawServer
from support.wire import (
    PATIENCE,
    Client,
    Fast,
    Serve,
    fill,
    in_thread,
    statuses,
    talk,
    until,
)
from twisted.internet.defer import gatherResults
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.python.usage import UsageError

from twisted_hangup import Forwarding, OutboundTimeouts, ProxyResource
from twisted_hangup.client.connection import idle_seconds
from twisted_hangup.server.bodies import LARGEST_HELD
from twisted_hangup.service import Options, service

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
LAST = GET % 0


class Gate:
    """The script of a server that answers nothing before it is told to."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.asked: list[bytes] = []

    def __call__(self, connection: Connection) -> None:
        while head := connection.read_head():
            self.asked.append(head.split()[1])
            if b"Content-Length: " in head:
                connection.read(int(head.partition(b"Content-Length: ")[2].split()[0]))
            self.opened.wait(PATIENCE)
            connection.send(OK)


# Keeping them.


@pytest.mark.parametrize(
    "values, seconds",
    [
        ([], 4.0),
        ([b"timeout=5"], 4.0),
        ([b"timeout=3"], 2.0),
        ([b"max=100, Timeout = 3"], 2.0),
        ([b'timeout="3"'], 2.0),
        ([b"timeout=60", b"timeout=2"], 1.0),
        ([b"timeout=1"], 0.0),
        ([b"timeout=0"], -1.0),
        ([b"timeout=soon", b"xtimeout=1", b""], 4.0),
    ],
)
def test_announced_time(values: list[bytes], seconds: float) -> None:
    """A second less than the server announces, and no more than we keep any."""
    assert idle_seconds([(b"Keep-Alive", value) for value in values], 4.0) == seconds


@pytest.mark.parametrize(
    "keep_alive, ours, kept",
    [(b"timeout=3", 4.0, True), (b"timeout=1", 4.0, False), (b"timeout=9", 0.0, False)],
)
@pytest_twisted.ensureDeferred
async def test_idle_connection(
    proxied: Callable[..., Proxied], keep_alive: bytes, ours: float, kept: bool
) -> None:
    """It is used again only while the server is sure to keep it, too."""
    answer = b"HTTP/1.1 200 OK\r\nKeep-Alive: %b\r\nContent-Length: 0\r\n\r\n" % keep_alive

    def script(connection: Connection) -> None:
        while connection.read_head():
            connection.send(answer)

    there = proxied(script, timeouts=OutboundTimeouts(idle_seconds=ours))
    for _ in range(2):
        assert statuses(await talk(there.port, LAST)) == [200]
    assert len(there.server.connections) == (1 if kept else 2)
    there.clock.wait(2.5)
    assert statuses(await talk(there.port, LAST)) == [200]
    assert len(there.server.connections) == (2 if kept else 3)


# How many.


@pytest_twisted.ensureDeferred
async def test_most_connections(proxied: Callable[..., Proxied]) -> None:
    """Others wait in order; what is too much is a 503 that says when to come again."""
    gate = Gate()
    there = proxied(gate, most_connections=2)
    waiting = there.proxy.pool._waiting
    answers = []
    for number in range(4):
        answers.append(talk(there.port, GET % number))
        await until(lambda: len(gate.asked) + len(waiting) == len(answers))
    refused = await talk(there.port, GET % 4)
    assert statuses(refused) == [503]
    assert b"\r\nRetry-After: 1\r\n" in refused
    assert gate.asked == [b"/0", b"/1"]
    gate.opened.set()
    assert [statuses(answer) for answer in await gatherResults(answers)] == [[200]] * 4
    assert len(there.server.connections) == 2
    assert sorted(gate.asked[2:]) == [b"/2", b"/3"]
    assert [error.code for error in there.upstream_errors] == ["ERR_UPSTREAM_BUSY"]


@pytest_twisted.ensureDeferred
async def test_wait_for_a_connection_ends(proxied: Callable[..., Proxied]) -> None:
    """It takes as long as connecting may take."""
    gate = Gate()
    there = proxied(gate, most_connections=1, timeouts=OutboundTimeouts(connect_seconds=3))
    first = talk(there.port, GET % 0)
    await until(lambda: gate.asked)
    second = talk(there.port, GET % 1)
    await until(lambda: there.proxy.pool._waiting)
    there.clock.wait(3.5)
    assert statuses(await second) == [503]
    gate.opened.set()
    assert statuses(await first) == [200]
    assert gate.asked == [b"/0"]


@pytest_twisted.ensureDeferred
async def test_client_leaves_while_it_waits(proxied: Callable[..., Proxied]) -> None:
    """Its place in the queue is another's, and the server never hears of it."""
    gate = Gate()
    there = proxied(gate, most_connections=1)
    first = talk(there.port, GET % 0)
    await until(lambda: gate.asked)
    client = await in_thread(lambda: Client(there.port).send(GET % 1))
    await until(lambda: there.proxy.pool._waiting)
    client.reset()
    await until(lambda: not there.proxy.pool._waiting)
    third = talk(there.port, GET % 2)
    await until(lambda: there.proxy.pool._waiting)
    gate.opened.set()
    assert statuses(await first) == statuses(await third) == [200]
    assert gate.asked == [b"/0", b"/2"]


@pytest_twisted.ensureDeferred
async def test_upload_when_all_are_idle(proxied: Callable[..., Proxied]) -> None:
    """It gets a new connection in the place of an idle one."""
    gate = Gate()
    gate.opened.set()
    there = proxied(gate, most_connections=1)
    assert statuses(await talk(there.port, LAST)) == [200]
    size = LARGEST_HELD + 1
    head = b"PUT /up HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
    assert statuses(await talk(there.port, head, bytes(size))) == [200]
    assert len(there.server.connections) == 2


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("close", [b"Connection: close\r\n", b""], ids=["at once", "idle"])
@pytest.mark.parametrize("over", ["TCP", "TLS"])
@pytest_twisted.ensureDeferred
async def test_server_that_never_closes(
    proxied: Callable[..., Proxied], over: str, close: bytes, reads: bool
) -> None:
    """Its connections go all the same, even if it does not read."""
    answer = OK.replace(b"\r\n", b"\r\n" + close, 1)
    full, over_now = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        peer = Peer(connection.socket, tls="server" if over == "TLS" else None)
        peer.read_until(b"\r\n\r\n")
        peer.send(answer[:-1])
        full.wait(PATIENCE)
        peer.send(answer[-1:])
        over_now.wait(PATIENCE)

    there = proxied(script, over=over)
    received = talk(there.port, LAST)
    connections = there.proxy.pool._all
    await until(lambda: [one for one in connections if one.bytes_received])
    for connection in [] if reads else [*connections]:
        await fill(connection.transport)
    full.set()
    assert statuses(await received) == [200]
    at_once = close and reads
    await (until if at_once else there.clock.wait_until)(lambda: not connections)
    over_now.set()


@pytest_twisted.ensureDeferred
async def test_server_that_cannot_be_reached_has_a_queue(
    proxied: Callable[..., Proxied],
) -> None:
    """A connection that fails makes room for the next to try."""
    there = proxied(lambda connection: None, most_connections=1)
    there.server.close()
    answers = await gatherResults([talk(there.port, GET % number) for number in range(2)])
    assert [statuses(answer) for answer in answers] == [[502], [502]]


@pytest_twisted.ensureDeferred
async def test_pool_is_closed_while_requests_wait(proxied: Callable[..., Proxied]) -> None:
    """They are answered, and nothing is sent for them."""
    gate = Gate()
    there = proxied(gate, most_connections=1)
    answers = [talk(there.port, GET % 0)]
    await until(lambda: gate.asked)
    answers.append(talk(there.port, GET % 1))
    await until(lambda: there.proxy.pool._waiting)
    await there.proxy.pool.close()
    assert [statuses(answer) for answer in await gatherResults(answers)] == [[502], [502]]
    gate.opened.set()
    await until(lambda: there.server.ended)
    assert gate.asked == [b"/0"]


# Over what.


@pytest.mark.parametrize("host, said", [("pass", b"a"), ("rewrite", b"localhost")])
@pytest_twisted.ensureDeferred
async def test_unix_socket(serve: Serve, tmp_path: Path, host: Any, said: bytes) -> None:
    """``unix:`` and a path is enough."""
    path = str(tmp_path / "app.sock")
    heads: list[bytes] = []

    def script(connection: Connection) -> None:
        while head := connection.read_head():
            heads.append(head)
            connection.send(OK)

    server = RawServer(script, unix=path)
    proxy = ProxyResource(f"unix:{path}", forwarding=Forwarding(host=host))
    served = serve(proxy)
    assert statuses(
        await talk(served.port, b"GET /x?y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    ) == [200]
    assert heads[0].startswith(b"GET /x?y HTTP/1.1\r\nHost: %b\r\n" % said)
    await proxy.pool.close()
    server.close()


@pytest_twisted.ensureDeferred
async def test_unix_socket_that_is_not_there(serve: Serve, tmp_path: Path) -> None:
    proxy = ProxyResource(f"unix:{tmp_path}/none.sock")
    served = serve(proxy)
    errors: list[Any] = []
    served.site.journal.watch_upstream(errors.append)
    assert statuses(await talk(served.port, LAST)) == [502]
    assert [error.code for error in errors] == ["ERR_UPSTREAM_REFUSED"]
    assert "none.sock" in errors[0].reason


@pytest.mark.parametrize("trusted", [True, False])
@pytest_twisted.ensureDeferred
async def test_certificate_of_ones_own(serve: Serve, trusted: bool) -> None:
    """Only the given certificates are trusted."""
    behind = serve(Fast(), tls=server_context())
    other = pem("other.example")
    root = trustRootFromCertificates([Certificate.loadPEM(pem() if trusted else other)])
    proxy = ProxyResource(f"https://localhost:{behind.port}", trust_root=root)
    served = serve(proxy)
    errors: list[Any] = []
    served.site.journal.watch_upstream(errors.append)
    assert statuses(await talk(served.port, LAST)) == [200 if trusted else 502]
    assert [error.code for error in errors] == ([] if trusted else ["ERR_UPSTREAM_REFUSED"])
    await proxy.pool.close()


# Mistakes.


def service_for(*arguments: str) -> None:
    options = Options()
    options.parseOptions(arguments)
    service.makeService(options)


@pytest.mark.parametrize(
    "arguments, line",
    [
        ("--proxy unix:", "--proxy: 'unix:' names no UNIX socket"),
        ("--proxy unix:///run/a", "--proxy: 'unix:///run/a' has slashes of a URL"),
        ("--proxy http://a --proxy-ca here.pem", "--proxy-ca needs a --proxy that begins with"),
        ("--proxy https://a --proxy-ca none.pem", "--proxy-ca: 'none.pem' cannot be read: No such"),
        ("--proxy https://a --proxy-ca empty.pem", "--proxy-ca: 'empty.pem' has no PEM"),
        ("--proxy https://a --proxy-ca bad.pem", "--proxy-ca: 'bad.pem' has a broken certificate"),
        ("--proxy http://a --proxy-max-connections -1", "--proxy-max-connections: '-1' is not a"),
        ("--proxy-max-connections 3", "--proxy-max-connections needs --proxy"),
        ("--proxy-ca a.pem", "--proxy-ca needs --proxy"),
        ("--proxy-keep-alive 3", "--proxy-keep-alive needs --proxy"),
        ("--proxy-buffer-requests", "--proxy-buffer-requests needs --proxy"),
    ],
)
def test_mistake(
    arguments: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one line."""
    monkeypatch.chdir(tmp_path)
    Path("empty.pem").write_bytes(b"no certificate\n")
    Path("bad.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(UsageError) as caught:
        service_for(*arguments.split())
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_wrong_arguments() -> None:
    """Each is said at once."""
    with pytest.raises(TypeError, match=r"trust_root must be what .* returns, and is str"):
        ProxyResource("https://a", trust_root="ca.pem")
    root = trustRootFromCertificates([])
    with pytest.raises(ValueError, match="trust_root is for https: URLs, and not for http://a"):
        ProxyResource("http://a", trust_root=root)
    with pytest.raises(ValueError, match="most_connections must not be negative"):
        ProxyResource("http://a", most_connections=-1)
    with pytest.raises(TypeError, match="buffer_requests must be True or False, not 1"):
        ProxyResource("http://a", buffer_requests=1)  # type: ignore[arg-type]
