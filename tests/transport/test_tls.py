"""Over TLS the same promises hold as over TCP."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest
import pytest_twisted
from OpenSSL import SSL
from support.certificates import server_context
from support.wire import (
    BAD,
    DEFAULT,
    GOOD,
    PATIENCE,
    Client,
    HandClock,
    Serve,
    Served,
    in_thread,
    talk,
    until,
    wait_for,
)
from twisted.internet.endpoints import TCP4ServerEndpoint, wrapServerTLS
from twisted.internet.ssl import CertificateOptions
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from twisted_hangup import ClientSocket, Timeouts, TLSError
from twisted_hangup.transport.sockets import TellingSocket


@pytest.mark.parametrize(
    "records",
    [
        (b"GET /fast HTTP/1.1\r\nHost: a\r\nbad header\r\nA: b\r\n", b"\r\n"),
        (
            b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"hello",
        ),
        (BAD, GOOD),
        (BAD + GOOD,),
    ],
)
@pytest_twisted.ensureDeferred
async def test_refused_request_is_never_run(serve: Serve, records: tuple[bytes, ...]) -> None:
    """Records that arrive after the 400 are not parsed; stock Twisted runs the request."""
    served = serve(tls=server_context(), reactor=HandClock())

    def run() -> bytes:
        client = Client(served.port, tls=True)
        for record in records:
            client.send(record)
            wait_for(lambda: served.errors)
        try:
            return client.read_all()
        finally:
            client.close()

    assert await in_thread(run) == DEFAULT
    assert served.root.fast.ran == []
    assert len(served.errors) == 1


@pytest_twisted.ensureDeferred
async def test_handler_over_tls(serve: Serve) -> None:
    """A handler answers over TLS as over TCP, and sees that the connection is secure."""
    served = serve(tls=server_context())

    @served.site.on_client_error
    def answer(failure: Failure, socket: ClientSocket) -> bytes:
        return b"secure\n" if socket.secure else b"not secure\n"

    assert await talk(served.port, BAD, tls=True) == b"secure\n"


@pytest_twisted.ensureDeferred
async def test_client_that_ignores_close_notify(serve: Serve) -> None:
    """A client that never closes is aborted when the lingering time is over."""
    clock = HandClock()
    served = serve(tls=server_context(), reactor=clock)
    client = await in_thread(lambda: Client(served.port, tls=True).send(BAD))
    assert await in_thread(client.read_all) == DEFAULT
    clock.wait(Timeouts().linger_silence_seconds - 1)
    assert served.site.open_connections == 1
    await clock.wait_until(lambda: served.site.open_connections == 0)
    client.close()


@pytest.mark.parametrize(
    "wire, code",
    [
        (GOOD, "ERR_SSL_HTTP_REQUEST"),
        (b"*" * 100, "ERR_SSL_WRONG_VERSION_NUMBER"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_failed_handshake(serve: Serve, wire: bytes, code: str) -> None:
    """What is no handshake is one TLSError with Node's code."""
    served = serve(tls=server_context())

    def run() -> None:
        client = Client(served.port).send(wire)
        with suppress(ConnectionResetError):
            client.read_all()
        client.close()

    await in_thread(run)
    await until(lambda: served.errors)
    (error,) = served.errors
    assert isinstance(error, TLSError)
    assert (error.code, error.phase, error.status) == (code, "handshake", None)


@pytest_twisted.ensureDeferred
async def test_end_of_input_over_tls_knows_its_request(serve: Serve) -> None:
    """A close_notify inside a message is reported with the request that it ended."""
    served = serve(tls=server_context())

    def run() -> None:
        client = Client(served.port, tls=True).send(b"GET /fast HTTP/1.1\r\nHost: a\r\nX")
        assert isinstance(client.socket, ssl.SSLSocket)
        with suppress(OSError):
            client.socket.unwrap()
        client.close()

    await in_thread(run)
    await until(lambda: served.errors)
    (error,) = served.errors
    assert error.code == "HPE_INVALID_EOF_STATE"
    assert error.request is not None
    assert error.request.target == b"/fast"


def on_bare_port(serve: Serve, context: Any) -> Served:
    return serve(tls=context)


def on_endpoint(serve: Serve, context: Any) -> Served:
    from twisted.internet import reactor

    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    return serve(endpoint=wrapServerTLS(context, endpoint))


#: The two ways to listen.
ports = pytest.mark.parametrize("listen", [on_bare_port, on_endpoint])
Listen = Callable[[Serve, Any], Served]


@ports
@pytest_twisted.ensureDeferred
async def test_answer_leaves_at_once(
    serve: Serve, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL is asked once for the request and once for the answer, the kernel once, and
    the reactor never: on the first connection of a port as on a later one.
    """
    from twisted.internet import reactor

    calls: list[str] = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(function.__name__)
            return function(*arguments)

        return call

    def get(client: Client) -> bytes:
        return client.send(GOOD).socket.recv(65_536)

    served = listen(serve, server_context())
    clients = [await in_thread(lambda: Client(served.port, tls=True)) for _ in range(2)]
    for client in clients:
        await deferToThread(get, client)  # after what ends the handshake
    for kind, name in (
        (SSL.Connection, "recv"),
        (SSL.Connection, "bio_read"),
        (TellingSocket, "writeSomeData"),
        (type(reactor), "addReader"),
        (type(reactor), "addWriter"),
    ):
        monkeypatch.setattr(kind, name, noted(getattr(kind, name)))
    for client in clients:
        calls.clear()
        answer = await deferToThread(get, client)
        assert answer.endswith(b"\r\n\r\nfast")
        assert calls == ["recv", "bio_read", "writeSomeData"]
    for client in clients:
        client.close()


VERSIONS: Final = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@ports
@pytest_twisted.ensureDeferred
async def test_session_is_resumed(serve: Serve, listen: Listen, version: ssl.TLSVersion) -> None:
    """A client that comes back with a session goes on with it, where the server gives some."""
    ours = server_context()
    key, certificate = ours.privateKey, ours.certificate
    sessions = CertificateOptions(key, certificate, enableSessions=True, enableSessionTickets=True)
    served = listen(serve, sessions)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version

    def get(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None, bool | None]:
        with (
            socket.create_connection(("127.0.0.1", served.port), PATIENCE) as connection,
            context.wrap_socket(connection, session=session) as client,
        ):
            client.sendall(GOOD)
            return client.recv(65_536)[-4:], client.session, client.session_reused

    answer, session, reused = await in_thread(lambda: get(None))
    assert (answer, reused) == (b"fast", False)
    answer, _, reused = await in_thread(lambda: get(session))
    assert (answer, reused) == (b"fast", True)
