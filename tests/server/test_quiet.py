"""What is nobody's fault is closed without a word, runs down the chain, and is in no log."""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

import pytest
import pytest_twisted
from support.certificates import server_context
from support.wire import GOOD, Client, HandClock, Serve, Served, in_thread, settled, until
from twisted.internet.endpoints import TCP4ServerEndpoint, UNIXServerEndpoint, wrapServerTLS
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.protocols.haproxy import proxyEndpoint
from twisted.python.failure import Failure

from twisted_hangup import ClientSocket
from twisted_hangup.journal.access_log import AccessLog
from twisted_hangup.journal.console import ConsoleLog
from twisted_hangup.journal.error_log import ErrorLog
from twisted_hangup.journal.files import LogFile

PROXY: Final = b"PROXY TCP4 192.0.2.7 192.0.2.1 51332 80\r\n"
HELLO: Final = b"\x16\x03\x01\x02\x00\x01\x00"
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def tcp() -> IStreamServerEndpoint:
    from twisted.internet import reactor

    return TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")


def unix(path: Path) -> IStreamServerEndpoint:
    from twisted.internet import reactor

    return UNIXServerEndpoint(reactor, str(path))


#: Ways to listen: the arguments of the fixture ``serve``.
PORTS: Final[dict[str, Callable[[Path], dict[str, Any]]]] = {
    "TCP": lambda _: {},
    "TCP endpoint": lambda _: {"endpoint": tcp()},
    "UNIX": lambda path: {"unix": str(path)},
    "UNIX endpoint": lambda path: {"endpoint": unix(path)},
    "PROXY": lambda _: {"endpoint": proxyEndpoint(tcp())},
    "TLS": lambda _: {"tls": server_context()},
    "TLS endpoint": lambda _: {"endpoint": wrapServerTLS(server_context(), tcp())},
}


class Logs:
    """All logs of a site, and whatever else is logged meanwhile."""

    def __init__(self, served: Served, log_idle: bool = False) -> None:
        self.events: list[LogEvent] = []
        self._errors, self._accesses = io.BytesIO(), io.BytesIO()
        clock, journal = HandClock(), served.site.journal
        self._watches = [
            journal.watch(ConsoleLog(clock, log_idle=log_idle)),
            journal.watch(ErrorLog(cast(BinaryIO, self._errors), clock, log_idle=log_idle)),
            journal.watch_settled(
                AccessLog(LogFile(self._accesses, "access log"), log_idle=log_idle).refused
            ),
        ]
        self._observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(self._observer)

    @property
    def lines(self) -> tuple[list[str], int, int]:
        """What the console has, and how many lines the two others."""
        files = (self._errors, self._accesses)
        errors, accesses = (len(file.getvalue().splitlines()) for file in files)
        return [formatEvent(event) for event in self.events], errors, accesses

    @property
    def statuses(self) -> list[str]:
        """Those of the access log."""
        lines = self._accesses.getvalue().decode().splitlines()
        return [line.split('" ')[1].split()[0] for line in lines]

    def close(self) -> None:
        globalLogPublisher.removeObserver(self._observer)
        for end in self._watches:
            end()


@pytest.fixture
def watched() -> Iterator[Callable[..., Logs]]:
    """Watch a site with every log there is."""
    watching: list[Logs] = []

    def watch(*arguments: Any) -> Logs:
        watching.append(Logs(*arguments))
        return watching[-1]

    yield watch
    for logs in watching:
        logs.close()


class Connected(NamedTuple):
    """A client of a site whose clock stands, and all that is heard of it."""

    served: Served
    clock: HandClock
    client: Client
    logs: Logs
    #: What handlers have had: status of the error, and what they wrote, or tried to.
    asked: list[int | None]


class Quiet(NamedTuple):
    """What a client does with which there is nothing wrong, or nothing to be done about."""

    ports: str
    #: Whether it goes through the handshake, with which protocol to speak in it.
    alpn: str | None
    wire: bytes
    end: str
    #: Phase of the error that handlers have; None for no error.
    phase: str | None


def over(ports: str, end: str, phase: str | None, *wires: bytes, alpn: Any = None) -> list[Quiet]:
    return [
        Quiet(port, alpn, wire, end, phase) for port in ports.split(", ") for wire in wires or [b""]
    ]


_PLAIN: Final = "TCP, TCP endpoint"
_UNIX: Final = "UNIX, UNIX endpoint"
_TLS: Final = "TLS, TLS endpoint"

QUIET: Final = [
    # Probes.
    *over(_PLAIN, "fin", None, b"", b"\r\n"),
    *over("PROXY", "fin", None, b"", PROXY),
    *over(_PLAIN, "reset", "idle", b"", b"\r\n", b"\r\n\r"),
    *over("PROXY", "reset", "idle", b"", PROXY, PROXY + b"\r\n"),
    *over(_TLS, "fin", "handshake", b"", HELLO),
    *over(_TLS, "reset", "handshake", b"", HELLO),
    *over(_TLS, "fin", None, alpn="http/1.1"),
    *over("TLS endpoint", "reset", "idle", alpn="http/1.1"),
    *over("TLS endpoint", "reset", "idle", alpn="h2"),
    # Connections that were kept alive.
    *over(_PLAIN, "reset", "idle", GOOD),
    *over("PROXY", "reset", "idle", PROXY + GOOD),
    *over("TLS endpoint", "reset", "idle", GOOD, alpn="http/1.1"),
    # Connections that were opened ahead.
    *over(f"{_PLAIN}, {_UNIX}", "time", "idle", b"", b"\r\n", b"\r"),
    *over("PROXY", "time", "idle", b"", PROXY, PROXY + b"\r\n"),
    *over(_TLS, "time", "handshake"),
    *over(_TLS, "time", "idle", b"", b"\r\n", alpn="http/1.1"),
    *over(_TLS, "time", "idle", b"", alpn="h2"),
]

LOUD: Final = [
    *over(f"{_PLAIN}, {_UNIX}", "time", "head", b"G", b"\r\nG"),
    *over("PROXY", "time", "head", PROXY[:1], PROXY[:-1], PROXY + b"G"),
    *over(_TLS, "time", "handshake", HELLO[:1], HELLO),
    *over(_TLS, "time", "head", b"G", alpn="http/1.1"),
    *over(_TLS, "time", "head", PREFACE[:1], PREFACE[:-1], alpn="h2"),
    *over(_PLAIN, "reset", "head", b"G", b"\r\nG", GOOD + b"G"),
    *over("TLS endpoint", "reset", "head", PREFACE[:5], alpn="h2"),
]


def name_of(case: Quiet) -> str:
    return f"{case.ports} {case.alpn} {case.wire[-8:]!r} {case.end}"


@pytest.fixture
def connected(serve: Serve, watched: Callable[..., Logs], tmp_path: Path) -> Callable[..., Any]:
    """Let a client connect and send, up to where it ends the connection or lets time pass."""

    async def connect(case: Quiet, *, log_idle: bool = False) -> Connected:
        clock = HandClock()
        served = serve(reactor=clock, **PORTS[case.ports](tmp_path / "socket"))
        asked: list[int | None] = []

        @served.site.on_client_error
        def answer_in_vain(failure: Failure, client: ClientSocket) -> Any:
            error: Any = failure.value
            asked.append(error.status)
            if not client.writable:
                client.respond(400, b"This is in vain.\n")
            return failure

        def run() -> Client:
            tls, alpn = case.alpn is not None, case.alpn or ""
            return Client(served.port, tls=tls, alpn=alpn).send(case.wire)

        logs = watched(served, log_idle)
        client = await in_thread(run)
        await served.has_read(client)
        if GOOD in case.wire:
            assert (await in_thread(lambda: client.read_until(b"fast"))).endswith(b"fast")
            logs.events.clear()  # the request is in Twisted's own log
        return Connected(served, clock, client, logs, asked)

    return connect


async def ended(case: Quiet, connected: Connected) -> bytes:
    """End the connection as *case* says, and say what the client has read by then."""
    served, clock, client, *_ = connected
    received = b""
    if case.end == "time":
        await clock.wait_until(lambda: client_was_closed_on(served))
        received = await in_thread(lambda: read_on(client))
    elif case.end == "reset":
        client.reset()
    else:  # unread session tickets would make a reset of a plain close
        socket.socket.shutdown(client.socket, socket.SHUT_WR)
    # No time passes before the server has noticed.
    await until(lambda: client_was_closed_on(served))
    await clock.wait_until(lambda: served.site.open_connections == 0)
    await settled()
    client.close()
    return received


def client_was_closed_on(served: Served) -> bool:
    return all(one.over for one in served.site.context.open())


def read_on(client: Client) -> bytes:
    try:
        return client.read_all()
    except (ConnectionResetError, ssl.SSLError):
        return b""


@pytest.mark.parametrize("case", QUIET, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_what_is_nobodys_fault(case: Quiet, connected: Callable[..., Any]) -> None:
    """No byte is sent for it, and no line is written; handlers hear what they hear in Node."""
    there = await connected(case)
    assert await ended(case, there) == b""
    journal = there.served.site.journal
    errors = [(error.phase, error.status, error.quiet) for error in there.served.errors]
    assert errors == ([] if case.phase is None else [(case.phase, None, True)])
    assert there.asked == [None] * len(errors)
    assert there.logs.lines == ([], 0, 0)
    assert (journal.quiet, journal.snapshot().entries) == (len(errors), ())
    assert journal.unused == (case.phase is None)


@pytest.mark.parametrize("wire", [b"", b"\r\n", GOOD])
@pytest.mark.parametrize("ports", _UNIX.split(", "))
@pytest_twisted.ensureDeferred
async def test_unix_client_that_leaves(
    ports: str, wire: bytes, connected: Callable[..., Any]
) -> None:
    """An end of a UNIX connection may look like a reset, and is in no log either."""
    (case,) = over(ports, "fin", None, wire)
    there = await connected(case)
    await ended(case, there)
    assert (there.logs.lines, there.served.site.journal.recent) == (([], 0, 0), ())


@pytest.mark.parametrize("case", [case for case in QUIET if case.phase], ids=name_of)
@pytest_twisted.ensureDeferred
async def test_logs_that_are_asked(case: Quiet, connected: Callable[..., Any]) -> None:
    """With log_idle each has a line in each of them."""
    there = await connected(case, log_idle=True)
    await ended(case, there)
    console, errors, accesses = there.logs.lines
    assert (len(console), errors, accesses) == (1, 1, 1)
    assert there.logs.statuses == ["444" if case.end == "time" else "499"]
    assert console[0].startswith("- E")


@pytest.mark.parametrize("case", LOUD, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_what_has_begun_is_told(case: Quiet, connected: Callable[..., Any]) -> None:
    """One byte that is not an empty line is enough: of a request, a hello or a PROXY header."""
    there = await connected(case)
    received = await ended(case, there)
    (error,) = there.served.errors
    answered = case.end == "time" and case.phase == "head" and case.alpn != "h2"
    assert (error.phase, error.status, error.quiet) == (
        case.phase,
        408 if answered else None,
        False,
    )
    assert received.startswith(b"HTTP/1.1 408 " if answered else b"")
    console, errors, _ = there.logs.lines
    assert any(line.startswith(f"{error.status or '-'} {error.code} ") for line in console)
    assert errors == 1
    assert (there.served.site.journal.quiet, there.served.site.journal.unused) == (0, 0)
