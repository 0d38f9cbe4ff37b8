"""docs/cookbook/tls.md: certbot and lego before a real ACME server, and a CA of one's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
from support.cookbook import COOKBOOK, check, files, running, status, twistd
from support.processes import connect, free_port
from support.wire import PATIENCE, wait_for

FILES: Final = files("tls")
PAGE: Final = (COOKBOOK / "tls.md").read_text()


def command(begin: str) -> list[str]:
    """The words of the only line of the page that begins like this."""
    [line] = re.findall(rf"^    ({re.escape(begin)}.*)$", PAGE, re.M)
    return str(line).split()


def serial_at(port: int) -> str:
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=PATIENCE)
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-serial"],
        input=pem,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return shown.stdout.strip()


@contextmanager
def pebble(folder: Path, challenges: int) -> Iterator[str]:
    """The URL of a CA that asks for its challenges at this port of this machine."""
    acme, management, dns, dns_management = (free_port() for _ in range(4))
    check(
        folder,
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost", "-keyout", "pebble.key", "-out", "pebble.crt"),
    )
    settings = {
        "listenAddress": f"127.0.0.1:{acme}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": "pebble.crt",
        "privateKey": "pebble.key",
        "httpPort": challenges,
        "tlsPort": 9,
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
    off = ("-http01=", "-https01=", "-tlsalpn01=", "-defaultIPv6=")
    server = ("pebble-challtestsrv", *off, f"-dns01=127.0.0.1:{dns}")
    quick = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    with (
        running(folder, *server, f"-management=127.0.0.1:{dns_management}"),
        running(
            folder,
            *("pebble", "-config=pebble.json", f"-dnsserver=127.0.0.1:{dns}"),
            env=quick,
        ),
    ):
        connect(acme).close()
        connect(dns_management).close()
        yield f"https://localhost:{acme}/dir"


@contextmanager
def acme(folder: Path) -> Iterator[str]:
    """A CA, and the page's program that answers its challenges."""
    webroot = folder / "acme"
    webroot.mkdir()
    (folder / "redirect.py").write_text(FILES["redirect.py"].replace("/var/lib/acme", str(webroot)))
    port = free_port()
    words = command("twistd -n --pidfile= hangup --port 80 ")
    words = [word if word != "80" else str(port) for word in words[words.index("--port") :]]
    with running(folder, *twistd(*words)), pebble(folder, port) as url:
        connect(port).close()
        client = connect(port).send(
            b"GET /a?b=%2f HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        assert b"\r\nLocation: https://example.org/a?b=%2f\r\n" in client.read_all()
        client.close()
        yield url


@pytest.mark.skipif(not shutil.which("pebble"), reason="no pebble")
@pytest.mark.skipif(not shutil.which("certbot"), reason="no certbot")
def test_certbot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """certbot gets a certificate; the server has it, with the hook and without it, and the next."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "pebble.crt"))
    copies, letsencrypt = tmp_path / "certificates", tmp_path / "letsencrypt"
    copies.mkdir()
    hook = tmp_path / "hook"
    text = FILES["/etc/letsencrypt/renewal-hooks/deploy/hangup"]
    text = text.replace("/etc/hangup/certificates", str(copies))
    hook.write_text(text.replace("chgrp hangup", f"chgrp {os.getgid()}"))
    hook.chmod(0o755)
    with ExitStack() as programs:
        url = programs.enter_context(acme(tmp_path))
        places = [f"--{kind}-dir={letsencrypt}" for kind in ("config", "work", "logs")]
        unattended = [*places, "-n", f"--server={url}"]
        words = command("certbot certonly")
        words[words.index("/var/lib/acme")] = str(tmp_path / "acme")
        register = ("--agree-tos", "--register-unsafely-without-email")
        check(tmp_path, *words, *unattended, *register)
        lineage = letsencrypt / "live" / "example.org"
        check(tmp_path, "env", f"RENEWED_LINEAGE={lineage}", hook)
        [copy] = copies.iterdir()
        assert (copy.name, copy.stat().st_mode & 0o777) == ("example.org.pem", 0o640)
        ports = [free_port() for _ in range(3)]
        single = f"privateKey={lineage}/privkey.pem:certKey={lineage}/cert.pem"
        descriptions = [
            f"tls:{copies}:port={ports[0]}",
            f"tls:{letsencrypt}/live:port={ports[1]}",
            f"ssl:{ports[2]}:{single}:extraCertChain={lineage}/chain.pem",
        ]
        programs.enter_context(running(tmp_path, *twistd(*(f"--port={d}" for d in descriptions))))
        for port in ports:
            connect(port).close()
            chain = check(
                tmp_path,
                *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-showcerts"),
                *("-servername", "example.org"),
            )
            assert chain.count("BEGIN CERTIFICATE") == 2  # its own and that of the issuer
        first = serial_at(ports[0])
        assert {*map(serial_at, ports)} == {first}
        renew = ("--force-renewal", "--no-random-sleep-on-renew", f"--deploy-hook={hook}")
        check(tmp_path, "certbot", "renew", *places, "-n", *renew)
        wait_for(lambda: first not in {*map(serial_at, ports)})
        assert len({*map(serial_at, ports)}) == 1
    assert "Read the certificates in " in (tmp_path / "server.log").read_text()


@pytest.mark.skipif(not shutil.which("pebble"), reason="no pebble")
@pytest.mark.skipif(not shutil.which("lego"), reason="no lego")
def test_lego(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lego gets a certificate, and another one, and the server reads what it writes."""
    monkeypatch.setenv("LEGO_CA_CERTIFICATES", str(tmp_path / "pebble.crt"))
    port = free_port()
    first, again = (
        [
            {"/etc/lego": str(tmp_path / "lego"), "/var/lib/acme": str(tmp_path / "acme")}.get(w, w)
            for w in line.split()
        ]
        for line in re.findall(r"^    (lego .*)$", PAGE, re.M)
    )
    with acme(tmp_path) as url:
        check(tmp_path, "lego", f"--server={url}", *first[1:])
        path = tmp_path / "lego" / "certificates"
        with running(tmp_path, *twistd(f"--port=tls:{path}:port={port}")):
            connect(port).close()
            serial = serial_at(port)
            again[again.index("30")] = "4000"  # Pebble's are valid for five years
            check(tmp_path, "lego", f"--server={url}", *again[1:], "--no-random-sleep")
            wait_for(lambda: serial_at(port) != serial)


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")
def test_private_ca(tmp_path: Path) -> None:
    """The script's certificate is good for a client that knows the CA, and for no other; the check
    fails where one ends soon."""
    for name in ("make-ca.sh", "check-certificate.sh"):
        (tmp_path / name).write_text(FILES[name])
    check(tmp_path, "bash", "make-ca.sh")
    port = free_port()
    words = command("twistd -n --pidfile= hangup --port tls:./certificates")
    words = [word.replace("8443", str(port)) for word in words[words.index("--port") :]]
    (tmp_path / "public").mkdir()
    lines = re.findall(r"^    (openssl s_client .*)$", PAGE, re.M)
    verify, show = (line.replace("8443", str(port)) for line in lines)
    with running(tmp_path, *twistd(*words)):
        connect(port).close()
        assert "Verify return code: 0 (ok)" in check(tmp_path, "sh", "-c", verify)
        shown = check(tmp_path, "sh", "-c", show)
        assert re.search(r"^subject=CN ?= ?localhost$", shown, re.M) and "notAfter=" in shown
        other = verify.replace("-CAfile ca.crt ", "")
        assert status(tmp_path, "sh", "-c", other) == 1
        if shutil.which("curl"):
            url = f"https://localhost:{port}/"
            check(tmp_path, "curl", "--cacert", "ca.crt", url)
        soon = ["sh", "check-certificate.sh", "localhost", str(port)]
        assert "will not expire" in check(tmp_path, *soon)
        late = FILES["check-certificate.sh"].replace("1209600", str(91 * 86400))
        (tmp_path / "check-certificate.sh").write_text(late)
        assert status(tmp_path, *soon) == 1
