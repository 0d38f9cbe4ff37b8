"""What large bodies cost the proxy in memory, whoever is slow.

    python benchmarks/proxy_memory.py [--mb 1024] [--rate 200]

For each case: by how much the peak of the proxy's resident memory is above what it was before,
in MiB, and how large its temporary file was.  Uploads come over TCP, TLS and HTTP/2, and are passed
on while they come; at the end one is held (``--proxy-buffer-requests``).  Linux only (/proc); it
needs ``openssl``.
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
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from measure import free_port
from servers import make_certificate, trusting

MIB = 1024 * 1024
PIECE = b"x" * (256 * 1024)
END = b"0\r\n\r\n"
FRONTS = ("TCP", "TLS", "HTTP/2")


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
    if head.startswith(b"GET"):
        framing = b"Content-Length: %d" % size
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n%b\r\n\r\n" % framing)
        for _ in range(size // len(PIECE)):
            connection.sendall(PIECE)
    else:
        length = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
        slow, count, data = Slow(read_rate), 0, b""
        while count < int(length[1]) if length else not data.endswith(END):
            data = connection.recv(len(PIECE))
            count += data.count(PIECE[:1])
            slow.passed(len(data))
        body = b"%d" % count
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
def proxy(upstream: int, *options: str) -> Iterator[tuple[int, int, int]]:
    """Run the command before port *upstream*; gives its port, that for TLS, and its process id."""
    plain, secure = free_port(), free_port()
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    command += ["-n", "--pidfile=", "hangup", "--port", str(plain)]
    command += ["--proxy", f"http://127.0.0.1:{upstream}", "--request-timeout", "0", *options]
    with TemporaryDirectory() as folder:
        make_certificate(Path(folder))
        keys = f"privateKey={folder}/key.pem:certKey={folder}/cert.pem"
        command += ["--port", f"ssl:{secure}:{keys}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
            try:
                for _ in range(100):
                    with suppress(OSError), socket.create_connection(("127.0.0.1", secure)):
                        break
                    time.sleep(0.1)
                yield plain, secure, running.pid
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


def connect(port: int, alpn: str | None = None) -> socket.socket:
    """A connection to *port*, over TLS if *alpn* says which protocol comes then."""
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if alpn is None:
        return client
    return trusting(alpn).wrap_socket(client)


def upload(client: socket.socket, size: int, rate: float = 0, chunked: bool = False) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    with client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%b\r\n\r\n" % framing)
        slow = Slow(rate)
        piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
        for _ in range(size // len(PIECE)):
            client.sendall(piece)
            slow.passed(len(PIECE))
        if chunked:
            client.sendall(END)
        answer = b""
        while data := client.recv(65536):
            answer += data
        assert answer.endswith(b"\r\n%d" % size), answer


def upload_http2(client: socket.socket, size: int) -> None:
    connection, answer, ended = H2Connection(), b"", False
    connection.initiate_connection()
    names = (":method", ":scheme", ":authority", ":path")
    fields = list(zip(names, ("POST", "https", "a", "/"), strict=True))
    connection.send_headers(1, [*fields, ("content-length", str(size))])
    with client:
        while not ended:
            while size and (room := min(connection.local_flow_control_window(1), size)):
                size -= (sent := min(room, connection.max_outbound_frame_size))
                connection.send_data(1, PIECE[:sent], end_stream=not size)
            client.sendall(connection.data_to_send())
            for event in connection.receive_data(client.recv(65536)):
                if isinstance(event, DataReceived):
                    answer += event.data
                ended = ended or isinstance(event, StreamEnded)
    assert answer, "no answer"


def upload_over(front: str, plain: int, secure: int, size: int) -> None:
    """One upload over *front*, with its length, as fast as it goes."""
    if front == "HTTP/2":
        upload_http2(connect(secure, "h2"), size)
    else:
        upload(connect(plain) if front == "TCP" else connect(secure, "http/1.1"), size)


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
    with proxy(upstream.port) as (plain, secure, pid):
        upstream.size = MIB
        download(plain, MIB, 0)
        for front in FRONTS:
            upload_over(front, plain, secure, MIB)
        upstream.size = size
        measure("download, slow client", pid, lambda: download(plain, size, rate))
        measure("download, as fast as it goes", pid, lambda: download(plain, size, 0))
        measure("upload, slow client", pid, lambda: upload(connect(plain), size, rate))
        measure("upload in chunks", pid, lambda: upload(connect(plain), size, chunked=True))
        for front in FRONTS:
            run = partial(upload_over, front, plain, secure, size)
            upstream.read_rate = 0
            measure(f"upload over {front}", pid, run)
            upstream.read_rate = rate
            measure(f"upload over {front}, slow server", pid, run)
    with proxy(upstream.port, "--proxy-buffer-requests") as (plain, secure, pid):
        upload(connect(plain), MIB)
        measure("upload that is held, slow server", pid, lambda: upload(connect(plain), size))


if __name__ == "__main__":
    main()
