"""Compare reverse proxies, side by side in one run: stock twisted.web's, ours, nginx.

    python benchmarks/proxy.py [--rounds 5] [--seconds 3]

The server behind them is nginx.  Small responses over keep-alive count in requests per
second, a body of 100 MB in MB per second; what counts is the median of the rounds' ratios.
Needs ``wrk``, ``curl`` and ``nginx`` (Debian: apt-get install wrk curl nginx-light).
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

LARGE_MB = 100

NGINX = """
daemon off; master_process off; pid {folder}/{name}.pid; error_log {folder}/{name}.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder};
  proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
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


@contextmanager
def process(command: list[str], port: int) -> Iterator[int]:
    """Run *command* until it listens on *port*; gives the port."""
    with subprocess.Popen(command) as running:
        try:
            for _ in range(100):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            else:
                sys.exit(f"not listening: {' '.join(command)}")
            yield port
        finally:
            running.terminate()
            running.wait(10)


@contextmanager
def nginx(folder: Path, name: str, server: str, behind: int = 1) -> Iterator[int]:
    port = free_port()
    settings = folder / f"{name}.conf"
    server = server.replace("{folder}", str(folder))
    settings.write_text(
        NGINX.format(folder=folder, name=name, port=port, behind=behind, server=server)
    )
    with process(["nginx", "-e", "stderr", "-c", str(settings)], port):
        yield port


@contextmanager
def twisted(kind: str, behind: int) -> Iterator[int]:
    port = free_port()
    with process([sys.executable, __file__, "--serve", kind, str(port), str(behind)], port):
        yield port


def serve(kind: str, port: int, behind: int) -> None:
    """Run one of the two proxies in this process."""
    from twisted.internet import reactor
    from twisted.web.proxy import ReverseProxyResource
    from twisted.web.server import Site

    from twisted_hangup import HangupSite, ProxyResource

    if kind == "stock":
        site: Any = Site(ReverseProxyResource("127.0.0.1", behind, b""))
    else:
        site = HangupSite(
            ProxyResource(f"http://127.0.0.1:{behind}"), parsePOSTFormSubmission=False
        )
    site.log = lambda request: None
    reactor.listenTCP(port, site, interface="127.0.0.1", backlog=1024)
    reactor.run()


def small(port: int, seconds: int) -> float:
    """Requests per second over eight kept connections."""
    command = ["wrk", "-t1", "-c8", f"-d{seconds}s", f"http://127.0.0.1:{port}/small"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"not every request was answered well:\n{output}")
    found = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    assert found, output
    return float(found[1])


def large(port: int, seconds: int) -> float:
    """MB per second of one large body."""
    best = 0.0
    for _ in range(seconds):
        url = f"http://127.0.0.1:{port}/large"
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{size_download} %{time_total}", url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        size, elapsed = output.split()
        assert int(size) == LARGE_MB * 1_000_000, output
        best = max(best, int(size) / float(elapsed) / 1e6)
    return best


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
        behind = stack.enter_context(nginx(folder, "behind", FILES))
        ports = {
            "stock": stack.enter_context(twisted("stock", behind)),
            "hangup": stack.enter_context(twisted("hangup", behind)),
            "nginx": stack.enter_context(nginx(folder, "front", PROXY, behind)),
        }
        compare("small, requests/s", small, ports, options)
        compare(f"{LARGE_MB} MB, MB/s", large, ports, options)


def compare(
    name: str,
    measure: Callable[[int, int], float],
    ports: dict[str, int],
    options: argparse.Namespace,
) -> None:
    rates: dict[str, list[float]] = {kind: [] for kind in ports}
    for number in range(options.rounds):
        for kind in list(ports) if number % 2 else reversed(list(ports)):
            measure(ports[kind], 1)  # warm up
            rates[kind].append(measure(ports[kind], options.seconds))
    print(name)
    for kind, measured in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["hangup"], measured, strict=True)]
        print(
            f"  {kind:<8}{median(measured):>10.0f}   ours is {median(ratios):.2f} of it"
            f" ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
