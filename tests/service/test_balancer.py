"""Behind HAProxy and nginx that read the requests, as docs/balancer.md has them, for real."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from support.documents import PAGES
from support.processes import BIN, connect, free_port, running
from support.wire import BAD, PATIENCE, statuses, wait_for

CLIENT: Final = "127.0.0.9"
FORGED: Final = b"X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n"
GET: Final = b"GET /forged HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + FORGED + b"\r\n"
TOO_LARGE: Final = (
    b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 6\r\n"
    + FORGED
    + b"\r\n123456"
)

FORWARDED: Final = ("option forwardfor", "http-request add-header Forwarded for=%[src]")


def block(name: str) -> str:
    """The file *name* as the page shows it."""
    pattern = rf"^`{re.escape(name)}`:\n\n```\n(.*?)^```$"
    [shown] = re.findall(pattern, PAGES["balancer"].read_text(), re.S | re.M)
    return str(shown)


def ask(port: int, wire: bytes) -> bytes:
    """The answer to *wire*, from an address that is nobody else's here."""
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        client.bind((CLIENT, 0))
        client.connect(("127.0.0.1", port))
        client.sendall(wire)
        received = b""
        with suppress(ConnectionResetError):
            while more := client.recv(65536):
                received += more
    return received


def haproxy(folder: Path, front: int, server: str, field: str) -> list[str]:
    config = block("haproxy-http.cfg").replace("bind :80", f"bind 127.0.0.1:{front}")
    config = config.replace("127.0.0.1:8001", server).replace("    server two 127.0.0.1:8002\n", "")
    if field == "Forwarded":
        config = config.replace(f"    {FORWARDED[0]}\n", "")
        config = config.replace("frontend web\n", f"frontend web\n    {FORWARDED[1]}\n")
    (folder / "haproxy.cfg").write_text(config)
    return ["haproxy", "-db", "-f", "haproxy.cfg"]


def nginx(folder: Path, front: int, server: str, field: str) -> list[str]:
    config = block("nginx-http.conf").replace("listen 80", f"listen 127.0.0.1:{front}")
    config = config.replace("127.0.0.1:8001", server.replace("unix@", "unix:"))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"user root; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{paths}{config} }}\n"
    )
    return ["nginx", "-p", str(folder), "-e", str(folder / "nginx.log"), "-c", "nginx.conf"]


@pytest.mark.parametrize(
    ("program", "field", "unix"),
    [
        ("haproxy", "X-Forwarded-For", False),
        ("haproxy", "Forwarded", False),
        ("haproxy", "X-Forwarded-For", True),
        ("nginx", "X-Forwarded-For", False),
        ("nginx", "X-Forwarded-For", True),
    ],
)
def test_client_behind_a_balancer(tmp_path: Path, program: str, field: str, unix: bool) -> None:
    """Access log and errors of requests have the client's address, whatever it claims to be;
    what is no request has the balancer's."""
    if shutil.which(program) is None:
        pytest.skip(f"no {program}")
    (tmp_path / "public").mkdir()
    port, front = free_port(), free_port()
    path = tmp_path / "s"
    listen = f"unix:{path}" if unix else f"tcp:{port}:interface=127.0.0.1"
    server = f"unix@{path}" if unix else f"127.0.0.1:{port}"
    trust = f"--trust-forwarded={'unix' if unix else '127.0.0.1'}"
    command: list[str | Path] = [
        BIN / "twistd",
        "-n",
        "--pidfile=",
        "--logfile=log",
        "hangup",
        f"--port={listen}",
    ]
    options = ["--path=public", "--max-body-size=5", "--access-log=access", "--error-log=errors"]
    make = {"haproxy": haproxy, "nginx": nginx}[program]
    quiet = {"stderr": subprocess.DEVNULL}
    with (
        running(tmp_path, *command, *options, trust, f"--forwarded-field={field}", **quiet),
        running(tmp_path, *make(tmp_path, front, server, field), **quiet),
    ):

        def serves() -> bool:
            with suppress(ConnectionError):
                return statuses(ask(front, GET)) == [404]
            return False

        wait_for(serves)
        assert statuses(ask(front, TOO_LARGE)) == [413]
        if not unix:
            outside = connect(port).send(BAD)
            outside.read_all()
            outside.close()
    errors = [json.loads(line) for line in (tmp_path / "errors").read_text().splitlines()]
    peers = {line["code"]: line["peer"] for line in errors}
    assert peers["ERR_HTTP_BODY_TOO_LARGE"] == CLIENT
    assert unix or peers["HPE_INVALID_HEADER_TOKEN"].startswith("127.0.0.1:")
    accesses = (tmp_path / "access").read_text().splitlines()
    assert {line.split()[0] for line in accesses if "/forged" in line} == {CLIENT}
