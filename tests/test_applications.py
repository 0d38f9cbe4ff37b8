"""docs/applications.md: its programs are whole, and their client errors are heard."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest
import pytest_twisted
from support.documents import APPLICATIONS, PAGES, run
from support.processes import connect, free_port, read_until
from support.wire import BAD, DEFAULT, PATIENCE, Serve, statuses, talk

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


@pytest.mark.parametrize(
    "application, arguments, ready",
    [
        ("klein", "", "Starting factory"),
        ("daphne", "-b 127.0.0.1 -p {port} mysite:application", "Listening on TCP"),
    ],
)
def test_program_hears_of_client_errors(
    application: str, arguments: str, ready: str, tmp_path: Path
) -> None:
    """It serves as before, and what is broken is a line in its log; no warning is in it."""
    _skip_without(application)
    port = free_port()
    (tmp_path / "mysite.py").write_text(ASGI)
    (tmp_path / "program.py").write_text(program(application).replace("tcp:8000", f"tcp:{port}"))
    command = [sys.executable, "-u", "-W", "error::UserWarning", "program.py"]
    command += arguments.format(port=port).split()
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        end = threading.Timer(PATIENCE, running.kill)  # no test waits for its output for ever
        end.start()
        try:
            read_until(ready, running)
            assert statuses(ask(port, GET)) == [200]
            assert ask(port, BAD) == DEFAULT
            lines = read_until("HPE_INVALID_HEADER_TOKEN", running)
        finally:
            end.cancel()
            running.kill()
    assert ' 400 HPE_INVALID_HEADER_TOKEN "Invalid header token" at byte 32' in lines[-1]


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
