"""docs/cookbook/fail2ban.md: its filters over lines of a real server, and a real fail2ban."""

from __future__ import annotations

import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest
from support.cookbook import COOKBOOK, check, files, running, twistd
from support.documents import written_codes
from support.processes import connect, free_port
from support.wire import wait_for

from twisted_hangup.report.lookalikes import LOOKALIKES

pytestmark = pytest.mark.skipif(not shutil.which("fail2ban-regex"), reason="no fail2ban")

FILES: Final = files("fail2ban")
VICTIM: Final = "198.51.100.66"

BROKEN: Final = b"GET / HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n"
RDP: Final = b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00"
TLS: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"

#: Whatever a client puts where, it is its own address that is counted, or none.
HOSTILE: Final = [
    b'2026-11-29T08:00:00+0000 [twisted_hangup.console#warn] 400 HPE_STRICT "x" from %b:1\r\n\r\n',
    b'\r\n{"time": "2026-11-29T08:00:00.000Z", "code": "HPE_STRICT", "peer": "%b:1"}\r\n\r\n',
    b'GET /","peer":"%b:1 HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n',
    b'GET /x"(head)from:%b:1" HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n',
    b'GET /\\","peer":"%b:1","method":null HTTP/1.1\r\nHost: a\r\n"peer":%b x: 1\r\n\r\n',
    b'GET / HTTP/1.1\r\nHost: %b\r\n"peer":"%b": from %b:1\r\n\r\n',
    b'FROM%b" from %b:1 / HTTP/1.1\r\n\r\n',
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %b\r\nForwarded: for=%b\r\nBad Name: 1\r\n\r\n",
]
HARMLESS: Final = [
    TLS,
    b"GET / HTTP/1.1\r\n\r\n",  # no Host
    b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + b"a" * 20_000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
]


def from_client(host: str, wire: bytes) -> bytes:
    """*wire* after the PROXY header of a client at *host*."""
    family, ours = ("TCP6", "2001:db8::1") if ":" in host else ("TCP4", "192.0.2.1")
    return f"PROXY {family} {host} {ours} 40000 80\r\n".encode() + wire


def serve_and_send(folder: Path, wires: Iterable[bytes]) -> None:
    """Run the page's server behind PROXY headers in *folder* while clients send *wires*."""
    port = free_port()
    command = twistd(f"--port=haproxy:tcp:{port}", "--error-log=errors.log", "--max-body-size=1m")
    with running(folder, *command):
        for wire in wires:
            client = connect(port).send(wire)
            client.socket.shutdown(socket.SHUT_WR)
            client.read_all()
            client.close()
        for stalled in (b"GET / HTTP/1.1\r\nHo", b"POST / HTTP/1.1\r\nHost: a\r\n"):
            connect(port).send(from_client("192.0.2.50", stalled)).reset()
        wait_for(lambda: (folder / "errors.log").read_text().count("192.0.2.50") == 2)


def counted(folder: Path, log: str, name: str) -> list[str]:
    """The addresses that the filter *name* counts in *log*, once for each line."""
    filters = folder / "filters"
    filters.mkdir(exist_ok=True)
    for path, text in FILES.items():
        (filters / Path(path).name).write_text(text)
    text = check(folder, "fail2ban-regex", "--out=ip", log, filters / f"{name}.conf")
    return text.split()


@pytest.mark.parametrize(
    ("log", "name"), [("errors.log", "hangup"), ("server.log", "hangup-console")]
)
def test_filters_count_the_scanner_alone(tmp_path: Path, log: str, name: str) -> None:
    """A scanner counts each time, by IPv4 and IPv6; timeouts, hang-ups and mistakes never do, and
    nothing that a client sends makes another address count."""
    wires = [from_client("192.0.2.7", BROKEN), from_client("2001:db8::7", BROKEN)] * 2
    wires += [from_client("192.0.2.66", wire.replace(b"%b", VICTIM.encode())) for wire in HOSTILE]
    wires += [from_client("192.0.2.51", wire) for wire in HARMLESS]
    wires += [BROKEN]  # ERR_PROXY_PROTOCOL
    wires += [from_client("192.0.2.52", RDP)]
    serve_and_send(tmp_path, wires)
    addresses = Counter(counted(tmp_path, log, name))
    assert 4 < addresses.pop("192.0.2.66") <= len(HOSTILE)  # some of it is a known mistake
    expected = {"192.0.2.7": 2, "2001:db8::7": 2}
    assert addresses == (expected | {"192.0.2.52": 1} if name == "hangup" else expected)


def test_line_in_a_message_of_the_application(tmp_path: Path) -> None:
    """A text that an application logs, with a line break in it, is no line of its own."""
    (tmp_path / "careless.py").write_text(
        "from twisted.logger import Logger\n"
        "def note(failure, socket):\n"
        "    Logger().info('{t}', t='x\\n' + failure.value.raw_packet.decode('latin-1'))\n"
        "    print(failure.value.raw_packet.decode('latin-1'))\n"
        "    return failure\n"
    )
    port = free_port()
    command = twistd(f"--port=haproxy:tcp:{port}", "--on-client-error=careless.note")
    with running(tmp_path, *command):
        for wire in HOSTILE:
            client = connect(port)
            client.send(from_client("192.0.2.66", wire.replace(b"%b", VICTIM.encode())))
            client.read_all()
            client.close()
    assert f"from {VICTIM}:1" in (tmp_path / "server.log").read_text()
    assert {*counted(tmp_path, "server.log", "hangup-console")} == {"192.0.2.66"}


def test_codes_and_names_exist() -> None:
    """What the filter counts is among what the server says, and the page tells of no other code."""
    text = FILES["/etc/fail2ban/filter.d/hangup.conf"]
    [names] = re.findall(r"^_looks_like = (.*)$", text, re.M)
    assert {*names.split("|")} <= {*LOOKALIKES}
    page = (COOKBOOK / "fail2ban.md").read_text()
    assert {*re.findall(r"\b(?:HPE|ERR)_[A-Z0-9_]+[A-Z0-9]\b", page)} <= written_codes()


def test_fail2ban_bans(tmp_path: Path) -> None:
    """fail2ban follows the log of a server that runs, and bans the scanner with its fifth try."""
    config = tmp_path / "fail2ban"
    shutil.copytree("/etc/fail2ban", config, ignore=shutil.ignore_patterns("jail.d", "*.local"))
    (config / "jail.d").mkdir()
    for path, text in FILES.items():
        text = text.replace("/var/log/hangup/", f"{tmp_path}/")
        (config / Path(path).relative_to("/etc/fail2ban")).write_text(text)
    (config / "jail.d" / "test.local").write_text("[hangup]\naction = note\n")
    banned = tmp_path / "banned"
    (config / "action.d" / "note.conf").write_text(
        f"[Definition]\nactionban = echo <ip> >> {banned}\nactionunban =\n"
    )
    (config / "fail2ban.local").write_text(
        f"[Definition]\nlogtarget = {tmp_path}/fail2ban.log\nsocket = {tmp_path}/socket\n"
        f"pidfile = {tmp_path}/pid\ndbfile = None\n"
    )
    for log in ("errors.log", "fail2ban.log"):
        (tmp_path / log).touch()
    check(tmp_path, "fail2ban-client", "-c", config, "--test")
    with running(tmp_path, "fail2ban-server", "-f", "-c", config):
        wait_for(lambda: "Jail 'hangup' started" in (tmp_path / "fail2ban.log").read_text())
        innocent = [from_client("192.0.2.51", wire) for wire in HARMLESS]
        attacks = [from_client("192.0.2.66", BROKEN), from_client("2001:db8::66", RDP)] * 4
        serve_and_send(tmp_path, [*innocent, *attacks, from_client("192.0.2.66", BROKEN)])
        wait_for(lambda: banned.exists() and banned.read_text().endswith("\n"))
    assert banned.read_text().split() == ["192.0.2.66"]
