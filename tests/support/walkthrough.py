"""A page as its reader follows it: files are saved, commands typed, and the output compared.

What a page has to look like:

- ```` `name.py`: ```` and a block after it are a file.
- A block of ``sh`` is what the reader types; a command that serves runs on until the next one that
  does, as if the reader had pressed Ctrl-C.
- A block of ``text`` is what the last command has printed, or what the server has by then.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from .processes import BIN, end, free_port, listens
from .wire import PATIENCE, wait_for

_BLOCK: Final = re.compile(
    r"^(?:`(?P<file>[\w.-]+)`:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)

#: A netcat for machines without one: input to the server, its output to ours.
_NETCAT: Final = f"""#!{sys.executable}
import os, socket, sys, threading

connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))

def send():
    while data := os.read(0, 65536):
        connection.sendall(data)

threading.Thread(target=send, daemon=True).start()
while data := connection.recv(65536):
    os.write(1, data)
os._exit(0)
"""

#: Commands of the installation, which is long done where a test runs.
_INSTALL: Final = re.compile(r"(mkdir hello|cd hello|python3 -m venv|pip install|\. \.venv)\b")

#: A program that says so serves.
_SERVES: Final = re.compile(r"\.listen\(|\.serve_forever\(")


def same_everywhere(output: str) -> list[str]:
    """The lines of *output* without times and sources, the client's port and versions."""
    output = re.sub(r"^[\d-]+T[\d:]+\+\d+ \[.*?\] ", "", output, flags=re.M)
    output = re.sub(r"(?<=127\.0\.0\.1:)\d{5}\b", "PORT", output)
    output = re.sub(r"^twisted_hangup \d.*", "twisted_hangup VERSION", output, flags=re.M)
    return [line.rstrip() for line in output.strip().splitlines()]


def _stands_in(lines: list[str], output: list[str]) -> bool:
    return any(output[start : start + len(lines)] == lines for start in range(len(output)))


class Reader:
    """Follows a page in *folder*, with *node* for the program of that name.

    Attributes:
        compared: How many blocks of output there were.
    """

    def __init__(self, folder: Path, node: str | None = None) -> None:
        self.compared = 0
        self._folder = folder
        self._ports = {8000: free_port(), 8001: free_port(), 9000: free_port()}
        self._printed = ""
        self._shown: list[str] = []
        self._servers: dict[int, subprocess.Popen[bytes]] = {}
        tools = folder / ".tools"
        tools.mkdir()
        self._logs = {port: tools / f"{port}.log" for port in self._ports}
        (tools / "nc").write_text(_NETCAT)
        (tools / "nc").chmod(0o755)
        if node is not None:
            (tools / "node").symlink_to(node)
        self._has_node = node is not None
        self._environment = os.environ | {
            "PATH": f"{tools}:{BIN}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
        }

    def follow(self, page: Path) -> None:
        """Do what *page* says; raises `AssertionError` where something else comes."""
        skipped = False
        try:
            for block in _BLOCK.finditer(page.read_text()):
                file, kind, text = block["file"], block["kind"], block["text"]
                if file is not None:
                    (self._folder / file).write_text(self._with_our_ports(text))
                elif kind == "sh":
                    skipped = "node " in text and not self._has_node
                    if not skipped:
                        self._type(text)
                elif kind == "text" and not skipped:
                    self._compare(text)
        finally:
            self.close()

    def close(self) -> None:
        for port in [*self._servers]:
            self._stop(port)

    def _with_our_ports(self, text: str) -> str:
        for written, ours in self._ports.items():
            text = re.sub(rf"\b{written}\b", str(ours), text)
        return text

    def _with_ports_of_page(self, text: str) -> str:
        for written, ours in self._ports.items():
            text = text.replace(str(ours), str(written))
        return text

    def _type(self, text: str) -> None:
        commands = text.replace("\\\n", " ").splitlines()
        port = self._port_of(commands[-1])
        server = None if port is None else commands.pop()
        commands = [command for command in commands if not _INSTALL.match(command)]
        if commands:
            done = subprocess.run(
                ["sh", "-c", self._with_our_ports("\n".join(commands))],
                cwd=self._folder,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            self._printed = done.stdout + done.stderr
        if server is not None and port is not None:
            self._serve(server, port)

    def _port_of(self, command: str) -> int | None:
        """Where *command* serves; None where it ends by itself."""
        program, *words = command.split()
        if program in ("twistd", "twist") and "--version" not in words:
            return 8000
        if program in ("python", "node"):
            text = (self._folder / words[0]).read_text() if words[0] != "-m" else ""
            if _SERVES.search(text):
                return 8000 if str(self._ports[8000]) in text else 8001
        return None

    def _serve(self, command: str, port: int) -> None:
        self._stop(port)
        with self._logs[port].open("w") as log:
            server = self._servers[port] = subprocess.Popen(
                ["sh", "-c", self._with_our_ports(f"exec {command}")],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

        def serves() -> bool:
            assert server.poll() is None, self._logs[port].read_text()
            return listens(self._ports[port])

        wait_for(serves)

    def _stop(self, port: int) -> None:
        server = self._servers.pop(port, None)
        if server is not None:
            end(server)

    def _compare(self, text: str) -> None:
        lines = same_everywhere(text)

        def comes() -> bool:
            logs = [log.read_text() for log in self._logs.values() if log.exists()]
            self._shown = [self._with_ports_of_page(output) for output in (self._printed, *logs)]
            return any(_stands_in(lines, same_everywhere(output)) for output in self._shown)

        with suppress(AssertionError):
            wait_for(comes)
        assert comes(), "\n-- is not in\n".join([text, *self._shown])
        self.compared += 1
