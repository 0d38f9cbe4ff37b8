"""What large bodies cost the proxy in memory, whoever is slow.

    python benchmarks/proxy_memory.py [--mb 1024] [--rate 200]

For each case: by how much the peak of the proxy's resident memory is above what it was before,
in MiB, and how large its temporary file was.  Linux only (/proc); it needs nothing from outside.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MIB = 1024 * 1024
PIECE = b"x" * (256 * 1024)


class Slow:
    """Sleeps so that no more than *rate* MiB pass in a second; 0 for as fast as it goes."""

    def __init__(self, rate: float) -> None:
        self._rate = rate * MIB
        self._passed = 0
        self._began = time.monotonic()

    def passed(self, count: int) -> None:
        self._passed += count
        if self._rate:
            ahead = self._passed / self._rate - (time.monotonic() - self._began)
            if ahead > 0:
                time.sleep(ahead)


def serve_one(connection: socket.socket, size: int, read_rate: float) -> None:
    """Answer one request: with a large body to GET, with its length to an upload."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    length = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
    if length is None:
        framing = b"Content-Length: %d" % size
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n%b\r\n\r\n" % framing)
        for _ in range(size // len(PIECE)):
            connection.sendall(PIECE)
    else:
        slow, left = Slow(read_rate), int(length[1])
        while left:
            count = len(connection.recv(min(left, len(PIECE))))
            left -= count
            slow.passed(count)
        body = length[1]
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
    connection.close()


class Upstream:
    """A server that sends or takes one large body per connection.

    Attributes:
        size: Of the bodies it sends.
        read_rate: MiB per second at which it takes an upload.
    """

    def __init__(self, size: int) -> None:
        self.size, self.read_rate = size, 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with suppress(OSError):
            serve_one(connection, self.size, self.read_rate)


@contextmanager
def proxy(upstream: int) -> Iterator[tuple[int, int]]:
    """Run the command in front of port *upstream*; gives its port and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    command += ["-n", "--pidfile=", "hangup", "--port", str(port)]
    command += ["--proxy", f"http://127.0.0.1:{upstream}", "--request-timeout", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        try:
            for _ in range(100):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield port, running.pid
        finally:
            running.terminate()


def resident(pid: int, name: str) -> int:
    """VmRSS or VmHWM of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def temporary_bytes(pid: int) -> int:
    """The size of the largest file that the process has open and nobody else can."""
    sizes = [0]
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            if os.readlink(entry.path).endswith("(deleted)"):
                sizes.append(os.stat(entry.path).st_size)
    return max(sizes)


def download(port: int, size: int, rate: float) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        slow, count = Slow(rate), 0
        while data := client.recv(256 * 1024):
            count += len(data)
            slow.passed(len(data))
        assert count > size, f"only {count} bytes came"


def upload(port: int, size: int, rate: float, chunked: bool = False) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%b\r\n\r\n" % framing)
        slow = Slow(rate)
        piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
        for _ in range(size // len(PIECE)):
            client.sendall(piece)
            slow.passed(len(PIECE))
        if chunked:
            client.sendall(b"0\r\n\r\n")
        answer = b""
        while data := client.recv(65536):
            answer += data
        assert answer.endswith(b"\r\n%d" % size), answer


def measure(what: str, pid: int, run: Callable[[], None]) -> None:
    """Do it, and print what it cost."""
    before = resident(pid, "VmRSS")
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts here
    largest, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            largest[0] = max(largest[0], temporary_bytes(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    elapsed = time.monotonic() - began
    grown = resident(pid, "VmHWM") - before
    print(
        f"{what:44} memory {grown / MIB:+6.1f} MiB   on disk {largest[0] / MIB:6.0f} MiB"
        f"   {elapsed:5.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=1024, help="MiB of each body")
    parser.add_argument("--rate", type=float, default=200, help="MiB/s of the slow side")
    options = parser.parse_args()
    size, rate = options.mb * MIB, options.rate
    upstream = Upstream(size)
    with proxy(upstream.port) as (port, pid):
        upstream.size = MIB
        download(port, MIB, 0)
        upload(port, MIB, 0)
        upstream.size = size
        measure("download, slow client", pid, lambda: download(port, size, rate))
        measure("download, as fast as it goes", pid, lambda: download(port, size, 0))
        measure("upload, slow client", pid, lambda: upload(port, size, rate))
        measure("upload in chunks", pid, lambda: upload(port, size, 0, chunked=True))
        upstream.read_rate = rate
        measure("upload, slow server", pid, lambda: upload(port, size, 0))


if __name__ == "__main__":
    main()
