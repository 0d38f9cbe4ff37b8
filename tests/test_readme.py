"""The README: its programs run, and what it shows is what comes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from support.cookbook import running
from support.processes import BIN, connect, free_port
from support.wire import DEFAULT

README: Final = (Path(__file__).parent.parent / "README.md").read_text()
PROGRAMS: Final = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
MYSITE, LIBRARY = PROGRAMS

#: What the walk through sends, what its client reads, and the lines that it says are logged.
[SENT] = re.findall(r"printf '(.*)' \| nc", README)
[READ] = re.findall(r"The client reads\n\n(.*?)\n\nand the log", README, re.DOTALL)
[LOGGED] = re.findall(r"source of each line,\n\n(.*?)\n\n##", README, re.DOTALL)


def serve(command: list[str | Path], port: int, folder: Path, answer: bytes) -> list[str]:
    """Send the broken request to what *command* starts; the lines that came from the server."""
    with running(folder, *command):
        client = connect(port).send(SENT.encode().decode("unicode_escape").encode())
        assert client.read_all() == answer
        client.close()
    return (folder / f"{Path(command[0]).name}.out").read_text().splitlines()


def without_port(line: str) -> str:
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", line)


def test_walk_through(tmp_path: Path) -> None:
    """The log line and the report are those that the README shows."""
    (tmp_path / "mysite.py").write_text(MYSITE)
    port = free_port()
    command = f"-n hangup --port {port} --on-client-error mysite.note".split()
    head, _, body = READ.replace("\n    ", "\n").strip().partition("\n\n")
    answer = "\r\n".join([*head.splitlines(), "", f"{body}\n"]).encode()
    lines = serve([BIN / "twistd", *command], port, tmp_path, answer)
    said = [line.partition("] ")[2] for line in lines if re.search(r"\[(stdout|.*console)#", line)]
    shown = [line.removeprefix("    ") for line in LOGGED.splitlines()]
    assert [*map(without_port, said)] == [*map(without_port, shown)]


def test_library(tmp_path: Path) -> None:
    """The program is whole: it listens, and its handler prints the report."""
    port = free_port()
    assert "tcp:8000" in LIBRARY
    (tmp_path / "program.py").write_text(LIBRARY.replace("tcp:8000", f"tcp:{port}"))
    lines = serve([sys.executable, "-u", "program.py"], port, tmp_path, DEFAULT)
    assert lines == [line.removeprefix("    ") for line in LOGGED.splitlines()[:-1]]
