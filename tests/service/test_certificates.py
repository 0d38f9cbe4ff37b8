"""Certificates that are renewed while the server runs, on real sockets."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.certificates import certificate_and_key
from support.wire import PATIENCE, Client, in_thread, pause, until
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.python.usage import UsageError

from twisted_hangup.service import Options, makeService
from twisted_hangup.service.certificates import (
    LOOK_SECONDS,
    TICKET_KEY_SECONDS,
    RenewedEndpoint,
)
from twisted_hangup.service.ports import endpoint
from twisted_hangup.service.serving import HangupService

# Of Twisted's use of pyOpenSSL, when it reads a directory.
pytestmark = pytest.mark.filterwarnings("ignore:X509.* is deprecated:DeprecationWarning")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

Run = Callable[..., HangupService]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Start a service on these ports, with relative paths; it is stopped in the end."""
    monkeypatch.chdir(tmp_path)
    started: list[HangupService] = []

    def start(*ports: str, status: str | None = None) -> HangupService:
        options = Options()
        words = [f"--port={port}" for port in ports]
        options.parseOptions([*words, *([] if status is None else [f"--status={status}"])])
        service: Any = makeService(options)
        started.append(service)
        service.startService()
        os.chdir("/")  # as a daemon may
        return started[-1]

    yield start
    for service in started:
        pytest_twisted.blockon(service.stopService())


def number_of(service: HangupService) -> int:
    host: Any = service.ports[0].getHost()
    return int(host.port)


async def serial_for(port: int, host: str | None = "localhost", alpn: str = "http/1.1") -> int:
    """The serial number of the certificate that a new client gets; it agrees on *alpn*."""

    def shake_hands() -> int:
        context = ssl._create_unverified_context()
        context.set_alpn_protocols([alpn])
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=host) as client,
        ):
            certificate = client.getpeercert(True)
            assert certificate is not None and client.selected_alpn_protocol() == alpn
            return x509.load_der_x509_certificate(certificate).serial_number

    serial: int = await in_thread(shake_hands)
    return serial


async def serial_becomes(serial: int, port: int, host: str | None = "localhost") -> None:
    async def is_there() -> bool:
        return await serial_for(port, host) == serial

    await until(is_there)


FILES = "ssl:0:privateKey=key.pem:certKey=cert.pem:interface=127.0.0.1"
ONE_FILE = "ssl:0:interface=127.0.0.1"  # which Twisted looks for in server.pem
DIRECTORY = r"tls:pems:0:interface=127.0.0.1"


def renew(folder: Path, serial: int, host: str = "localhost") -> None:
    """Write a new pair for each kind of port, the key first, as some do."""
    certificate, key = certificate_and_key(host, serial)
    (folder / "pems").mkdir(exist_ok=True)
    (folder / "key.pem").write_bytes(key)
    (folder / "cert.pem").write_bytes(certificate)
    (folder / "server.pem").write_bytes(certificate + key)
    (folder / "new").write_bytes(certificate + key)
    (folder / "new").rename(folder / "pems" / f"{host}.pem")


@pytest.mark.parametrize("port", [FILES, ONE_FILE, DIRECTORY])
@pytest_twisted.ensureDeferred
async def test_renewed(
    run: Run, tmp_path: Path, port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New clients get the new certificate, at the next look; who is connected stays so."""
    looks: list[float] = []
    look = RenewedEndpoint.look

    def counted(self: RenewedEndpoint, now: float) -> None:
        look(self, now)
        looks.append(now)

    monkeypatch.setattr(RenewedEndpoint, "look", counted)
    renew(tmp_path, 1)
    number = number_of(run(port))
    client = await in_thread(lambda: Client(number, tls=True).send(GET))
    await in_thread(lambda: client.read_until(b"</html>"))
    for serial in (2, 3):
        renew(tmp_path, serial)
        before = len(looks)
        await until(lambda: len(looks) > before)  # noqa: B023  # in this round
        assert await serial_for(number) == serial
    page = await in_thread(lambda: client.send(GET).read_until(b"</html>"))
    assert b"HTTP/1.1 200 " in page
    client.close()


class Visitor:
    """A client that speaks one version of TLS, and keeps a session for its next connection."""

    def __init__(self, port: int, version: ssl.TLSVersion, host: str = "localhost") -> None:
        self.port = port
        self.host = host
        self.session: ssl.SSLSession | None = None
        self.context = ssl._create_unverified_context()
        self.context.minimum_version = self.context.maximum_version = version

    async def visit(self) -> tuple[bool, int]:
        """Whether a new connection resumes the session, and the serial number it is served with."""
        visit: tuple[bool, int] = await in_thread(self._visit)
        return visit

    def _visit(self) -> tuple[bool, int]:
        with (
            socket.create_connection(("127.0.0.1", self.port), PATIENCE) as plain,
            self.context.wrap_socket(
                plain, server_hostname=self.host, session=self.session
            ) as client,
        ):
            client.sendall(GET)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
            certificate = client.getpeercert(True)
            assert certificate is not None
            self.session = client.session
            serial = x509.load_der_x509_certificate(certificate).serial_number
            return bool(client.session_reused), serial


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("port", [FILES, DIRECTORY])
@pytest_twisted.ensureDeferred
async def test_resumed(run: Run, tmp_path: Path, port: str, version: ssl.TLSVersion) -> None:
    """A session is resumed until the certificate is renewed; then the handshake is a full one."""
    renew(tmp_path, 1)
    service = run(port)
    visitor = Visitor(number_of(service), version)
    assert [await visitor.visit() for _ in range(3)] == [(False, 1), (True, 1), (True, 1)]
    renew(tmp_path, 2)
    service.read_certificates()
    assert [await visitor.visit() for _ in range(3)] == [(False, 2), (True, 2), (True, 2)]


@pytest.mark.parametrize("port", [FILES, DIRECTORY])
@pytest_twisted.ensureDeferred
async def test_keys_of_tickets(run: Run, tmp_path: Path, port: str) -> None:
    """They live for a day at most, and the certificate stays."""
    renew(tmp_path, 1)
    service = run(port)
    service._looks.stop()
    [renewing] = service._renewed
    visitor = Visitor(number_of(service), ssl.TLSVersion.TLSv1_2)
    assert await visitor.visit() == (False, 1)
    for now, resumed in ((0, True), (TICKET_KEY_SECONDS - 1, True), (TICKET_KEY_SECONDS, False)):
        renewing.look(now)
        assert await visitor.visit() == (resumed, 1)
    assert await visitor.visit() == (True, 1)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest_twisted.ensureDeferred
async def test_resumed_for_each_name(run: Run, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A directory resumes sessions for all its names, and for those that it has none for."""
    names = ("a.example", "b.example", "c.example", "other")
    for serial, host in enumerate(names[:-1], 1):
        renew(tmp_path, serial, host)
    number = number_of(run(DIRECTORY))
    for serial, host in enumerate(names, 1):
        visitor = Visitor(number, version, host)
        visits = [await visitor.visit() for _ in range(3)]
        assert [resumed for resumed, _ in visits] == [False, True, True]
        assert host == "other" or {got for _, got in visits} == {serial}


@pytest.mark.parametrize("port", [FILES, DIRECTORY])
@pytest_twisted.ensureDeferred
async def test_of_no_use(run: Run, tmp_path: Path, port: str, expected_errors: Any) -> None:
    """A key without its certificate changes nothing; it is told once."""
    renew(tmp_path, 1)
    number = number_of(run(port))
    with capturedLogs() as events:
        certificate, key = certificate_and_key("localhost", 2)
        pair = tmp_path / "pems" / "localhost.pem"
        (tmp_path / "key.pem").write_bytes(key)
        pair.write_bytes(key)
        await until(lambda: complaints(events))
        await pause(3 * LOOK_SECONDS)
        assert len(complaints(events)) == 1
        assert await serial_for(number) == 1
        (tmp_path / "cert.pem").write_bytes(certificate)
        pair.write_bytes(certificate + key)
        await serial_becomes(2, number)
    assert len(complaints(events)) == 1
    expected_errors.flush()


def complaints(events: Sequence[LogEvent]) -> list[str]:
    texts = [formatEvent(event) for event in events]
    return [text for text in texts if text.startswith("Cannot use the certificates in /")]


@pytest.mark.parametrize("gone", ["cert.pem", "pems"])
@pytest_twisted.ensureDeferred
async def test_gone(run: Run, tmp_path: Path, gone: str, expected_errors: Any) -> None:
    """What is not there any more is served on."""
    renew(tmp_path, 1)
    service = run(FILES if gone == "cert.pem" else DIRECTORY)
    with capturedLogs() as events:
        (tmp_path / gone).rename(tmp_path / "moved")
        await until(lambda: complaints(events))
    assert await serial_for(number_of(service)) == 1
    expected_errors.flush()


@pytest_twisted.ensureDeferred
async def test_names(run: Run, tmp_path: Path) -> None:
    """A directory has one for each name, and wildcards; the first is for all others."""
    for serial, host in enumerate(["a.example", "*.example"], 1):
        renew(tmp_path, serial, host)
    for number in range(10):  # wherever they stand in the directory
        (tmp_path / "pems" / f"{number}.pem").symlink_to("nowhere")
    number = number_of(run(DIRECTORY))
    assert await serial_for(number, "a.example") == 1
    assert await serial_for(number, "A.Example", alpn="h2") == 1
    assert await serial_for(number, "b.example", alpn="h2") == 2
    with capturedLogs() as events:
        others = {await serial_for(number, name) for name in ("b.c.example", "other", None)}
    assert len(others) == 1 and others < {1, 2}
    assert not [event for event in events if "domain" in formatEvent(event)]
    renew(tmp_path, 3, "other")
    await serial_becomes(3, number, "other")
    (tmp_path / "pems" / "other.pem").write_bytes(b"".join(certificate_and_key("other", 4)))
    await serial_becomes(4, number, "other")
    (tmp_path / "pems" / "a.example.pem").unlink()
    await serial_becomes(2, number, "a.example")


@pytest_twisted.ensureDeferred
async def test_read_at_once(run: Run, tmp_path: Path) -> None:
    """SIGHUP waits for no look, and also means the status page."""
    renew(tmp_path, 1)
    service = run("tcp:0:interface=127.0.0.1", status=FILES)
    [status] = service._companions
    renew(tmp_path, 2)
    service.read_certificates()
    assert await serial_for(number_of(status)) == 2


@pytest.mark.parametrize(
    "chain, root",
    [("LIR", None), ("LRR", "2"), ("LIRR", "3"), ("LABA", "2"), ("LIABA", "3"), ("LL", None)],
)
def test_root_in_a_directory(run: Run, tmp_path: Path, chain: str, root: str | None) -> None:
    """Each letter of *chain* is certified by the next; a circle is refused, and named."""
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in chain}
    names = {
        name: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in chain
    }
    now = datetime.datetime.now(datetime.timezone.utc)
    for number, (subject, issuer) in enumerate(pairwise(chain), 1):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(names[subject])
            .issuer_name(names[issuer])
            .public_key(keys[subject].public_key())
            .serial_number(number)
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
            .sign(keys[issuer], hashes.SHA256())
        )
        (tmp_path / f"{number}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    key = keys["L"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(key)
    if root is None:
        run(f"tls:{tmp_path}:0")
        return
    with pytest.raises(UsageError, match=rf"{root}\.pem has a root certificate"):
        run(f"tls:{tmp_path}:0")


@pytest.mark.parametrize("directory", ["empty", "certificate", "key"])
def test_directory_without_use(run: Run, tmp_path: Path, directory: str) -> None:
    """It is refused at the start, where its clients would be blamed later."""
    for name in ("empty", "certificate", "key"):
        (tmp_path / name).mkdir()
    certificate, key = certificate_and_key("localhost", 1)
    (tmp_path / "certificate" / "a.pem").write_bytes(certificate)
    (tmp_path / "key" / "a.pem").write_bytes(key)
    with pytest.raises(UsageError, match=r"no PEM file in .* has a certificate for a name"):
        run(f"tls:{directory}:0")


@pytest.mark.parametrize(
    "port, words",
    [
        ("tls:nowhere:0", "there is no directory /.*/nowhere"),
        ("tls:broken:0", "cannot read /.*/broken/b.pem: "),
        ("ssl:0", "ssl needs privateKey=FILE, and certKey=FILE"),
        ("ssl:0:privateKey=nowhere.pem", "cannot read 'nowhere.pem': No such file"),
        ("ssl:0:privateKey=text.pem", "'text.pem' holds no PEM private key"),
        ("ssl:0:privateKey=key.pem", "'key.pem' holds no PEM certificate"),
        ("ssl:0:privateKey=key.pem:certKey=text.pem", "'text.pem' holds no PEM certificate"),
        ("ssl:0:privateKey=key.pem:certKey=other.pem", "do not match"),
    ],
)
def test_file_without_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: str, words: str
) -> None:
    """It is named, by the name that the operator has given it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()
    certificate, key = certificate_and_key("localhost", 1)
    (tmp_path / "broken" / "a.pem").write_bytes(certificate + key)
    lines = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (tmp_path / "broken" / "b.pem").write_bytes(lines)
    (tmp_path / "text.pem").write_text("text")
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "other.pem").write_bytes(certificate_and_key("localhost", 2)[0])
    with pytest.raises(UsageError, match=words):
        endpoint(port, MemoryReactorClock())
