"""What a site hears on a `hangup_endpoint` and not on a bare port."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from support.certificates import pem, server_context
from support.wire import (
    BAD,
    GOOD,
    PATIENCE,
    SLOW,
    Client,
    HandClock,
    Paths,
    Serve,
    arrived,
    in_thread,
    pause,
    settled,
    talk,
    until,
    wait_for,
)
from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    UNIXServerEndpoint,
    serverFromString,
    wrapServerTLS,
)
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.haproxy import proxyEndpoint
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from twisted_hangup import (
    ClientHangUp,
    ClientSocket,
    HangupSite,
    Limits,
    Timeouts,
    TLSError,
    UnexpectedEOF,
    hangup_endpoint,
)
from twisted_hangup.transport.sockets import ConnectionBroken, TellingSocket, telling

HEAD = b"GET /fast HTTP/1.1\r\nHost: a\r\nX"


def tcp() -> IStreamServerEndpoint:
    from twisted.internet import reactor

    return TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")


def tls() -> IStreamServerEndpoint:
    return wrapServerTLS(server_context(), tcp())


ENDPOINTS = {"tcp": tcp, "tls": tls}


# Resets.


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.parametrize(
    "wire, phase",
    [(b"", "idle"), (GOOD, "idle"), (HEAD, "head"), (SLOW, "response")],
    ids=["before the first byte", "after a response", "in the head", "while a resource works"],
)
@pytest_twisted.ensureDeferred
async def test_reset_has_its_errno(serve: Serve, kind: str, wire: bytes, phase: str) -> None:
    """Whenever a client resets, over TLS too, it is one hang-up with phase and errno."""
    served = serve(endpoint=ENDPOINTS[kind]())

    def begin() -> Client:
        client = Client(served.port, tls=kind == "tls").send(wire)
        if wire == GOOD:
            client.read_until(b"fast")
        return client

    client = await in_thread(begin)
    await until(lambda: [each.phase for each in served.site.context.open()] == [phase])
    await settled()  # it has been sent its session tickets, if any
    client.reset()
    await until(lambda: served.errors)
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    assert (error.code, error.reason) == ("ECONNRESET", "read ECONNRESET")
    assert (error.phase, error.errno) == (phase, errno.ECONNRESET)


@pytest_twisted.ensureDeferred
async def test_reset_while_a_response_is_sent(serve: Serve) -> None:
    """A reset that writing meets has its errno as well."""
    served = serve(endpoint=tcp())
    started = served.root.slow.started
    client = Client(served.port, receive_buffer=4096)
    client.send(SLOW)
    request = await started
    request.write(b"x" * 10_000_000)
    await settled(100)
    client.reset()
    await until(lambda: served.errors)
    (error,) = served.errors
    assert error.code in ("ECONNRESET", "EPIPE")
    assert error.phase == "response" and error.errno == getattr(errno, error.code)


@pytest_twisted.ensureDeferred
async def test_reset_over_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    """A UNIX socket whose peer left its answer unread is reset, and tells so."""
    from twisted.internet import reactor

    path = str(tmp_path / "web")
    endpoint = hangup_endpoint(UNIXServerEndpoint(reactor, path))
    served = serve(unix=str(tmp_path / "other"))
    port: Any = await endpoint.listen(served.site)
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.sendall(GOOD)
    await arrived(client)
    client.close()
    await until(lambda: served.errors)
    await port.stopListening()
    (error,) = served.errors
    assert (error.code, error.phase, error.errno) == ("ECONNRESET", "idle", errno.ECONNRESET)


@pytest_twisted.ensureDeferred
async def test_reset_while_reading_is_paused(serve: Serve) -> None:
    """Where nobody reads, poll() tells of the reset, and the socket of its number."""
    served = serve(endpoint=tcp(), limits=Limits(backlog_bytes=100), reactor=(clock := HandClock()))
    client = await in_thread(lambda: Client(served.port).send(SLOW + GOOD * 100))
    await until(lambda: served.site.context.paused._gone)
    client.reset()
    await clock.wait_until(lambda: served.errors)
    (error,) = served.errors
    assert (error.phase, error.errno) == ("response", errno.ECONNRESET)
    assert served.root.fast.ran == []


class Broken:
    """A socket on which every call fails with the same error."""

    def __init__(self, number: int) -> None:
        self.number = number

    def recv(self, size: int) -> bytes:
        raise OSError(self.number, "")

    def send(self, data: bytes) -> int:
        raise OSError(self.number, "")


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EPIPE, errno.EHOSTUNREACH])
def test_every_errno_is_told(number: int) -> None:
    """What the network says is passed on: a peer that vanished is no peer that reset."""
    transport = TellingSocket.__new__(TellingSocket)
    transport.socket = Broken(number)  # type: ignore[assignment]
    for lost in (transport.doRead(), transport.writeSomeData(b"x")):
        assert isinstance(lost, ConnectionBroken) and isinstance(lost, ConnectionLost)
        assert (lost.errno, lost.code) == (number, errno.errorcode[number])


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
def test_full_is_not_lost(number: int) -> None:
    """A socket that takes no more for now is no lost connection."""
    transport = TellingSocket.__new__(TellingSocket)
    transport.socket = Broken(number)  # type: ignore[assignment]
    assert transport.writeSomeData(b"x") == 0


def test_transport_class_is_kept() -> None:
    """Whatever class a port makes of its connections stays in use, once changed."""

    class Counted(TellingSocket): ...

    assert telling(Counted) is Counted


# The end of input over TLS.


@pytest.mark.parametrize("notify", [True, False], ids=["close_notify", "bare FIN"])
@pytest.mark.parametrize(
    "wire, expected",
    [
        (b"", None),
        (GOOD, None),
        (HEAD, (UnexpectedEOF, "HPE_INVALID_EOF_STATE", "head")),
        (SLOW, (ClientHangUp, "ECONNRESET", "response")),
    ],
    ids=["before the first byte", "after a response", "in the head", "while a resource works"],
)
@pytest_twisted.ensureDeferred
async def test_end_of_input_over_tls(
    serve: Serve, wire: bytes, expected: Any, notify: bool
) -> None:
    """A FIN is no reset: the same as over TCP, but that it cannot be answered."""
    served = serve(endpoint=tls())

    def run() -> None:
        client = Client(served.port, tls=True)
        client.send(wire)
        if wire == GOOD:
            client.read_until(b"fast")
        assert isinstance(client.socket, ssl.SSLSocket)
        if notify:
            with suppress(OSError):
                client.socket.unwrap()
        # Unread session tickets would make a reset of a plain close.
        with suppress(OSError):
            socket.socket.shutdown(client.socket, socket.SHUT_WR)
        wait_for(lambda: served.site.open_connections == 0)
        client.close()

    await in_thread(run)
    found = [(type(error), error.code, error.phase) for error in served.errors]
    assert found == ([] if expected is None else [expected])


# The handshake.


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("wire", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["none", "a part"])
@pytest_twisted.ensureDeferred
async def test_handshake_is_abandoned(serve: Serve, wire: bytes, reset: bool) -> None:
    """A client that leaves during the handshake is a hang-up, not a failure of TLS."""
    served = serve(endpoint=tls())
    client = await in_thread(lambda: Client(served.port).send(wire))
    await until(lambda: served.site.open_connections)
    client.reset() if reset else client.close()
    await until(lambda: served.errors)
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    reason, number = ("read ECONNRESET", errno.ECONNRESET) if reset else ("socket hang up", None)
    assert (error.reason, error.phase, error.errno) == (reason, "handshake", number)


@pytest.mark.parametrize("wire", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["none", "a part"])
@pytest_twisted.ensureDeferred
async def test_handshake_takes_too_long(serve: Serve, wire: bytes) -> None:
    """A client that stays silent in the handshake is closed on, and nothing is said to it."""
    clock = HandClock()
    served = serve(endpoint=tls(), timeouts=Timeouts(handshake_seconds=10), reactor=clock)
    writable = []

    @served.site.on_client_error
    def note(failure: Failure, socket: ClientSocket) -> Failure:
        writable.append(socket.writable)
        socket.write(b"never sent")
        return failure

    def read_all() -> Any:
        try:
            return client.read_all()
        except ConnectionResetError:
            return b""
        finally:
            client.close()

    client = await in_thread(lambda: Client(served.port).send(wire))
    await until(lambda: served.site.open_connections)
    clock.wait(9)
    assert served.errors == []
    clock.wait(2)
    assert await in_thread(read_all) == b""
    (error,) = served.errors
    assert isinstance(error, TLSError)
    assert (error.code, error.phase, error.status) == (
        "ERR_TLS_HANDSHAKE_TIMEOUT",
        "handshake",
        None,
    )
    assert writable == [False]


@pytest_twisted.ensureDeferred
async def test_time_for_the_request_after_the_handshake(serve: Serve) -> None:
    """A handshake in time leaves the request its own time, counted from the connection."""
    clock = HandClock()
    timeouts = Timeouts(handshake_seconds=10, head_seconds=30)
    served = serve(endpoint=tls(), timeouts=timeouts, reactor=clock)
    client = await in_thread(lambda: Client(served.port, tls=True))
    (channel,) = served.site.context.open()
    await until(lambda: channel.phase == "idle")
    clock.wait(29)
    assert served.errors == []
    clock.wait(2)
    answer = await in_thread(client.read_all)
    client.close()
    assert answer == b""
    assert [(error.code, error.phase) for error in served.errors] == [
        ("ERR_HTTP_REQUEST_TIMEOUT", "idle")
    ]


def refusing_certificate(port: int) -> None:
    context = ssl.create_default_context()
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    with connection, suppress(ssl.SSLError):
        context.wrap_socket(connection, server_hostname="localhost")


def no_common_version(port: int) -> None:
    context = ssl.create_default_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    with connection, suppress(OSError):
        context.wrap_socket(connection, server_hostname="localhost")


@pytest.mark.parametrize(
    "attempt, code",
    [
        (refusing_certificate, "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA"),
        (no_common_version, "ERR_SSL_NO_SHARED_CIPHER"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_handshake_fails(serve: Serve, attempt: Callable[[int], None], code: str) -> None:
    """OpenSSL's reason becomes the code."""
    served = serve(endpoint=tls())
    await in_thread(lambda: attempt(served.port))
    await until(lambda: served.errors)
    (error,) = served.errors
    assert isinstance(error, TLSError)
    expected = {code, code.replace("TLSV1", "SSL/TLS"), code.replace("TLSV1_", "TLS_")}
    assert error.code in expected and error.phase == "handshake" and error.status is None


@pytest_twisted.ensureDeferred
async def test_garbage_instead_of_tls(serve: Serve) -> None:
    """What is no TLS and no HTTP either is told, and not answered."""
    served = serve(endpoint=tls())
    with suppress(ConnectionResetError):
        assert b"HTTP" not in await talk(served.port, b"*" * 100)
    await until(lambda: served.errors)
    (error,) = served.errors
    assert (error.code, error.phase) == ("ERR_SSL_WRONG_VERSION_NUMBER", "handshake")
    assert error.status is None


@pytest_twisted.ensureDeferred
async def test_corrupt_record(serve: Serve) -> None:
    """A record that does not decrypt, long after the handshake, is one error in its phase."""
    served = serve(endpoint=tls())

    def run() -> None:
        client = Client(served.port, tls=True).send(GOOD)
        client.read_until(b"fast")
        raw = socket.socket(fileno=client.socket.detach())
        raw.settimeout(PATIENCE)
        raw.sendall(b"\x17\x03\x03\x00\x20" + b"?" * 32)
        with suppress(OSError):
            while raw.recv(4096):
                pass
        raw.close()

    await in_thread(run)
    await until(lambda: served.errors)
    (error,) = served.errors
    assert error.code == "ERR_SSL_DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
    assert error.phase == "idle"


# Plain HTTP on the TLS port.


@pytest.mark.parametrize("fin", [False, True])
@pytest.mark.parametrize("wire", [GOOD, BAD, b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"])
@pytest_twisted.ensureDeferred
async def test_plain_http_is_answered_in_plain(serve: Serve, wire: bytes, fin: bool) -> None:
    """The client, half-closed or not, reads a 400 that says what is wrong."""
    served = serve(endpoint=tls())
    answer = await talk(served.port, wire, fin=fin)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n")
    assert b"https://" in body
    assert b"Content-Length: %d" % len(body) in head
    (error,) = served.errors
    assert isinstance(error, TLSError)
    assert (error.code, error.phase, error.status) == ("ERR_SSL_HTTP_REQUEST", "handshake", 400)
    await until(lambda: served.site.open_connections == 0)


@pytest_twisted.ensureDeferred
async def test_upload_over_plain_http_is_answered(serve: Serve) -> None:
    """The answer is read even by a client that sends eight megabytes before it looks."""
    served = serve(endpoint=tls(), reactor=HandClock())
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n"
    assert (await talk(served.port, head, b"x" * 8_000_000)).startswith(b"HTTP/1.1 400 ")


@pytest_twisted.ensureDeferred
async def test_handler_answers_plain_http(serve: Serve) -> None:
    """A handler may send the client where it belongs, now or later."""
    served = serve(endpoint=tls())

    @served.site.on_client_error
    async def redirect(failure: Failure, socket: ClientSocket) -> None:
        failure.trap(TLSError)
        assert socket.writable and not socket.secure
        await pause(0.05)
        socket.respond(308, headers={"Location": "https://localhost/"})

    answer = await talk(served.port, GOOD)
    assert answer.startswith(b"HTTP/1.1 308 ") and b"Location: https://localhost/" in answer


# The PROXY protocol.

V1 = b"PROXY TCP4 192.0.2.7 203.0.113.1 51410 80\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"
    + bytes([192, 0, 2, 7, 203, 0, 113, 1])
    + (51410).to_bytes(2, "big")
    + (80).to_bytes(2, "big")
)


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("cut", [1, 7, 13, 20])
@pytest_twisted.ensureDeferred
async def test_peer_is_the_real_client(serve: Serve, header: bytes, cut: int) -> None:
    """Behind a proxy the peer of an error is the proxy's client, however its line is cut."""
    served = serve(endpoint=proxyEndpoint(tcp()))

    def run() -> bytes:
        client = Client(served.port).send(header[:cut])
        time.sleep(0.05)
        client.send(header[cut:] + BAD)
        try:
            return client.read_all()
        finally:
            client.close()

    assert (await in_thread(run)).startswith(b"HTTP/1.1 400 ")
    (error,) = served.errors
    assert (error.peer.host, error.peer.port) == ("192.0.2.7", 51410)


@pytest.mark.parametrize(
    "header", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN a b\r\n", V2[:12] + b"\x20\0\0\0"]
)
@pytest_twisted.ensureDeferred
async def test_peer_that_the_proxy_does_not_tell(serve: Serve, header: bytes) -> None:
    """A proxy's own connection, such as a health check, is served as the proxy's."""
    served = serve(endpoint=proxyEndpoint(tcp()))
    answer = await talk(served.port, header + GOOD, fin=True)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert served.errors == []


@pytest.mark.parametrize(
    "wire, offset",
    [
        (GOOD, 0),
        (b"PROXX TCP4", 4),
        (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", 6),
        (b"PROXY TCP4 1.2.3.400 1.2.3.4 1 2\r\n", 11),
        (b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n", 19),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", 29),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 x 2\r\n", 27),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", 28),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", 30),
        (b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n", 11),
        (b"PROXY " + b"x" * 200, 106),
        (V2[:12] + b"\x31\x11\0\x0c" + bytes(12), 12),
        (V2[:12] + b"\x21\x51\0\x0c" + bytes(12), 13),
        (V2[:12] + b"\x21\x11\0\x0b" + bytes(12), 15),
        (V2[:5] + b"GET / HTTP/1.1\r\n\r\n", 5),
    ],
)
@pytest_twisted.ensureDeferred
async def test_broken_proxy_header(serve: Serve, wire: bytes, offset: int) -> None:
    """A malformed PROXY header is a client error with its place, answered 400."""
    served = serve(endpoint=proxyEndpoint(tcp()))
    answer = await talk(served.port, wire, fin=True)
    assert answer == b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    (error,) = served.errors
    assert (error.code, error.phase, error.offset) == ("ERR_PROXY_PROTOCOL", "handshake", offset)
    assert error.bytes_parsed == offset and error.raw_packet == wire
    assert error.report()


@pytest.mark.parametrize("wire", [V1[:1], V1[:-1], V2[:2], V2[:15]])
@pytest_twisted.ensureDeferred
async def test_proxy_header_that_is_cut_short(serve: Serve, wire: bytes) -> None:
    """An end of input in the middle of one is told, and answered, as one in a request is."""
    served = serve(endpoint=proxyEndpoint(tcp()))
    answer = await talk(served.port, wire, fin=True)
    assert answer == b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    (error,) = served.errors
    assert str(error).startswith("ERR_PROXY_PROTOCOL: Header cut short (handshake")
    assert (error.offset, error.bytes_parsed, error.raw_packet) == (len(wire), 0, None)
    assert error.report()


@pytest_twisted.ensureDeferred
async def test_half_close_behind_the_proxy_protocol(serve: Serve) -> None:
    """A client behind a proxy may end its input and still read, as without one."""
    served = serve(endpoint=proxyEndpoint(tcp()))
    answer = await talk(served.port, V1 + HEAD, fin=True)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert served.codes == ["HPE_INVALID_EOF_STATE"]


class Switch(Resource):
    """Gives the connection to another protocol."""

    isLeaf = True

    def render(self, request: Request) -> int:
        request.channel._protocolUpgradeForWebsockets(Protocol())
        return NOT_DONE_YET


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts files as Linux does")
@pytest.mark.parametrize(
    "wire",
    [BAD, HEAD, GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), b"GET /switch "],
    ids=["error", "end of input", "last response", "another protocol"],
)
@pytest_twisted.ensureDeferred
async def test_sockets_behind_the_proxy_protocol_are_closed(serve: Serve, wire: bytes) -> None:
    """However a connection behind a proxy ends, its file is closed."""
    served = serve(Paths(switch=Switch()), endpoint=proxyEndpoint(tcp()))
    if wire.startswith(b"GET /switch"):
        wire = GOOD.replace(b"/fast", b"/switch")

    def run() -> None:
        client = Client(served.port).send(V1 + wire)
        if wire is HEAD or b"/switch" in wire:
            client.end()
        client.read_all()
        client.close()

    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    await in_thread(run)
    await served.emptied()
    before = files()
    for _ in range(3):
        await in_thread(run)
    await until(lambda: files() <= before)


@pytest_twisted.ensureDeferred
async def test_proxy_header_in_front_of_tls(serve: Serve) -> None:
    """The header comes before TLS, as proxies send it; then everything is as ever."""
    served = serve(endpoint=wrapServerTLS(server_context(), proxyEndpoint(tcp())))

    def run() -> bytes:
        client = Client(served.port).send(V1)
        context = ssl.create_default_context(cadata=pem().decode().partition("-----BEGIN PR")[0])
        client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
        try:
            return client.send(BAD).read_all()
        finally:
            client.close()

    assert (await in_thread(run)).startswith(b"HTTP/1.1 400 ")
    answer = await talk(served.port, V1 + GOOD, fin=True)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"https://" in answer
    await talk(served.port, V1, fin=True)
    await until(lambda: len(served.errors) == 3)
    assert [error.peer.host for error in served.errors] == ["192.0.2.7"] * 3
    assert served.codes == ["HPE_INVALID_HEADER_TOKEN", "ERR_SSL_HTTP_REQUEST", "ECONNRESET"]


# Other factories, other endpoints.


class Echo(Protocol):
    lost: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.append(reason)


@pytest_twisted.ensureDeferred
async def test_another_protocol_is_served_as_ever() -> None:
    """What is not ours behind TLS or PROXY notices nothing but better reasons."""
    echo: Factory[Echo] = Factory.forProtocol(Echo)
    Echo.lost.clear()
    ended: list[IStreamServerEndpoint] = []
    for endpoint, wire, answer in (
        (tls(), GOOD, b""),
        (proxyEndpoint(tcp()), V1 + b"hello", b"hello"),
        (proxyEndpoint(tcp()), GOOD, b""),
        (tcp(), b"hello", b"hello"),
    ):
        port: Any = await hangup_endpoint(endpoint).listen(echo)
        client = await in_thread(lambda: Client(port.getHost().port).send(wire))  # noqa: B023
        received = b""
        with suppress(ConnectionResetError):
            received = await in_thread(lambda: client.read_until(b"hello"))  # noqa: B023
        assert received.endswith(answer) and b"400" not in received
        with suppress(OSError):
            client.end()
        ended.append(endpoint)
        await until(lambda: len(Echo.lost) == len(ended))
        client.close()
        await port.stopListening()


@pytest.mark.filterwarnings("ignore:X509.:DeprecationWarning")  # Twisted 26.10 on pyOpenSSL 26
@pytest_twisted.ensureDeferred
async def test_server_name_chooses_the_certificate(serve: Serve, tmp_path: Path) -> None:
    """Twisted's tls: endpoint, a directory of certificates by server name, works as ever."""
    from twisted.internet import reactor

    (tmp_path / "localhost.pem").write_bytes(pem())
    endpoint = serverFromString(reactor, f"tls:{tmp_path}:port=0:interface=127.0.0.1")
    served = serve(endpoint=endpoint)

    def run() -> bytes:
        client = Client(served.port)
        context = ssl.create_default_context(cadata=pem().decode().partition("-----BEGIN PR")[0])
        client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
        try:
            return client.send(BAD).read_all()
        finally:
            client.close()

    assert (await in_thread(run)).startswith(b"HTTP/1.1 400 ")
    assert (await talk(served.port, GOOD)).startswith(b"HTTP/1.1 400 ")
    assert served.codes == ["HPE_INVALID_HEADER_TOKEN", "ERR_SSL_HTTP_REQUEST"]


# ALPN (RFC 7301).


def negotiated(port: int, *names: str, wire: bytes = GOOD) -> tuple[str | None, bytes]:
    """What ALPN chooses of *names*, and the answer to *wire*."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([*names])
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        context.wrap_socket(plain) as secured,
    ):
        secured.sendall(wire)
        return secured.selected_alpn_protocol(), secured.recv(65536)


@pytest.mark.parametrize("kind", ["ours", "Twisted's"])
@pytest.mark.filterwarnings("ignore:Site does not forward its client errors")
@pytest_twisted.ensureDeferred
async def test_alpn_of_http_1_0(serve: Serve, kind: str) -> None:
    """It is what curl -0 offers: agreed on, by any site, and served as HTTP/1."""
    served = serve(Paths() if kind == "ours" else Site(Paths()), endpoint=tls())
    wire = b"GET /fast HTTP/1.0\r\n\r\n"
    name, answer = await in_thread(lambda: negotiated(served.port, "http/1.0", wire=wire))
    assert name == "http/1.0" and answer.startswith(b"HTTP/1.")


@pytest_twisted.ensureDeferred
async def test_alpn_prefers_what_is_newer(serve: Serve) -> None:
    """Whatever the client's order, and however many ports the site has."""
    site = HangupSite(Paths())
    for served in (serve(site, endpoint=tls()), serve(site, endpoint=tls())):
        offers = ("http/1.0", "http/1.1")
        assert (await in_thread(lambda: negotiated(served.port, *offers)))[0] == "http/1.1"  # noqa: B023
    names = site.acceptableProtocols()
    assert names == [*Site(Paths()).acceptableProtocols(), b"http/1.0"]
    assert site.acceptableProtocols() is names  # every handshake asks for them


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name
)
@pytest_twisted.ensureDeferred
async def test_alpn_without_overlap(serve: Serve, version: ssl.TLSVersion) -> None:
    """Alert 120 and its code, as in Node: no internal error, which would be ours."""
    served = serve(endpoint=tls())

    def run() -> bytes:
        context = ssl.create_default_context()
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["spdy/9"])
        came, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        with suppress(ssl.SSLWantReadError):
            context.wrap_bio(came, sent, server_hostname="localhost").do_handshake()
        client = Client(served.port).send(sent.read())
        try:
            return client.read_all()
        finally:
            client.close()

    assert await in_thread(run) == b"\x15\x03\x03\x00\x02\x02\x78"
    await until(lambda: served.errors)
    (error,) = served.errors
    assert (error.code, error.reason) == (
        "ERR_SSL_NO_APPLICATION_PROTOCOL",
        "no application protocol",
    )
    assert (error.phase, error.status) == ("handshake", None)
