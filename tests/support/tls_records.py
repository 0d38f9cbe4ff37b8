"""TLS record by record: a client that makes its records by hand, and a server that notes them.

The handshake is OpenSSL's.  After it a client of TLS 1.3 protects itself what a test gives it
(RFC 8446, section 5.2), so that it can send what no library would.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.selectreactor import SelectReactor
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from twisted_hangup.transport.layers import transport_beneath
from twisted_hangup.transport.lean_tls import adopt_tls
from twisted_hangup.transport.sockets import JointWrites, adopted

from .certificates import server_context

HEADER: Final = 5

# RFC 8446, appendix B
ALERT: Final = 21
HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23

CLOSE_NOTIFY: Final = b"\x01\x00"
KEY_UPDATE: Final = b"\x18\x00\x00\x01\x00"
KEY_UPDATE_REQUESTED: Final = b"\x18\x00\x00\x01\x01"


class Protection:
    """The keys of one direction with TLS_AES_128_GCM_SHA256 (RFC 8446, sections 5.2 and 7.3)."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = AESGCM(_expanded(secret, b"key", 16))
        self._iv = int.from_bytes(_expanded(secret, b"iv", 12), "big")
        self._sequence_number = -1

    def updated(self) -> Protection:
        """The keys after a KeyUpdate (RFC 8446, section 7.2)."""
        return Protection(_expanded(self._secret, b"traffic upd", 32))

    def _next_nonce(self) -> bytes:
        self._sequence_number += 1
        return (self._iv ^ self._sequence_number).to_bytes(12, "big")

    def record(self, data: bytes, kind: int = APPLICATION_DATA, padding: int = 0) -> bytes:
        """A record of *data*."""
        inner = data + bytes([kind]) + bytes(padding)
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        return header + self._cipher.encrypt(self._next_nonce(), inner, header)

    def record_with(self, ciphertext: bytes, at: int, data: bytes) -> bytes:
        """A record of *data*, changed such that *ciphertext* is what stands at *at* in it."""
        sent = self.record(data)[at : at + len(ciphertext)]
        self._sequence_number -= 1
        start, end = at - HEADER, at - HEADER + len(ciphertext)
        triples = zip(data[start:end], sent, ciphertext, strict=True)
        return self.record(data[:start] + bytes(a ^ b ^ c for a, b, c in triples) + data[end:])

    def opened(self, record: bytes) -> tuple[int, bytes]:
        """The content type of *record*, and its data."""
        header, fragment = record[:HEADER], record[HEADER:]
        inner = self._cipher.decrypt(self._next_nonce(), fragment, header).rstrip(b"\0")
        return inner[-1], inner[:-1]


def _expanded(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label without a context (RFC 8446, section 7.1)."""
    label = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
    return HKDFExpand(SHA256(), length, info).derive(secret)


@cache
def reactor() -> Any:
    """A reactor that turns only when it is asked to."""
    return SelectReactor()


@cache
def joint_writes() -> JointWrites:
    """Of all servers, as of one site."""
    return JointWrites(reactor())


class Lines:
    """A push producer of 200,000 lines, more than one turn sends, which closes after the last."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.left = 200_000
        self.paused = 0
        transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self.running = True
        while self.running and self.left:
            self.transport.write(b"%07d\n" % self.left)
            self.left -= 1
        if not self.left and self.running:
            self.running = False
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def pauseProducing(self) -> None:
        self.running = False
        self.paused += 1

    stopProducing = pauseProducing


class Fills:
    """A push producer that leaves no room at once, and answers when there is some again."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        transport.registerProducer(self, True)
        transport.transport.bufferSize = 10
        transport.transport._room = 0  # nor may anything be sent at once
        transport.write(b"more than that")

    def resumeProducing(self) -> None:
        self.transport.unregisterProducer()
        self.transport.write(b"room")

    def pauseProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


class Breaks(Fills):
    """The same, which fails when it is told that there is no room."""

    def pauseProducing(self) -> None:
        raise ZeroDivisionError


def _close(transport: Any) -> None:
    transport.write(b"bye")
    transport.loseConnection()


def _echo(transport: Any, data: bytes) -> None:
    transport.write(b"%d bytes: " % len(data))
    transport.write(data[:10])


class Notes(Protocol):
    """Notes what it hears, and obeys; what is no order is answered in two writes."""

    ORDERS: Final[dict[bytes, Callable[[Any], object]]] = {
        b"abort": lambda transport: transport.abortConnection(),
        b"breaks": Breaks,
        b"close": _close,
        b"fills": Fills,
        b"later": lambda transport: reactor().callLater(0, transport.write, b"now"),
        b"lines": Lines,
        b"much": lambda transport: transport.write(bytes(100_000)),
    }

    def __init__(self, events: list[Any], lean: bool) -> None:
        self.events = events
        self.lean = lean

    def connectionMade(self) -> None:
        if self.lean:
            socket: Any = adopted(transport_beneath(self.transport))
            socket.join(joint_writes())
            adopt_tls(self.transport, socket, joint_writes())

    def dataReceived(self, data: bytes) -> None:
        self.events.append(data)
        if (order := self.ORDERS.get(data)) is not None:
            order(self.transport)
        else:
            _echo(self.transport, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        error: Any = reason.value
        self.events.append((type(error).__name__, error.args))


class Conversation:
    """A client and a server of TLS on a UNIX socket, turn by turn of a reactor of their own.

    Args:
        kind: The class of the server's transport.
        lean: Whether the server adopts it.
        version: Of TLS.
        cut: How much of each flight of the client's handshake comes in a read of its own.

    Attributes:
        client: OpenSSL's half of the client.
        events: What the server's protocol was given, and how it lost the connection.
        factory: The server's.
        server: Its transport.
        protection: Of what the client sends, after the handshake of TLS 1.3.
    """

    def __init__(
        self,
        kind: type[BufferingTLSTransport] = BufferingTLSTransport,
        *,
        lean: bool,
        version: int = SSL.TLS1_3_VERSION,
        cut: int = 0,
    ) -> None:
        self.events: list[Any] = []
        notes: Any = Factory.forProtocol(lambda: Notes(self.events, lean))
        notes.noisy = False
        self.factory = TLSMemoryBIOFactory(server_context(), False, notes, clock=reactor())
        self.factory.protocol = kind
        self.socket = socket.socket(socket.AF_UNIX)
        with TemporaryDirectory() as folder:
            port = reactor().listenUNIX(f"{folder}/socket", self.factory)
            self.socket.connect(f"{folder}/socket")
            self.turn()
            port.stopListening()
            self.turn()
        self.socket.setblocking(False)
        (self.server,) = self.factory.protocols
        self.received = b""
        self._secrets: dict[str, bytes] = {}
        self.client = self._client(version)
        self._handshake(cut)
        if version == SSL.TLS1_3_VERSION:
            self.protection = Protection(self._secrets["CLIENT_TRAFFIC_SECRET_0"])
            self._servers = Protection(self._secrets["SERVER_TRAFFIC_SECRET_0"])
            self.opened()  # session tickets

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.socket.close()
        self.turn()

    def _client(self, version: int) -> SSL.Connection:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        context.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256")
        context.set_keylog_callback(self._note_secret)
        client = SSL.Connection(context)
        client.set_connect_state()
        return client

    def _note_secret(self, client: SSL.Connection, line: bytes) -> None:
        name, _, secret = line.decode().split()
        self._secrets[name] = bytes.fromhex(secret)

    def _handshake(self, cut: int) -> None:
        done = False
        while not done:
            try:
                self.client.do_handshake()
                done = True
            except SSL.WantReadError:
                pass
            flight = self.output()
            self.send(flight[:cut], flight[cut:])
            if not done:
                self.client.bio_write(self.read())

    def output(self) -> bytes:
        """What OpenSSL has to send for the client."""
        try:
            return self.client.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""

    def turn(self) -> None:
        """Let the server do all that it can do now."""
        for _ in range(6):
            reactor().iterate(0)

    def send(self, *pieces: bytes) -> None:
        """Let the server read *pieces*, one by one."""
        for piece in pieces:
            with suppress(BrokenPipeError):
                self.socket.sendall(piece)
            self.turn()

    def read(self) -> bytes:
        """What has come from the server, in whole records or not."""
        data = b""
        with suppress(BlockingIOError, ConnectionResetError):
            while more := self.socket.recv(1 << 20):
                data += more
                self.turn()
        return data

    def records(self) -> list[bytes]:
        """The records that have come from the server since the last time."""
        self.received += self.read()
        records = []
        while len(self.received) >= (end := int.from_bytes(self.received[3:5], "big") + HEADER):
            records.append(self.received[:end])
            self.received = self.received[end:]
        return records

    def opened(self) -> list[tuple[int, bytes]]:
        """The same, opened; in TLS 1.3."""
        opened = []
        for record in self.records():
            opened.append(self._servers.opened(record))
            if opened[-1] == (HANDSHAKE, KEY_UPDATE):
                self._servers = self._servers.updated()
        return opened
