"""The programs in examples/ stand in the pages of docs/, and do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from support.documents import PAGES
from support.processes import connect, ended_in_time, free_port, running
from support.upstreams import Connection, RawServer
from support.wire import BAD, PATIENCE, wait_for

EXAMPLES: Final = {
    path.stem: path for path in (Path(__file__).parent.parent / "examples").glob("*.py")
}
GOOD: Final = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@contextmanager
def started(name: str, folder: Path, *arguments: str) -> Iterator[tuple[Any, int]]:
    """The running program, and the port in whose place it listens on 8000."""
    port = free_port()
    program = folder / f"{name}.py"
    program.write_text(EXAMPLES[name].read_text().replace("tcp:8000", f"tcp:{port}"))
    command = [sys.executable, "-u", str(program), *arguments]
    with running(folder, *command, stdout=subprocess.PIPE, text=True) as one, ended_in_time(one):
        yield one, port


def ask(port: int, wire: bytes) -> bytes:
    with closing(connect(port)) as client:
        return client.send(wire).read_all()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_page_shows_it(name: str) -> None:
    """What is read in docs/ is the program that is run here, to the letter."""
    program = f"```python\n{EXAMPLES[name].read_text()}```\n"
    assert sum(program in page.read_text() for page in PAGES.values()) == 1
    assert f"python examples/{name}.py" in program


def test_client_errors(tmp_path: Path) -> None:
    """Broken bytes are reported on standard output and answered as JSON, cookies in a sentence."""
    with started("client_errors", tmp_path) as (program, port):
        answer = ask(port, BAD)
        assert answer.endswith(b'{"code": "HPE_INVALID_HEADER_TOKEN", "offset": 32}')
        assert program.stdout.readline().startswith("HPE_INVALID_HEADER_TOKEN: ")
        large = GOOD.replace(b"\r\n\r\n", b"\r\nCookie: " + b"a" * 20_000 + b"\r\n\r\n")
        assert ask(port, large).endswith(b"Clear them and try again.\n")
        assert ask(port, GOOD).endswith(b"hello\n")


def test_quiet_channel(tmp_path: Path) -> None:
    """What is no method is not answered; everything else is."""
    with started("quiet_channel", tmp_path) as (_, port):
        with pytest.raises(ConnectionResetError):
            ask(port, b"\x16\x03\x01")
        assert ask(port, BAD).startswith(b"HTTP/1.1 400 ")
        assert ask(port, GOOD).endswith(b"hello\n")


def test_cancelled_report(tmp_path: Path) -> None:
    """The report ends long before its last page."""
    with started("cancelled_report", tmp_path) as (program, port):
        connect(port).send(GOOD).close()
        line = program.stdout.readline()
    made = re.fullmatch(r"(\d+) of 50 pages were made\n", line)
    assert made and int(made[1]) < 50


def test_patient_fetch(tmp_path: Path) -> None:
    """A server that hangs up once is asked again."""
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"euro": 1.5}'

    def hang_up_once(connection: Connection) -> None:
        connection.read_head()
        if len(server.connections) > 1:
            connection.send(answer)

    server = RawServer(hang_up_once)
    with started("patient_fetch", tmp_path, server.url) as (program, _):
        assert program.stdout.read() == "{'euro': 1.5}\n"
        assert program.wait(PATIENCE) == 0
    assert len(server.connections) == 2
    server.close()


def test_queued_orders(tmp_path: Path) -> None:
    """Orders that the server did not take come at the next start, as they were stored."""
    taken: list[bytes] = []
    closed, open_again = threading.Event(), threading.Event()

    def take(connection: Connection) -> None:
        connection.read_head()
        if open_again.is_set():
            taken.append(connection.read(len(b'{"order": 7}')))
            connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        closed.set()

    server = RawServer(take)
    with started("queued_orders", tmp_path, f"{server.url}/paid", "7", "8") as (program, _):
        assert [program.stdout.readline() for _ in range(2)] == ["stored 7\n", "stored 8\n"]
        assert closed.wait(PATIENCE)
        program.terminate()  # SIGINT is ignored by what a shell starts in the background
        assert program.wait(PATIENCE) == 0
    open_again.set()
    with started("queued_orders", tmp_path, f"{server.url}/paid"):
        wait_for(lambda: len(taken) == 2)
    assert taken == [b'{"order": 7}', b'{"order": 8}']
    server.close()
