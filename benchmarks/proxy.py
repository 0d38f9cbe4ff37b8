"""What a request costs a reverse proxy: stock twisted.web's, ours, nginx.

    python benchmarks/proxy.py [--rounds 8] [--seconds 1] [--only NAME] [--before CHECKOUT]

The server behind them is nginx; uploads go to one in Python.  The proxies pass an upload on while
it comes, except Twisted's.  Measured is the processor time of the proxy's process for each small
response over keep-alive, and for each MB of a body of 100 MB.  See `compare.py`.  Alone, it prints
first when the server has the first byte of an upload that takes 2.5 seconds.

Needs Linux, ``wrk``, ``curl`` and ``nginx`` (Debian: apt-get install wrk curl nginx-light).
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from measure import OURS, ROOT, Options, Row, Server, compare, main, need, nginx, started, wrk
from servers import listening, stop_at_end_of_input

MB = 1_000_000
LARGE_MB = 100

#: What nginx is to do as a proxy; the large body is passed on while it comes.
PASSES_ON = """
location / {
  proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_request_buffering off;
}
"""


def proxies(options: Options, stack: ExitStack, behind: int) -> dict[str, Server]:
    """Start all proxies in front of the server at that port."""
    servers = {"stock": twisted("stock", behind), OURS: twisted(OURS, behind)}
    if options.before:
        servers["before"] = twisted(OURS, behind, options.before)
    if options.peers and shutil.which("nginx"):
        upstream = f"upstream behind {{ server 127.0.0.1:{behind}; keepalive 32; }}"
        servers["nginx"] = nginx(PASSES_ON, outside=upstream)
    return {kind: stack.enter_context(server) for kind, server in servers.items()}


def twisted(kind: str, behind: int = 0, root: Path = ROOT) -> AbstractContextManager[Server]:
    return started([sys.executable, __file__, "--serve", kind, str(behind)], root)


def serve(kind: str, behind: int) -> None:
    """Run one of the proxies, or the server for uploads, in this process."""
    if kind == "sink":
        take_uploads()
        return
    from twisted.internet import reactor
    from twisted.logger import globalLogBeginner
    from twisted.web.proxy import ReverseProxyResource
    from twisted.web.server import Site

    from twisted_hangup import HangupSite, ProxyResource

    if kind == "stock":  # it logs a traceback for each client that leaves
        globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
        site: Any = Site(ReverseProxyResource("127.0.0.1", behind, b""))
    else:
        site = HangupSite(
            ProxyResource(f"http://127.0.0.1:{behind}", buffer_requests=kind == "buffers"),
            parsePOSTFormSubmission=False,
        )
    site.log = lambda request: None
    port: Any = reactor.listenTCP(0, site, interface="127.0.0.1", backlog=1024)
    print(port.getHost().port, flush=True)
    stop_at_end_of_input()
    reactor.run()


def take_uploads() -> None:
    """Answer each upload, when it is complete, with the time at which its first byte came."""

    def run(connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(65536)
            if not data:
                return
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

    def accept() -> None:
        while True:
            threading.Thread(target=run, args=(listener.accept()[0],), daemon=True).start()

    with listening() as listener:
        threading.Thread(target=accept, daemon=True).start()
        sys.stdin.read()


def small(seconds: int) -> Callable[[int], int]:
    """GETs of a small file over eight kept connections; how many there were."""

    def ask(port: int) -> int:
        address = f"http://127.0.0.1:{port}/small"
        return wrk(address, seconds, connections=8, strict=True).requests

    return ask


def large(*options: str) -> Callable[[int], int]:
    """One large body; how many MB that is."""

    def ask(port: int) -> int:
        wanted = "%{size_download} %{size_upload} %{http_code}"
        command = ["curl", "-s", "-o", "/dev/null", "-w", wanted, *options]
        url = f"http://127.0.0.1:{port}/large"
        output = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
        down, up, status = output.split()
        if max(int(down), int(up)) != LARGE_MB * MB or status != "200":
            sys.exit(f"not the whole body was passed on: {output}")
        return LARGE_MB

    return ask


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


@contextmanager
def ends() -> Iterator[tuple[Path, int, int]]:
    """The large body, and the ports of a server that has it and of one that takes it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "small").write_bytes(b"hello\n")
        (folder / "large").write_bytes(b"x" * LARGE_MB * MB)
        with nginx(f"root {folder};") as files, twisted("sink") as sink:
            yield folder / "large", files.port, sink.port


def rows(options: Options) -> Iterator[Row]:
    """Small responses, and the large body down and up."""
    need("wrk", "curl", "nginx")
    with ends() as (body, files, sink), ExitStack() as stack:
        down = proxies(options, stack, files)
        up = proxies(options, stack, sink)
        upload = large("-H", "Expect:", "-T", str(body))
        for name, servers, ask, unit, scale in (
            ("proxy, small", down, small(options.seconds), "us", 1e6),
            (f"proxy, {LARGE_MB} MB down", down, large(), "ms/MB", 1e3),
            (f"proxy, {LARGE_MB} MB up", up, upload, "ms/MB", 1e3),
        ):
            if options.wants(name):
                yield compare(name, servers, ask, options.rounds, unit, scale)


def show_first_bytes() -> None:
    """Print when the server has the first byte of an upload that takes 2.5 seconds."""
    print("first byte of an upload of 2.5 s at the server, seconds")
    with ends() as (_, _, sink), ExitStack() as stack:
        servers = proxies(Options(), stack, sink)
        servers["buffers"] = stack.enter_context(twisted("buffers", sink))
        for kind, server in servers.items():
            print(f"  {kind:<8}{first_byte(server.port):>10.3f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        show_first_bytes()
        main(__doc__, rows)
