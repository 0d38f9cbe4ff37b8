"""docs/applications.md: its programs are whole, and their client errors are heard."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import pytest_twisted
from support.documents import APPLICATIONS, PAGES, run
from support.processes import BIN, connect, free_port
from support.upstreams import OK, Connection, RawServer
from support.wire import BAD, DEFAULT, PATIENCE, Serve, statuses, talk, wait_for

PROGRAMS: Final = re.findall(
    r"^```python\n(.*?)^```$", PAGES["applications"].read_text(), re.DOTALL | re.M
)

ASGI: Final = """
async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""

GET: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

UPGRADE: Final = (
    b"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

#: "hi" and the end, masked with zeros.
FRAMES: Final = b"\x81\x82\0\0\0\0hi\x88\x80\0\0\0\0"


def program(application: str) -> str:
    """The program on the page that imports *application*."""
    [found] = [
        text for text in PROGRAMS if re.search(rf"^(from|import) {application}\b", text, re.M)
    ]
    return str(found)


@pytest.mark.parametrize("application", APPLICATIONS)
def test_program_can_be_read(application: str) -> None:
    """Also of what is not installed here."""
    compile(program(application), application, "exec")


class Run(NamedTuple):
    """How a program of the page is run, where PORT is the port.

    Attributes:
        command: The command.
        name: What the program is saved as.
        first: The command before that, which makes the application's files.
        more: What else its configuration needs, after the program.
        path: What is answered 200.
    """

    command: str
    name: str = "program.py"
    first: str = ""
    more: str = ""
    path: str = "/"


MASTER: Final = """
from buildbot.plugins import schedulers, util, worker

c = BuildmasterConfig = {
    "workers": [worker.Worker("worker", "password")],
    "protocols": {"pb": {"port": "tcp:0:interface=127.0.0.1"}},
    "builders": [util.BuilderConfig("b", workernames=["worker"], factory=util.BuildFactory())],
    "schedulers": [schedulers.ForceScheduler("force", builderNames=["b"])],
    "www": {"port": "tcp:PORT:interface=127.0.0.1"},
    "buildbotURL": "http://localhost:PORT/",
    "buildbotNetUsageData": None,
}
"""

PYTHON: Final = "python -u -W error::UserWarning program.py"

SERVERS: Final = {
    "klein": Run(PYTHON),
    "daphne": Run(f"{PYTHON} -b 127.0.0.1 -p PORT mysite:application"),
    "buildbot": Run(
        "twistd -ny buildbot.tac --pidfile=",
        name="master.cfg",
        first="buildbot create-master .",
        more=MASTER,
    ),
    "allmydata": Run(
        "python program.py run --allow-stdin-close node",
        first="tahoe create-client --basedir=node --webport=tcp:PORT:interface=127.0.0.1",
    ),
    "synapse": Run(
        "python program.py -c homeserver.yaml",
        first="python -m synapse.app.homeserver --server-name localhost -c homeserver.yaml "
        "--generate-config --report-stats=no",
        path="/health",
    ),
}


@pytest.mark.parametrize("application", SERVERS)
def test_program_hears_of_client_errors(application: str, tmp_path: Path) -> None:
    """It serves as before, and what is broken is a line in its log; no warning is in it."""
    _skip_without(application)
    if application == "buildbot":
        _skip_without("buildbot_www")
    port = free_port()
    how = SERVERS[application]

    def words(command: str) -> list[str]:
        first, *rest = command.replace("PORT", str(port)).split()
        return [str(BIN / first), *rest]

    (tmp_path / "mysite.py").write_text(ASGI)
    (tmp_path / how.name).write_text(program(application) + how.more)
    if how.first:
        made = {"cwd": tmp_path, "capture_output": True, "timeout": PATIENCE}
        subprocess.run(words(how.first), check=True, **made)  # type: ignore[call-overload]
    for path in tmp_path.iterdir():
        if path.suffix in (".py", ".cfg", ".yaml"):
            path.write_text(
                re.sub(r"(?<=tcp:)8000|(?<=port: )8008|PORT", str(port), path.read_text())
            )
    output = tmp_path / "output.log"

    def log() -> str:
        return "".join(path.read_text() for path in tmp_path.glob("*.log"))

    with (
        output.open("w") as file,
        subprocess.Popen(words(how.command), cwd=tmp_path, stdout=file, stderr=file) as running,
    ):
        try:
            assert statuses(ask(port, GET.replace(b"/", how.path.encode(), 1))) == [200], log()
            assert ask(port, BAD) == DEFAULT
            wait_for(lambda: "HPE_INVALID_HEADER_TOKEN" in log())
        finally:
            running.kill()
    assert ' 400 HPE_INVALID_HEADER_TOKEN "Invalid header token" at byte 32' in log()


SPIDER: Final = """
import scrapy


class Spider(scrapy.Spider):
    name = "spider"

    async def start(self):
        yield scrapy.Request("URL/")

    def parse(self, response):
        print("got", response.text)
"""


def test_scrapy(tmp_path: Path) -> None:
    """A server that hangs up is asked again, and the log says how far it had come."""
    _skip_without("scrapy")

    def hang_up_once(connection: Connection) -> None:
        connection.read_head()
        if len(server.connections) > 1:
            connection.send(OK)

    server = RawServer(hang_up_once)
    (tmp_path / "settings.py").write_text(program("scrapy"))
    (tmp_path / "spider.py").write_text(SPIDER.replace("URL", server.url))
    ended = subprocess.run(
        [BIN / "scrapy", "runspider", "spider.py"],
        cwd=tmp_path,
        env={**os.environ, "SCRAPY_SETTINGS_MODULE": "settings", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    server.close()
    assert ended.stdout == "got ok\n"
    assert "(failed 1 times): ECONNRESET: socket hang up (waiting)" in ended.stderr


def ask(port: int, wire: bytes) -> bytes:
    with closing(connect(port)) as client:
        return client.send(wire).read_all()


def _skip_without(application: str) -> None:
    if find_spec(application) is None:
        pytest.skip(f"{application} is not installed")


@pytest_twisted.ensureDeferred
async def test_autobahn(serve: Serve) -> None:
    """The websocket echoes what it gets."""
    _skip_without("autobahn")
    served = serve(run("applications")["echo_site"])
    received = await talk(served.port, UPGRADE, FRAMES)
    assert statuses(received) == [101]
    assert b"\x81\x02hi" in received
    assert await talk(served.port, BAD) == DEFAULT
