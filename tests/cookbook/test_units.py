"""docs/cookbook/{systemd,logrotate,docker}.md: units, configurations, and what they start."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from support.cookbook import check, files, running, status
from support.processes import BIN, connect, free_port
from support.wire import BAD, PATIENCE, Client, statuses, wait_for

from twisted_hangup.service.options import Options

SYSTEMD: Final = files("systemd")
DOCKER: Final = files("docker")
GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

#: Becomes the program in its arguments, with a socket as systemd hands it over: sd_listen_fds(3).
HAND_OVER: Final = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.argv[2], sys.argv[2:])
"""


def installed(folder: Path, page: dict[str, str]) -> None:
    """The files of the page, below *folder*, with a program that is there."""
    for name, text in page.items():
        path = folder / Path(name).relative_to("/etc/systemd/system")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace("/srv/hangup/.venv/bin/twist", "/bin/true"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd")
def test_units_are_systemds(tmp_path: Path) -> None:
    """systemd accepts the service, alone and with its socket, and finds it as safe as told."""
    alone = {name: text for name, text in SYSTEMD.items() if name.endswith("/hangup.service")}
    installed(tmp_path, alone)
    verify = ("systemd-analyze", "verify", "--man=no")
    assert "hangup" not in check(tmp_path, *verify, "./hangup.service")
    rated = check(tmp_path, "systemd-analyze", "security", "--offline=yes", "./hangup.service")
    [score] = re.findall(r"exposure level for hangup\.service: ([\d.]+)", rated)
    assert float(score) <= 1.9
    installed(tmp_path, SYSTEMD)
    assert "hangup" not in check(tmp_path, *verify, "./hangup.service", "./hangup.socket")


def command(name: str, **places: str) -> list[str]:
    """What the unit starts, with other *places* in it."""
    text = SYSTEMD[f"/etc/systemd/system/{name}"]
    line = re.findall(r"^ExecStart=(.+)$", text, re.M)[0]
    for theirs, ours in places.items():
        assert theirs in line, theirs
        line = line.replace(theirs, ours)
    return shlex.split(line)


def places(folder: Path) -> dict[str, str]:
    (folder / "public").mkdir()
    (folder / "public" / "index.html").write_text("hello\n")
    return {
        "/srv/hangup/.venv/bin": str(BIN),
        "/srv/hangup/public": str(folder / "public"),
        "/var/log/hangup": str(folder),
    }


def test_service(tmp_path: Path) -> None:
    """What the unit starts says that it is ready, reloads and stops, and logs where it is told."""
    from support.certificates import pem

    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "localhost.pem").write_bytes(pem())
    plain, tls, page = free_port(), free_port(), free_port()
    words = command(
        "hangup.service",
        **places(tmp_path),
        **{
            "--port 80 ": f"--port {plain} ",
            "port=443": f"port={tls}",
            "/etc/hangup/certificates": str(tmp_path / "certificates"),
            "--status 9000": f"--status {page}",
        },
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        with running(tmp_path, *words, env=environment) as server:
            assert systemd.recv(4096) == b"READY=1"
            assert statuses(asked(plain, BAD)) == [400]
            assert asked(tls, GET, tls=True).endswith(b"hello\n")
            server.send_signal(signal.SIGHUP)
            assert systemd.recv(4096).startswith(b"RELOADING=1\n")
            assert systemd.recv(4096) == b"READY=1"
            server.terminate()
            assert systemd.recv(4096) == b"STOPPING=1"
    assert "HPE_INVALID_HEADER_TOKEN" in (tmp_path / "errors.log").read_text()


def asked(port: int, wire: bytes, *, tls: bool = False) -> bytes:
    client = Client(port, tls=tls)
    try:
        return client.send(wire).read_all()
    finally:
        client.close()


def test_restart_with_a_socket(tmp_path: Path) -> None:
    """A client that connects while the server restarts waits, and gets its answer."""
    words = command("hangup.service.d/socket.conf", **places(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        os.set_inheritable(listening.fileno(), True)
        start = [sys.executable, "-c", HAND_OVER, str(listening.fileno()), *words]
        with running(tmp_path, *start, close_fds=False):
            assert asked(port, GET).endswith(b"hello\n")
        client = Client(port).send(GET)
        with running(tmp_path, *start, close_fds=False):
            assert client.read_all().endswith(b"hello\n")
        client.close()


LOGROTATE: Final = shutil.which("logrotate") or "/usr/sbin/logrotate"


@pytest.mark.skipif(not os.path.exists(LOGROTATE), reason="no logrotate")
def test_logrotate(tmp_path: Path) -> None:
    """After logrotate each log goes on in a new file, and the old ones have their lines."""
    logs, run = tmp_path / "log", tmp_path / "run"
    logs.mkdir()
    run.mkdir()
    port = free_port()

    def ours(text: str) -> str:
        return text.replace("/var/log/hangup", str(logs)).replace("/run/hangup", str(run))

    config = tmp_path / "hangup"
    config.write_text(ours(files("logrotate")["/etc/logrotate.d/hangup"]))
    config.chmod(0o644)
    page = (Path(__file__).parents[2] / "docs" / "cookbook" / "logrotate.md").read_text()
    [line] = re.findall(r"^    (twistd .*)$", page, re.M)
    words = shlex.split(ours(line).replace("8000", str(port)).replace("./public", "."))
    rotate = [LOGROTATE, "--state", str(tmp_path / "state")]
    with running(tmp_path, BIN / words[0], "--nodaemon", *words[1:]):
        connect(port).close()
        for _ in range(2):
            assert statuses(asked(port, BAD)) == [400]
            check(tmp_path, *rotate, "--debug", config)
            check(tmp_path, *rotate, "--force", config)
            wait_for(lambda: all((logs / f"{name}.log").exists() for name in NAMES))
        assert statuses(asked(port, BAD)) == [400]
    for name in NAMES:
        kept = sorted(path.name for path in logs.glob(f"{name}.log*"))
        assert kept == [f"{name}.log", f"{name}.log.1", f"{name}.log.2.gz"]
    assert len((logs / "errors.log").read_text().splitlines()) == 1


NAMES: Final = ("access", "errors", "server")


def instructions(name: str) -> list[str]:
    """The arguments of an instruction of the Dockerfile, in order."""
    text = DOCKER["Dockerfile"].replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", text, re.M)


def in_a_container(words: list[str], port: int) -> list[str]:
    """*words* of the Dockerfile, with the venv and the port of this test."""
    places = {"/venv/bin/": f"{BIN}/", "8000": str(port), "9000": str(free_port())}
    for theirs, here in places.items():
        words = [word.replace(theirs, here) for word in words]
    return words


def test_hadolint(tmp_path: Path) -> None:
    """The linter of Dockerfiles is content, but for versions that are not pinned."""
    hadolint = shutil.which("hadolint") or BIN / "hadolint"
    if not os.path.exists(hadolint):
        pytest.skip("no hadolint")
    (tmp_path / "Dockerfile").write_text(DOCKER["Dockerfile"])
    assert not check(tmp_path, hadolint, "--ignore=DL3013", "Dockerfile")


def test_compose_is_yaml() -> None:
    """The file is read, and its grace is longer than the server's."""
    yaml = pytest.importorskip("yaml")
    web = yaml.safe_load(DOCKER["compose.yaml"])["services"]["web"]
    options = Options()
    options.parseOptions([])
    assert int(web["stop_grace_period"].removesuffix("s")) > float(options["grace"])
    assert web["ports"] == [f"{port}:{port}" for port in instructions("EXPOSE")]


SLOW: Final = """\
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Site(Resource):
    isLeaf = True

    def render_GET(self, request):
        if request.path == b"/slow":
            print("working", flush=True)
            reactor.callLater(1, request.write, b"done\\n")
            reactor.callLater(1, request.finish)
            return NOT_DONE_YET
        return b"hello\\n"


root = Site()
"""


def unshared(*words: str) -> list[str]:
    """*words* as process 1, where all files but /tmp are read-only; none where that cannot be."""
    mount = 'mount --make-rprivate / && mount -o remount,bind,ro / && exec "$@"'
    wrapped = ["unshare", "--mount", "--pid", "--fork", "--kill-child=TERM"]
    wrapped += ["--mount-proc", "sh", "-c", mount, "sh"]
    with suppress(OSError):
        if status(Path.cwd(), *wrapped, "true") == 0:
            return [*wrapped, *words]
    return [*words]


def test_entry_point(tmp_path: Path) -> None:
    """As process 1 it serves, is healthy, and lets a request finish when it is stopped."""
    port = free_port()
    (tmp_path / "mysite.py").write_text(SLOW)
    words = in_a_container(
        [*json.loads(instructions("ENTRYPOINT")[0]), *json.loads(instructions("CMD")[0])], port
    )
    words[words.index("--path") : words.index("--path") + 2] = ["--resource", "mysite.root"]
    health = in_a_container(json.loads(instructions("HEALTHCHECK")[0].partition(" CMD ")[2]), port)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    assert status(tmp_path, *health) == 1
    with running(tmp_path, *unshared(*words), env=environment) as server:
        connect(port).close()
        check(tmp_path, *health)
        client = Client(port).send(GET.replace(b"/", b"/slow", 1))
        printed = tmp_path / f"{Path(unshared(*words)[0]).name}.out"
        wait_for(lambda: "working" in printed.read_text())
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        os.kill(int(children[0]) if children else server.pid, signal.SIGTERM)
        assert b"done\n" in client.read_all()
        client.close()
        # As process 1 it cannot end by the signal itself, as it does where it has no namespace.
        assert server.wait(PATIENCE) in (0, -signal.SIGTERM)
