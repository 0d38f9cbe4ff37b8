"""What --port may be with workers: all that gets its sockets from the reactor."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from support.certificates import pem
from support.processes import BIN, free_port
from support.wire import PATIENCE, Client, wait_for
from support.workers import STOPPED, Program
from support.workers import start as start

Start = Callable[..., Program]

GET = b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"
PROXY = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"


def asked(client: Client, wire: bytes = GET) -> bytes:
    with closing(client):
        return client.send(wire).read_all()


def test_every_kind_of_endpoint(start: Start, tmp_path: Path) -> None:
    """Also after a replacement, and a plain request to a TLS port is answered."""
    (tmp_path / "key.pem").write_bytes(pem())
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "localhost.pem").write_bytes(pem())
    ports = [free_port() for _ in range(5)]
    program = start(
        f"--port=tcp:{ports[0]}:interface=127.0.0.1",
        f"--port=tcp6:{ports[1]}:interface=\\:\\:1",
        f"--port=ssl:{ports[2]}:privateKey=key.pem:interface=127.0.0.1",
        f"--port=tls:certificates:port={ports[3]}:interface=127.0.0.1",
        f"--port=haproxy:tcp:{ports[4]}:interface=127.0.0.1",
        "--port=unix:plain.sock",
        "--port=haproxy:unix:proxy.sock",
    ).started()

    def all_are_served() -> None:
        assert asked(Client(ports[0])).endswith(b"version 1")
        with socket.create_connection(("::1", ports[1]), PATIENCE) as client:
            client.sendall(GET)
            answer = b"".join(iter(partial(client.recv, 1000), b""))
            assert answer.endswith(b"version 1")
        for port in ports[2:4]:
            assert asked(Client(port, tls=True)).endswith(b"version 1")
            assert b"HTTP/1.1 400" in asked(Client(port))
        assert asked(Client(ports[4]), PROXY + GET).endswith(b"version 1")
        assert asked(Client(str(tmp_path / "plain.sock"))).endswith(b"version 1")
        assert asked(Client(str(tmp_path / "proxy.sock")), PROXY + GET).endswith(b"version 1")

    all_are_served()
    program.process.send_signal(1)
    program.wait_for("serves", times=4)
    program.wait_for(") has ended", times=2)
    all_are_served()
    assert program.end() in STOPPED


OF_SYSTEMD = """
import os, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o600)
listening.listen(7)
named = socket.create_server(("127.0.0.1", int(sys.argv[2])))
for one, number in ((listening, 13), (named, 14)):
    os.dup2(one.fileno(), number)
os.dup2(13, 3)
os.dup2(14, 4)
os.environ.update(LISTEN_FDS="2", LISTEN_FDNAMES="local:web", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[3], sys.argv[3:])
"""


def test_sockets_of_systemd(start: Start, tmp_path: Path) -> None:
    """They are found by name; mode and path of a UNIX socket stay, also after the end."""
    path, port = tmp_path / "of_systemd", free_port()
    launcher = tmp_path / "launch"
    launcher.write_text(OF_SYSTEMD)
    program = start(
        "--port=systemd:domain=UNIX:name=local",
        "--port=systemd:domain=INET:name=web",
        launcher=[sys.executable, str(launcher), str(path), str(port)],
    ).started()
    for times in (0, 2):
        assert asked(Client(str(path))).endswith(b"version 1")
        assert asked(Client(port)).endswith(b"version 1")
        assert oct(path.stat().st_mode) == "0o140600"
        program.process.send_signal(1)
        program.wait_for(") has ended", times=times + 2)
    assert program.end() in STOPPED
    assert oct(path.stat().st_mode) == "0o140600"


PLUGIN = """
from twisted.internet.defer import succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpointStringParser
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IListeningPort)
class Port:
    def stopListening(self):
        pass


@implementer(IStreamServerEndpoint)
class Endpoint:
    def listen(self, factory):
        return succeed(Port())


@implementer(IPlugin, IStreamServerEndpointStringParser)
class Parser:
    prefix = "elsewhere"

    def parseStreamServer(self, reactor, *args, **kwargs):
        return Endpoint()


parser = Parser()
"""


def test_endpoint_that_cannot_be_shared(start: Start, tmp_path: Path) -> None:
    """One that opens its socket in a way of its own is refused in one line."""
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "elsewhere.py").write_text(PLUGIN)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    program = start("--port=elsewhere:1", env=environment)
    assert program.process.wait(PATIENCE) == 1
    (line,) = program.lines("hangup: ")
    words = "it gets no socket from the reactor"
    assert line == f"hangup: cannot share elsewhere:1 among workers: {words}"


def test_key_that_only_root_may_read(start: Start, tmp_path: Path) -> None:
    """It is refused at the start in one line: each worker would have to read it."""
    if os.getuid():
        pytest.skip("only root can give up root")
    key = tmp_path / "key.pem"
    key.write_bytes(pem())
    key.chmod(0o600)
    port = free_port()
    arguments = ["hangup", "--workers=2", f"--port=ssl:{port}:privateKey={key}"]
    program = start(
        command=[f"{BIN}/twistd", "-n", "--pidfile=", "--uid=65534", "--gid=65534", *arguments]
    )
    assert program.process.wait(PATIENCE) == 1
    (line,) = program.lines("hangup: ")
    assert line.endswith(f"cannot read {str(key)!r}: Permission denied")
    assert not program.lines("Worker")


def test_status_page(start: Start) -> None:
    """It is there, in the first process."""
    status = free_port()
    program = start(f"--status={status}").started()
    asked(Client(program.port), b"BAD\r\n\r\n")
    wait_for(
        lambda: b"200 OK" in asked(Client(status), GET.replace(b"Host: a", b"Host: localhost"))
    )
    assert program.end() in STOPPED
