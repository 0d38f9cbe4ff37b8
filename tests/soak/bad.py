"""The bad clients: each kind is a function that runs one of them, from connection to end.

What is sure to be counted for a client is noted in its `Sent`, under a target that no other
kind asks for; so what the server has logged can be compared with what was sent.
"""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from hyperframe.frame import DataFrame, PingFrame, PriorityFrame, RstStreamFrame, SettingsFrame
from oracle.fuzz import mutants
from support.http2_client import ENHANCE_YOUR_CALM, H2Client
from support.wire import PATIENCE, Client, wait_for

from .application import ANNOUNCED, HANDLERS, SHORT

_FLOOD_FRAMES: Final = 4000  # the server bears 1,000 at once, and 33 a second
_RESETS: Final = 20
_MUTANTS: Final = 20
_MOST_FIELDS: Final = 1000
#: The first byte of ``struct tcp_info``, while neither side has ended the connection.
_ESTABLISHED: Final = b"\x01"
_WAITING_MOST: Final = 64 * 1024 * 1024


class Ports(NamedTuple):
    """Where the server listens."""

    plain: int
    tls: int


class Sent:
    """What the bad clients have sent, as the server should have counted it.

    Attributes:
        errors: Client errors, by target and code; those of TLS and HTTP/2 have no target.
        requests: Requests that were begun, by target.
        resets: Streams that were reset.
        clients: How many there were of each kind.
        wrong: What should not have happened.
    """

    def __init__(self) -> None:
        self.errors: Counter[tuple[str | None, str]] = Counter()
        self.requests: Counter[str] = Counter()
        self.resets = 0
        self.clients: Counter[str] = Counter()
        self.wrong: list[str] = []

    def add(self, other: Sent) -> None:
        """Count what another thread has counted."""
        self.errors += other.errors
        self.requests += other.requests
        self.resets += other.resets
        self.clients += other.clients
        self.wrong += other.wrong

    def error(self, code: str, target: str | None = None) -> None:
        """There is one client error of *code*, and with a *target* one request."""
        self.errors[target, code] += 1
        if target is not None:
            self.requests[target] += 1

    def expect(self, true: object, what: str) -> None:
        """*what* is wrong unless *true*."""
        if not true:
            self.wrong.append(what)


Kind = Callable[[Ports, Sent, random.Random], None]
KINDS: Final[dict[str, Kind]] = {}


#: How many of a kind there are at a time, where most of their time is waiting.
AT_ONCE: Final = {
    "slow_heads": 20,
    **dict.fromkeys(["never_readers", "handlers", "tls_garbage", "mutated"], 5),
}


def kind(function: Kind) -> Kind:
    KINDS[function.__name__] = function
    return function


def _head(target: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


def _either(ports: Ports, chance: random.Random) -> Client:
    tls = chance.random() < 0.3
    return Client(ports.tls if tls else ports.plain, tls=tls)


def _answer(client: Client) -> bytes:
    """What comes up to the end of the connection."""
    received = b""
    with suppress(ConnectionError, ssl.SSLError):
        while more := client.socket.recv(65536):
            received += more
    client.close()
    return received


@kind
def malformed(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """A field without a colon."""
    answer = _answer(_either(ports, chance).send(_head("/malformed", "bad header")))
    sent.error("HPE_INVALID_HEADER_TOKEN", "/malformed")
    sent.expect(answer.startswith(b"HTTP/1.1 400 "), f"malformed: {answer[:40]!r}")


@kind
def handlers(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """A broken request whose handler misbehaves."""
    name = chance.choice([*HANDLERS])
    answer = _answer(_either(ports, chance).send(_head(f"/handler/{name}", "bad header")))
    sent.error("HPE_INVALID_HEADER_TOKEN", f"/handler/{name}")
    _, start = HANDLERS[name]
    sent.expect(answer.startswith(start), f"handler {name}: {answer[:40]!r}")


@kind
def slow_heads(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """A byte now and then, until the deadline."""
    client = _either(ports, chance).send(_head("/slow-head")[:-2])
    answer = b""

    def answered() -> bool:
        nonlocal answer
        try:
            answer = client.socket.recv(65536)
        except TimeoutError:
            client.send(b"x")
            return False
        return True

    client.socket.settimeout(0.3)
    with suppress(ConnectionError, ssl.SSLError):  # an answer may have come all the same
        wait_for(answered)
    client.socket.settimeout(PATIENCE)
    answer += _answer(client)
    sent.error("ERR_HTTP_REQUEST_TIMEOUT", "/slow-head")
    sent.expect(answer.startswith(b"HTTP/1.1 408 "), f"slow head: {answer[:40]!r}")


@kind
def hang_ups(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """FIN or RST, in any phase."""
    phase, reset = chance.choice(["idle", "head", "body", "begun"]), chance.random() < 0.5
    client = _either(ports, chance)
    target = f"/{phase}/hang-up/{'reset' if reset else 'fin'}"
    if phase == "head":
        client.send(_head(target)[:-2])
    elif phase == "body":
        client.send(_head(target, "Content-Length: 100", method="POST") + b"half")
    elif phase == "begun":
        client.send(_head(target)).read_until(b"begun")
    if reset:
        client.reset()
    else:
        client.end()
        _answer(client)
    if phase == "begun" or (reset and phase != "idle"):
        sent.error("ECONNRESET", target)
    elif phase != "idle":
        sent.error("HPE_INVALID_EOF_STATE", target)


@kind
def never_readers(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """A response that its client does not take."""
    client = Client(ports.plain, receive_buffer=4096).send(_head("/large/never"))
    _wait_for_end(client)
    client.close()
    sent.error("ETIMEDOUT", "/large/never")


def _wait_for_end(client: Client) -> None:
    """Wait, and read nothing, until the server has given the connection up."""

    def given_up() -> bool:
        return client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != _ESTABLISHED

    wait_for(given_up)


@kind
def breaks_off(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """A client that leaves in the middle of a large response."""
    client = Client(ports.plain).send(_head("/large/break"))
    client.read_until(b"\r\n\r\n")
    client.reset()
    sent.error("ECONNRESET", "/large/break")


@kind
def waiting_input(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """A body without end after a request that is being answered."""
    client = Client(ports.plain)
    client.send(_head("/begun/waiting")).read_until(b"begun")
    client.send(_head("/echo/never-run", "Transfer-Encoding: chunked", method="POST"))
    client.socket.settimeout(0.5)
    taken, chunk = 0, b"1\r\nx\r\n" * 10_000
    with suppress(TimeoutError):
        while taken < _WAITING_MOST:
            taken += client.socket.send(chunk)
    sent.expect(taken < _WAITING_MOST, f"{taken} bytes were taken that wait for their turn")
    client.reset()
    sent.error("ECONNRESET", "/begun/waiting")


@kind
def resources(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """Resources that raise, and whose responses are not as long as they said."""
    name = chance.choice(["raises", "short", "long"])
    client = _either(ports, chance)
    client.send(_head(f"/{name}/resource", "Connection: close"))
    head, _, body = _answer(client).partition(b"\r\n\r\n")
    sent.requests[f"/{name}/resource"] += 1
    if name == "raises":
        sent.expect(head.startswith(b"HTTP/1.1 500 "), f"raises: {head[:40]!r}")
    else:
        length = SHORT if name == "short" else ANNOUNCED
        sent.expect(len(body) == length, f"{name}: {len(body)} bytes of body")


@kind
def forms(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """Forms: good, with too many fields, nested, and broken."""
    name, status, code, content_type, body = chance.choice(_FORMS)
    target = f"/form/{name}"
    fields = [f"Content-Length: {len(body)}", f"Content-Type: {content_type}", "Connection: close"]
    client = _either(ports, chance)
    with suppress(ConnectionError, ssl.SSLError):
        client.send(_head(target, *fields, method="POST") + body)
    answer = _answer(client)
    if code is None:
        sent.requests[target] += 1
    else:
        sent.error(code, target)
    sent.expect(answer.startswith(b"HTTP/1.1 %d " % status), f"form {name}: {answer[:40]!r}")


def _part(head: str, content: str) -> str:
    return f"--b\r\n{head}\r\n\r\n{content}\r\n"


_URLENCODED: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data; boundary=b"
_FIELD: Final = "Content-Disposition: form-data; name=a"
_TOO_LARGE: Final = "ERR_HTTP_BODY_TOO_LARGE"
_LAST: Final = "--b--\r\n"
#: Name, status, code of the client error, content type and body.
_FORMS: Final[list[tuple[str, int, str | None, str, bytes]]] = [
    ("good", 200, None, _URLENCODED, b"a=b&c=d"),
    ("file", 200, None, _MULTIPART, (_part(_FIELD, "x" * 70_000) + _LAST).encode()),
    ("lines", 200, None, _MULTIPART, (_part(_FIELD, "\r\n" * 500_000) + _LAST).encode()),
    ("fields", 413, _TOO_LARGE, _URLENCODED, b"&".join([b"a=b"] * (_MOST_FIELDS + 1))),
    ("parameters", 413, _TOO_LARGE, _MULTIPART, _part(_FIELD + ";" * 20_000, "").encode()),
    ("unended", 400, "ERR_HTTP_MULTIPART", _MULTIPART, _part(_FIELD, "x").encode()),
]


@kind
def mutated(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """What the fuzz has made of requests, cut anywhere."""
    for pieces in mutants(_MUTANTS, chance.randrange(2**32)):
        client = _either(ports, chance)
        with suppress(ConnectionError, ssl.SSLError):
            for piece in pieces[:20]:
                client.send(piece)
            client.end()
        _answer(client)


@kind
def tls_garbage(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """What is no handshake, on the port of TLS."""
    client = Client(ports.tls)
    match chance.choice(["http", "noise", "hello", "reset"]):
        case "http":
            answer = _answer(client.send(_head("/plain")))
            sent.errors[None, "ERR_SSL_HTTP_REQUEST"] += 1
            sent.expect(answer.startswith(b"HTTP/1.1 400 "), f"plain HTTP: {answer[:40]!r}")
        case "noise":
            _answer(client.send(b"\x00" + chance.randbytes(300)))
            sent.errors[None, "handshake"] += 1
        case "hello":  # begun, and no more
            _answer(client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40)))
            sent.errors[None, "handshake"] += 1
        case "reset":  # nobody's fault, and no line
            client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").reset()


@kind
def h2_floods(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """Frames that do nothing."""
    frame = chance.choice([PingFrame(0), SettingsFrame(0), PriorityFrame(7), DataFrame(1)])
    client = H2Client(ports.tls)
    client.request(b"/never/flood", method=b"POST", end=False)
    client.ping()
    with suppress(OSError):
        client.raw(frame.serialize() * _FLOOD_FRAMES)
    with suppress(OSError):
        client.to_the_end()
    client.close()
    sent.errors[None, "ERR_HTTP2_ENHANCE_YOUR_CALM"] += 1
    answers = [code for code, _ in client.goaways]
    sent.expect(answers == [ENHANCE_YOUR_CALM], f"{type(frame).__name__} flood: {answers}")


@kind
def h2_resets(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """Requests that are given up."""
    client = H2Client(ports.tls)
    streams = [client.request(b"/never/reset") for _ in range(_RESETS)]
    client.ping()
    client.send(*(RstStreamFrame(stream, error_code=8) for stream in streams)).ping()
    client.close()
    sent.resets += _RESETS
    sent.requests["/never/reset"] += _RESETS


@kind
def h2_windows(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """Responses that there is no room for, and uploads without end."""
    client = H2Client(ports.tls, settings={4: 0})
    for _ in range(10):
        client.request(b"/large/window")
        stream = client.request(b"/echo/window", method=b"POST", end=False)
        client.data(stream, bytes(6000), end=False)
    client.ping()
    client.close()
    sent.requests["/large/window"] += 9  # and the one that is named by the error
    sent.error("ECONNRESET", "/large/window")
    sent.requests["/echo/window"] += 10


@kind
def h2_garbage(ports: Ports, sent: Sent, chance: random.Random) -> None:
    """Frames of any kind with any content."""
    client = H2Client(ports.tls)
    with suppress(OSError):
        for _ in range(20):
            size = chance.randrange(40)
            head = struct.pack(">I", size)[1:] + bytes([chance.randrange(12), chance.randrange(64)])
            client.raw(head + struct.pack(">I", chance.randrange(6)) + chance.randbytes(size))
        client.client.socket.settimeout(0.5)
        client.to_the_end()
    client.close()
