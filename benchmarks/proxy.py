"""Compare reverse proxies, side by side in one run: stock twisted.web's, ours, nginx.

    python benchmarks/proxy.py [--rounds 5] [--seconds 3]

The server behind them is nginx; uploads go to one in Python.  The proxies pass an upload on while
it comes, except Twisted's.  Small responses over keep-alive count in requests per second, a body of
100 MB in MB per second.  What counts is the median of the rounds' ratios; beside them stands the
processor time of the proxy's process for one request.  At the end: when the server has the first
byte of an upload that takes 2.5 seconds.

Needs Linux, ``wrk``, ``curl`` and ``nginx`` (Debian: apt-get install wrk curl nginx-light).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

LARGE_MB = 100

NGINX = """
daemon off; master_process off; pid {folder}/{name}.pid; error_log {folder}/{name}.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder};
  proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder}; client_max_body_size 0; proxy_request_buffering off;
  upstream behind {{ server 127.0.0.1:{behind}; keepalive 32; }}
  server {{ listen 127.0.0.1:{port}; {server} }}
}}
"""
FILES = "root {folder}/files;"
PROXY = """
location / {
  proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection "";
}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server(NamedTuple):
    """A process that listens."""

    port: int
    pid: int

    @property
    def seconds(self) -> float:
        """The processor time that it has taken."""
        ticks = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def process(command: list[str], port: int) -> Iterator[Server]:
    """Run *command* until it listens on *port*."""
    with subprocess.Popen(command) as running:
        try:
            for _ in range(100):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            else:
                sys.exit(f"not listening: {' '.join(command)}")
            yield Server(port, running.pid)
        finally:
            running.terminate()
            running.wait(10)


@contextmanager
def nginx(folder: Path, name: str, server: str, behind: int = 1) -> Iterator[Server]:
    port = free_port()
    settings = folder / f"{name}.conf"
    server = server.replace("{folder}", str(folder))
    settings.write_text(
        NGINX.format(folder=folder, name=name, port=port, behind=behind, server=server)
    )
    with process(["nginx", "-e", "stderr", "-c", str(settings)], port) as running:
        yield running


@contextmanager
def twisted(kind: str, behind: int) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, __file__, "--serve", kind, str(port), str(behind)]
    with process(command, port) as running:
        yield running


def serve(kind: str, port: int, behind: int) -> None:
    """Run one of the proxies, or the server for uploads, in this process."""
    if kind == "sink":
        take_uploads(port)
    from twisted.internet import reactor
    from twisted.web.proxy import ReverseProxyResource
    from twisted.web.server import Site

    from twisted_hangup import HangupSite, ProxyResource

    if kind == "stock":
        site: Any = Site(ReverseProxyResource("127.0.0.1", behind, b""))
    else:
        site = HangupSite(
            ProxyResource(f"http://127.0.0.1:{behind}", buffer_requests=kind == "buffers"),
            parsePOSTFormSubmission=False,
        )
    site.log = lambda request: None
    reactor.listenTCP(port, site, interface="127.0.0.1", backlog=1024)
    reactor.run()


def take_uploads(port: int) -> None:
    """Answer each upload, when it is complete, with the time at which its first byte came."""

    def run(connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(65536)
            if not data:
                return  # a look whether somebody listens
            head += data
        came = b"%f" % time.monotonic()
        head, _, body = head.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        assert length, head
        left, buffer = int(length[1]) - len(body), bytearray(1 << 20)
        while left and (count := connection.recv_into(buffer)):
            left -= count
        framing = b"Connection: close\r\nContent-Length: %d" % len(came)
        connection.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (framing, came))
        connection.close()

    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        while True:
            threading.Thread(target=run, args=(listener.accept()[0],), daemon=True).start()


def small(port: int, seconds: int) -> tuple[float, float]:
    """Requests per second over eight kept connections, and how many there were."""
    command = ["wrk", "-t1", "-c8", f"-d{seconds}s", f"http://127.0.0.1:{port}/small"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"not every request was answered well:\n{output}")
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    count = re.search(r"(\d+) requests in", output)
    assert rate and count, output
    return float(rate[1]), int(count[1])


def large(port: int, seconds: int, *options: str) -> tuple[float, float]:
    """MB per second of one large body at best, and how many bodies there were."""
    best = 0.0
    wanted = "%{size_download} %{size_upload} %{time_total} %{http_code}"
    command = ["curl", "-s", "-o", "/dev/null", "-w", wanted, *options]
    for _ in range(seconds):
        url = f"http://127.0.0.1:{port}/large"
        output = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
        down, up, elapsed, status = output.split()
        size = max(int(down), int(up))
        assert size == LARGE_MB * 1_000_000 and status == "200", output
        best = max(best, size / float(elapsed) / 1e6)
    return best, seconds


def first_byte(port: int) -> float:
    """Seconds until the server has the first byte of an upload that takes 2.5."""
    pieces, piece = 25, b"x" * 40_000
    with socket.create_connection(("127.0.0.1", port)) as client:
        framing = b"Connection: close\r\nContent-Length: %d" % (pieces * len(piece))
        client.sendall(b"PUT /slow HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
        began = time.monotonic()
        for _ in range(pieces):
            client.sendall(piece)
            time.sleep(2.5 / pieces)
        answer = b""
        while data := client.recv(65536):
            answer += data
    return float(answer.rpartition(b"\r\n")[2]) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="per measurement")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]), int(options.serve[2]))
        return
    for tool in ("wrk", "curl", "nginx"):
        if shutil.which(tool) is None:
            sys.exit(f"benchmarks/proxy.py needs {tool}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "files").mkdir(mode=0o755)
        (folder / "files" / "small").write_bytes(b"hello\n")
        (folder / "files" / "large").write_bytes(b"x" * LARGE_MB * 1_000_000)
        folder.chmod(0o755)

        def proxies(behind: int, name: str) -> dict[str, Server]:
            return {
                "stock": stack.enter_context(twisted("stock", behind)),
                "hangup": stack.enter_context(twisted("hangup", behind)),
                "nginx": stack.enter_context(nginx(folder, name, PROXY, behind)),
            }

        files = stack.enter_context(nginx(folder, "behind", FILES))
        sink = stack.enter_context(twisted("sink", 0))
        down, up = proxies(files.port, "down"), proxies(sink.port, "up")
        compare("small, requests/s", small, down, options)
        compare(f"{LARGE_MB} MB down, MB/s", large, down, options)
        body = str(folder / "files" / "large")
        sending = partial(large_up, body)
        compare(f"{LARGE_MB} MB up, MB/s", sending, up, options)
        up["buffers"] = stack.enter_context(twisted("buffers", sink.port))
        print("first byte of an upload of 2.5 s at the server, seconds")
        for kind, server in up.items():
            print(f"  {kind:<8}{first_byte(server.port):>10.3f}")


def large_up(body: str, port: int, seconds: int) -> tuple[float, float]:
    """As `large`, with an upload of the file *body*."""
    return large(port, seconds, "-H", "Expect:", "-T", body)


def compare(
    name: str,
    measure: Callable[[int, int], tuple[float, float]],
    servers: dict[str, Server],
    options: argparse.Namespace,
) -> None:
    rates: dict[str, list[float]] = {kind: [] for kind in servers}
    costs: dict[str, list[float]] = {kind: [] for kind in servers}
    for number in range(options.rounds):
        for kind in list(servers) if number % 2 else reversed(list(servers)):
            server = servers[kind]
            measure(server.port, 1)  # warm up
            before = server.seconds
            rate, count = measure(server.port, options.seconds)
            rates[kind].append(rate)
            costs[kind].append((server.seconds - before) / count)
    print(name)
    for kind, measured in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["hangup"], measured, strict=True)]
        print(
            f"  {kind:<8}{median(measured):>10.0f}   ours is {median(ratios):.2f} of it"
            f" ({min(ratios):.2f} to {max(ratios):.2f});"
            f" processor {median(costs[kind]) * 1000:.3f} ms each",
            flush=True,
        )


if __name__ == "__main__":
    main()
