"""docs/cookbook/{nginx,haproxy,caddy}.md: the configurations, before a real server."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.request import urlopen

import pytest
from support.certificates import certificate_and_key
from support.cookbook import COOKBOOK, check, files, running, twistd
from support.processes import connect, free_port
from support.wire import PATIENCE, statuses, wait_for

CLIENT: Final = "127.0.0.9"

_HEAD: Final = b"Host: example.org\r\nConnection: close\r\n"
_GET: Final = b"GET / HTTP/1.1\r\n" + _HEAD
_POST: Final = b"POST / HTTP/1.1\r\n" + _HEAD
_CHUNKS: Final = b"Transfer-Encoding: chunked\r\n\r\n"
_MIB: Final = 2**20

GET: Final = _GET + b"X-Forwarded-For: 6.6.6.6\r\n\r\n"

#: What the first column of the table says.
WIRES: Final = {
    "TLS on the plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a space in a header name": _GET + b"Bad Name: 1\r\n\r\n",
    "both Content-Length and Transfer-Encoding": (
        _POST + b"Content-Length: 5\r\n" + _CHUNKS + b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "an invalid chunk size": _POST + _CHUNKS + b"xyz\r\nhello\r\n0\r\n\r\n",
    "no `Host`": b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
    "an invalid `Host`": b"GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n",
    "a method that nobody knows": b"FOO / HTTP/1.1\r\n" + _HEAD + b"\r\n",
    "a letter outside of ASCII in the target": b"GET /\xc3\xa9 HTTP/1.1\r\n" + _HEAD + b"\r\n",
    "a control character in a header": _GET + b"X: a\x01b\r\n\r\n",
    "60 KiB of headers": _GET + (b"Cookie: " + b"a" * 6134 + b"\r\n") * 10 + b"\r\n",
    "a body of 11 MiB": _POST + b"Content-Length: %d\r\n\r\n" % (11 * _MIB) + b"a" * 11 * _MIB,
    "a body of 11 MiB in chunks": (
        _POST + _CHUNKS + (b"100000\r\n" + b"a" * _MIB + b"\r\n") * 11 + b"0\r\n\r\n"
    ),
    "half a head, and leaves": b"GET / HTTP/1.1\r\nHo",
    "half a body, and leaves": _POST + b"Content-Length: 500000\r\n\r\n" + b"a" * 300_000,
    "a request, and leaves before the response": b"GET /slow HTTP/1.1\r\n" + _HEAD + b"\r\n",
}

SITE: Final = """\
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Site(Resource):
    isLeaf = True

    def render_GET(self, request):
        if request.path == b"/slow":
            return NOT_DONE_YET
        names = (request.getHeader("host"), request.getHeader("x-forwarded-proto"))
        return " ".join([request.getClientIP(), *map(str, names)]).encode() + b"\\n"

    def render_POST(self, request):
        return b"%d\\n" % len(request.content.read())


root = Site()
"""


#: What the server waits for when a client leaves, where the proxy lets it know of the client.
LEAVES_IN: Final = {
    "half a body, and leaves": "body",
    "a request, and leaves before the response": "response",
}


class Ports(NamedTuple):
    server: int
    plain: int
    tls: int
    status: int

    def has_reached(self, phase: str) -> bool:
        """Whether the server has a connection in that phase."""
        url = f"http://127.0.0.1:{self.status}/metrics"
        with urlopen(url, timeout=PATIENCE) as metrics:
            return f'hangup_open_connections{{phase="{phase}"}} ' in metrics.read().decode()


def changed(config: str, changes: dict[str, str]) -> str:
    """*config* with ports and folders that a test may use; each of *changes* is in it."""
    for theirs, ours in changes.items():
        assert theirs in config
        config = config.replace(theirs, ours)
    return config


def nginx(folder: Path, ports: Ports) -> list[str]:
    changes = {
        "listen 80;": f"listen 127.0.0.1:{ports.plain};",
        "listen 443": f"listen 127.0.0.1:{ports.tls}",
        "127.0.0.1:8000": f"127.0.0.1:{ports.server}",
        "/etc/letsencrypt/live/example.org": str(folder),
    }
    config = changed(files("nginx")["/etc/nginx/conf.d/hangup.conf"], changes)
    return nginx_with(folder, f"http {{ access_log off; {temporary(folder)} {config} }}")


def temporary(folder: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)


def nginx_with(folder: Path, config: str) -> list[str]:
    (folder / "nginx.conf").write_text(
        f"user root; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        f"events {{}}\n{config}\n"
    )
    return ["nginx", "-p", str(folder), "-e", str(folder / "nginx.log"), "-c", "nginx.conf"]


def haproxy(folder: Path, ports: Ports) -> list[str]:
    changes = {
        "bind :80": f"bind 127.0.0.1:{ports.plain}",
        "bind :443": f"bind 127.0.0.1:{ports.tls}",
        "127.0.0.1:8000": f"127.0.0.1:{ports.server}",
        "/etc/haproxy/certs/": f"{folder}/certs/",
        "    user haproxy\n    group haproxy\n": "",
        "/dev/log": "127.0.0.1:9",
    }
    config = changed(files("haproxy")["/etc/haproxy/haproxy.cfg"], changes)
    (folder / "haproxy.cfg").write_text(config)
    check(folder, "haproxy", "-c", "-f", "haproxy.cfg")
    return ["haproxy", "-db", "-f", "haproxy.cfg"]


def caddy(folder: Path, ports: Ports) -> list[str]:
    changes = {
        "127.0.0.1:8000": f"127.0.0.1:{ports.server}",
        "example.org": f"http://:{ports.plain}",
        "{\n\tservers": "{\n\tadmin off\n\tservers",
    }
    config = changed(files("caddy")["/etc/caddy/Caddyfile"], changes)
    (folder / "Caddyfile").write_text(config)
    check(folder, "caddy", "validate", "--config", "Caddyfile", "--adapter", "caddyfile")
    return ["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"]


PROXIES: Final[dict[str, Callable[[Path, Ports], list[str]]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "caddy": caddy,
}


def send(port: int, wire: bytes, *, leave: Callable[[], object] | None = None) -> bytes:
    """What comes for *wire*, from an address that is nobody else's here.

    With *leave* the client does when that is true.
    """
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        client.bind((CLIENT, 0))
        client.connect(("127.0.0.1", port))
        with suppress(ConnectionError):  # it may have its answer before
            client.sendall(wire)
        received = b""
        if leave:
            wait_for(leave)
            client.settimeout(0.3)  # in which an answer would come
        with suppress(ConnectionResetError, TimeoutError):
            while more := client.recv(65536):
                received += more
    return received


def command(page: str, ports: Ports) -> list[str]:
    """The server that the page starts first, on its port, with a status page."""
    [line] = re.findall(
        r"^    twistd -n hangup (--port tcp:.*)$", (COOKBOOK / page).read_text(), re.M
    )
    line = line.replace("tcp:8000", f"tcp:{ports.server}").replace(
        "--path ./public", "--resource mysite.root"
    )
    return twistd(*line.split(), f"--status={ports.status}")


@contextmanager
def served(folder: Path, name: str) -> Iterator[Ports]:
    """The page's server and the page's proxy, once both answer."""
    if shutil.which(name) is None:
        pytest.skip(f"no {name}")
    (folder / "mysite.py").write_text(SITE)
    certificate, key = certificate_and_key("example.org", 1)
    (folder / "fullchain.pem").write_bytes(certificate)
    (folder / "privkey.pem").write_bytes(key)
    (folder / "certs").mkdir()
    (folder / "certs" / "example.org.pem").write_bytes(certificate + key)
    ports = Ports(*(free_port() for _ in Ports._fields))
    with ExitStack() as programs:
        server = programs.enter_context(running(folder, *command(f"{name}.md", ports)))
        connect(ports.server).close()
        programs.enter_context(running(folder, *PROXIES[name](folder, ports)))
        wait_for(lambda: answer(ports.plain).endswith(b" http\n"))
        yield ports
        server.terminate()
        server.wait(PATIENCE)
        wait_for(lambda: b"The site does not answer. Try again" in answer(ports.plain))
        assert b"\r\nretry-after: 10\r\n" in answer(ports.plain).lower()


def answer(port: int) -> bytes:
    with suppress(ConnectionError):
        return send(port, GET)
    return b""


def rows(name: str) -> Iterator[list[str]]:
    """The table of what reaches the server."""
    _, _, section = (
        (COOKBOOK / f"{name}.md").read_text().partition("\n## What reaches the server\n")
    )
    for row in re.findall(r"^\| (.*) \|$", section.split("\n## ")[0], re.M)[1:]:
        yield row.split(" | ")


@pytest.mark.parametrize("name", [*PROXIES])
def test_what_reaches_the_server(tmp_path: Path, name: str) -> None:
    """The server knows its client; of broken requests each gets, and logs, what the table says;
    and while the server is down a client reads so."""
    log = tmp_path / "errors.log"
    shown: dict[str, list[str]] = {row[0]: row[1:] for row in rows(name)}
    assert [*shown] == [*WIRES]
    with served(tmp_path, name) as ports:
        assert send(ports.plain, GET).endswith(f"{CLIENT} example.org http\n".encode())
        if name != "caddy" and shutil.which("curl"):
            url = f"https://127.0.0.1:{ports.tls}/"
            text = check(tmp_path, "curl", "-sk", "--http2", "-w", "%{http_version}", url)
            assert text == f"127.0.0.1 127.0.0.1:{ports.tls} https\n2"
        for sent, (gets, logged) in shown.items():
            before = len(errors(log))
            leave = None
            if "leaves" in sent:
                phase = LEAVES_IN.get(sent) if logged != "nothing" else None
                leave = partial(ports.has_reached, phase) if phase else lambda: True
            received = send(ports.plain, WIRES[sent], leave=leave)
            assert of_whom(received) == gets.split(": ")[0], sent
            assert [*map(str, statuses(received))] == re.findall(r"\d+", gets), sent
            if logged == "nothing":
                send(ports.plain, GET)  # a moment, in which it would come
                assert len(errors(log)) == before, sent
            else:
                wait_for(lambda before=before: len(errors(log)) > before)  # type: ignore[misc]
                [error] = errors(log)[before:]
                [(code, peer)] = re.findall(r"^`(\w+)` from (.*)$", logged)
                assert error["code"] == code, sent
                assert error["peer"].startswith(CLIENT if peer == "the client" else "127.0.0.1:")


def errors(log: Path) -> list[Any]:
    return [*map(json.loads, log.read_text().splitlines())] if log.exists() else []


#: What a page of the proxies and one of the server's look like.
OF_WHOM: Final = {
    "nginx": rb"^<hr><center>nginx",
    "HAProxy": rb"^<html><body><h1>\d+ ",
    "Caddy": rb"^\d{3} [A-Z]|^The site does not answer",
    "the server": rb"The server cannot read this|The request is larger than|^5\n|127\.0\.0\.9 ",
}


def of_whom(received: bytes) -> str:
    if not received:
        return "nothing"
    return next(name for name, text in OF_WHOM.items() if re.search(text, received, re.M))


@pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx")
def test_nginx_as_a_stream(tmp_path: Path) -> None:
    """Every broken request reaches the server, and has its client's address."""
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    if not module.exists():
        pytest.skip("no libnginx-mod-stream")
    server, front = free_port(), free_port()
    config = files("nginx")["/etc/nginx/modules-enabled/90-hangup.conf"]
    config = config.replace("listen 8080", f"listen 127.0.0.1:{front}").replace("8001", str(server))
    (tmp_path / "public").mkdir()
    proxy = nginx_with(tmp_path, config)
    text = (tmp_path / "nginx.conf").read_text()
    (tmp_path / "nginx.conf").write_text(f"load_module {module};\n{text}")
    port = f"--port=haproxy:tcp:{server}:interface=127.0.0.1"
    with (
        running(tmp_path, *twistd(port, "--path=public", "--error-log=errors.log")),
        running(tmp_path, *proxy),
    ):
        connect(server).close()
        connect(front).close()
        assert statuses(send(front, WIRES["a space in a header name"])) == [400]
    [*_, error] = errors(tmp_path / "errors.log")
    assert error["code"] == "HPE_INVALID_HEADER_TOKEN"
    assert error["peer"].startswith(f"{CLIENT}:")
