"""What one connection costs in memory, in each state that its client can leave it in.

    python benchmarks/limits.py [--connections 400] [STATE ...]

For each state, clients bring so many connections into it and stay; printed is what the
process has grown by, in KiB for each connection, beside stock Twisted.  Each figure is of a
server of its own, so that none finds memory that another has left.  Exits with 1 where ours
takes more than docs/limits.md says.

Linux only: the memory is read from /proc, without what the kernel holds.
"""

from __future__ import annotations

import argparse
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from measure import OURS, PATIENCE, settled_kib, started
from servers import KINDS, make_certificate, serve_site, trusting

KIB: Final = 1024
#: Bytes of the file that is not read: more than the kernel takes for its client.
FILE_BYTES: Final = 16 * KIB * KIB
#: A client sends on until the server has taken nothing for so long, in seconds.
FULL: Final = 0.2
#: How many connect at a time.
AT_ONCE: Final = 20
#: A connection with so many streams stands for many others.
STREAMS, CONNECTIONS_OF_STREAMS = 100, 20
#: Bytes that are sent so at most: whoever takes more has no bound.
MOST_WAITING: Final = 8 * KIB * KIB

SMALL: Final = b"hello\n"
HEAD: Final = b"%b HTTP/1.1\r\nHost: a\r\n"
CLIENT_HELLO: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)


def new(client: socket.socket) -> None:
    """Nothing is sent."""


def idle(client: socket.socket) -> None:
    """One request is answered, and the connection is kept."""
    client.sendall(HEAD % b"GET /small" + b"\r\n")
    answered(client)


def answered(client: socket.socket) -> None:
    """Read an answer whose body is `SMALL`."""
    answer = b""
    while not answer.endswith(SMALL):
        answer += client.recv(4096) or sys.exit(f"no answer but {answer!r}")


def half_a_head(client: socket.socket, fields: int = 480) -> None:
    """As many fields as stock takes, and no end."""
    client.sendall(
        HEAD % b"GET /" + b"".join(b"X-%03d: %b\r\n" % (n, b"v" * 8) for n in range(fields))
    )


def most_of_a_head(client: socket.socket) -> None:
    """As many fields as ours takes; stock refuses them."""
    half_a_head(client, 990)


def half_a_body(client: socket.socket) -> None:
    """A little less than goes to a file."""
    client.sendall(HEAD % b"POST /" + b"Content-Length: 1000000\r\n\r\n" + bytes(99_000))


def input_waits(client: socket.socket) -> None:
    """After a request that is being answered comes a body in the smallest chunks."""
    client.sendall(HEAD % b"GET /never" + b"\r\n")
    client.sendall(HEAD % b"POST /" + b"Transfer-Encoding: chunked\r\n\r\n")
    client.settimeout(FULL)
    chunks, taken = b"1\r\nx\r\n" * 2000, 0
    with suppress(TimeoutError, ConnectionError):  # stock resets some
        while taken < MOST_WAITING:
            client.sendall(chunks)
            taken += len(chunks)


def requests_wait(client: socket.socket) -> None:
    """After a request that is being answered come others with as many fields as may be."""
    client.sendall(HEAD % b"GET /never" + b"\r\n")
    client.settimeout(FULL)
    with suppress(TimeoutError, ConnectionError):
        for _ in range(STREAMS):
            most_of_a_head(client)
            client.sendall(b"\r\n")


def response_waits(client: socket.socket) -> None:
    """A file is not read."""
    client.sendall(HEAD % b"GET /file" + b"\r\n")


def lingers(client: socket.socket) -> None:
    """One read that is refused, as large as they are."""
    client.sendall(HEAD % b"GET /" + b"bad header\r\n" + bytes(60_000))


def handler_waits(client: socket.socket) -> None:
    """The same, of a site with a handler that takes its time."""
    client.sendall(HEAD % b"GET /slow" + b"bad header\r\n" + bytes(60_000))


def half_a_handshake(client: socket.socket) -> None:
    """The start of a ClientHello."""
    client.sendall(CLIENT_HELLO)


# HTTP/2.


def connected(client: socket.socket, window: int | None = None) -> H2Connection:
    connection = H2Connection()
    values = {} if window is None else {SettingCodes.INITIAL_WINDOW_SIZE: window}
    connection.local_settings = Settings(client=True, initial_values=values)
    connection.initiate_connection()
    client.sendall(connection.data_to_send())
    return connection


def request_fields(method: str, path: str) -> list[tuple[str, str]]:
    names = (":method", ":scheme", ":authority", ":path")
    return list(zip(names, (method, "https", "a", path), strict=True))


def ask(connection: H2Connection, path: str, client: socket.socket) -> None:
    for stream in range(1, 2 * STREAMS, 2):
        connection.send_headers(stream, request_fields("GET", path), end_stream=True)
    client.sendall(connection.data_to_send())


def h2_new(client: socket.socket) -> None:
    """The preface is sent."""
    connected(client)


def h2_idle(client: socket.socket) -> None:
    """One request is answered."""
    connection = connected(client)
    connection.send_headers(1, request_fields("GET", "/small"), end_stream=True)
    client.sendall(connection.data_to_send())
    answered(client)


def h2_half_a_head(client: socket.socket) -> None:
    """A field block that does not end."""
    connected(client)
    block = b"\x00\x03abc\x08" + bytes(8)
    frame = (block * 1100)[: 16 * KIB - 1]
    head = len(frame).to_bytes(3, "big") + b"\x01\x00" + (1).to_bytes(4, "big")
    client.sendall(head + frame)


def h2_half_a_body(client: socket.socket) -> None:
    """Twenty bodies, each a little less than goes to a file."""
    connection = connected(client)
    for stream in range(1, 40, 2):
        connection.send_headers(stream, request_fields("POST", "/"))
        rest = 99_000
        while rest:
            room = min(connection.local_flow_control_window(stream), rest, 16 * KIB)
            if room:
                connection.send_data(stream, bytes(room))
                rest -= room
            client.sendall(connection.data_to_send())
            if not room:
                connection.receive_data(client.recv(65536))


def h2_input_waits(client: socket.socket) -> None:
    """All requests that may be are being answered."""
    ask(connected(client), "/never", client)


def h2_requests_wait(client: socket.socket) -> None:
    """They have as many fields as may be."""
    connection = connected(client)
    more = [(f"x-{number}", "") for number in range(990)]
    for stream in range(1, 2 * STREAMS, 2):
        connection.send_headers(stream, request_fields("GET", "/never") + more, end_stream=True)
        client.sendall(connection.data_to_send())


def h2_response_waits(client: socket.socket) -> None:
    """There is no room for any response."""
    ask(connected(client, window=0), "/file", client)


def h2_handlers_wait(client: socket.socket) -> None:
    """All requests that may be are refused, and have as many fields as may be."""
    connection = connected(client)
    more = [(f"x-{number}", "") for number in range(990)]
    for stream in range(1, 2 * STREAMS, 2):
        connection.send_headers(stream, request_fields("GET", "/slow way") + more, end_stream=True)
        client.sendall(connection.data_to_send())


def h2_lingers(client: socket.socket) -> None:
    """One read that is a connection error, as large as they are."""
    connected(client)
    client.sendall((16 * KIB).to_bytes(3, "big") + b"\x00\x00" + bytes(4) + bytes(60_000))


class Case(NamedTuple):
    """A state over one protocol, and what a connection may cost in it.

    Attributes:
        most: In KiB; what docs/limits.md says.
        streams: Whether it has many requests.
    """

    state: str
    protocol: str
    behave: Callable[[socket.socket], object]
    most: int
    streams: bool = False


CASES: Final = [
    *(Case("new", "TCP", new, 4), Case("new", "TLS", new, 40), Case("new", "HTTP/2", h2_new, 64)),
    *(
        Case("idle", "TCP", idle, 6),
        Case("idle", "TLS", idle, 40),
        Case("idle", "HTTP/2", h2_idle, 64),
    ),
    Case("handshake begun", "TLS", half_a_handshake, 72),
    Case("head half read", "TCP", half_a_head, 112),
    Case("head half read", "TLS", half_a_head, 160),
    Case("head half read", "HTTP/2", h2_half_a_head, 112),
    Case("head of most fields", "TCP", most_of_a_head, 200),
    Case("head of most fields", "TLS", most_of_a_head, 256),
    Case("body being read", "TCP", half_a_body, 128),
    Case("body being read", "TLS", half_a_body, 240),
    Case("body being read", "HTTP/2", h2_half_a_body, 1700, True),
    Case("request runs, input waits", "TCP", input_waits, 128),
    Case("request runs, input waits", "TLS", input_waits, 224),
    Case("request runs, input waits", "HTTP/2", h2_input_waits, 700, True),
    Case("request runs, others wait", "TCP", requests_wait, 480),
    Case("request runs, others wait", "TLS", requests_wait, 520),
    Case("request runs, others wait", "HTTP/2", h2_requests_wait, 30000, True),
    Case("response not taken", "TCP", response_waits, 192),
    Case("response not taken", "TLS", response_waits, 192),
    Case("response not taken", "HTTP/2", h2_response_waits, 8500, True),
    Case("handlers at work", "TCP", handler_waits, 80),
    Case("handlers at work", "TLS", handler_waits, 160),
    Case("handlers at work", "HTTP/2", h2_handlers_wait, 20000, True),
    Case("lingering", "TCP", lingers, 80),
    Case("lingering", "TLS", lingers, 160),
    Case("lingering", "HTTP/2", h2_lingers, 180),
]


@cache
def context_of(protocol: str) -> ssl.SSLContext:
    return trusting("h2" if protocol == "HTTP/2" else "http/1.1")


def connect(case: Case, port: int) -> socket.socket:
    """A new client in the state of *case*."""
    client = socket.socket()
    client.settimeout(PATIENCE)
    # Whatever is not read stays with the server, and not with the kernel.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if case.protocol != "TCP" and case.behave is not half_a_handshake:
        client = context_of(case.protocol).wrap_socket(client)
    case.behave(client)
    return client


def measure(kind: str, case: Case, connections: int, folder: Path) -> float:
    """KiB for each of so many connections to a new server of that *kind*."""
    tls = ["--tls"] if case.protocol != "TCP" else []
    command = [sys.executable, __file__, "--serve", kind, "--folder", str(folder), *tls]
    with started(command) as server:
        clients = [connect(case, server.port)]  # makes what all have in common
        before = settled_kib(server)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            clients += pool.map(lambda _: connect(case, server.port), range(connections))
        grown = settled_kib(server) - before
        for client in clients:
            client.close()
    return grown / connections


def serve(kind: str, tls: bool, folder: str) -> None:
    from twisted.internet.defer import Deferred
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET, Request, Site
    from twisted.web.static import Data, File

    from twisted_hangup import HangupSite

    class Never(Resource):
        isLeaf = True

        def render(self, request: Request) -> int:
            return NOT_DONE_YET

    root = Resource()
    root.putChild(b"never", Never())
    root.putChild(b"file", File(f"{folder}/file"))
    root.putChild(b"small", Data(SMALL, "text/plain"))
    root.putChild(b"", Never())
    site: Any = HangupSite(root) if kind == OURS else Site(root)
    if kind == OURS:

        def wait(failure: Any, socket: Any) -> Any:
            request = failure.value.request
            return Deferred() if request and request.target.startswith(b"/slow") else failure

        site.on_client_error(wait)
    serve_site(kind, site, Path(folder) if tls else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("states", nargs="*", metavar="STATE", help="all of them by default")
    parser.add_argument("--connections", type=int, default=400)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--tls", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.tls, options.folder)
        return
    failed = False
    print(f"{'KiB each':28}{'':8}" + "".join(f"{kind:>10}" for kind in KINDS) + f"{'most':>10}")
    with tempfile.TemporaryDirectory() as name:
        folder = make_certificate(Path(name))
        (folder / "file").write_bytes(bytes(FILE_BYTES))
        for case in CASES:
            if options.states and case.state not in options.states:
                continue
            count = CONNECTIONS_OF_STREAMS if case.streams else options.connections
            figures = [measure(kind, case, count, folder) for kind in KINDS]
            failed |= figures[-1] > case.most
            row = "".join(f"{figure:10.1f}" for figure in figures)
            print(f"{case.state:28}{case.protocol:8}{row}{case.most:10}", flush=True)
    if failed:
        sys.exit("ours takes more than is promised")


if __name__ == "__main__":
    main()
