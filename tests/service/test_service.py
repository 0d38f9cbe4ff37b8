"""What the options of ``twistd hangup`` come to, over real sockets."""

from __future__ import annotations

import errno
import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from support.wire import BAD, SLOW, Client, Paths, in_thread, settled, talk, until
from twisted.internet.address import UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactor
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.web.resource import Resource
from twisted.web.test.requesthelper import DummyRequest

from twisted_hangup.service import Options, makeService
from twisted_hangup.service.ports import endpoint
from twisted_hangup.service.serving import CannotListen, HangupService
from twisted_hangup.service.welcome import WelcomePage

CLOSE = b"GET /%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

root = Paths()
number = 7


def nothing() -> None:
    """A callable that makes no resource."""


def crash() -> None:
    raise ZeroDivisionError("a bug of the operator's")


def application(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"wsgi " + environ["PATH_INFO"].encode()]


def answer(failure: Any, socket: Any) -> bytes:
    return b"answered by an operator's function\n"


class Running:
    """A service that has started, and its first port."""

    def __init__(self, service: Any) -> None:
        self.service: HangupService = service
        service.privilegedStartService()
        service.startService()
        [port] = service.ports  # listening once, though both starts would
        self.port: int = port.getHost().port


Run = Callable[..., Running]


def make(*arguments: str) -> Any:
    options = Options()
    options.parseOptions(["--port", "tcp:0:interface=127.0.0.1", *arguments])
    return makeService(options)


@pytest.fixture
def run() -> Iterator[Run]:
    """Start a service with these options; it is stopped at the end, if that was not done."""
    started: list[Running] = []

    def start(*arguments: str) -> Running:
        started.append(Running(make(*arguments)))
        return started[-1]

    yield start
    for running in started:
        if running.service.running:
            pytest_twisted.blockon(running.service.stopService())


@pytest_twisted.ensureDeferred
async def test_welcome(run: Run) -> None:
    """Without anything to serve, a page says how to go on, for the host that was asked."""
    port = run().port
    page = await talk(port, CLOSE.replace(b"Host: a", b"Host: example.org") % b"")
    assert page.startswith(b"HTTP/1.1 200 ")
    assert b"--path ./public" in page
    assert f"| nc example.org {port}".encode() in page
    assert (await talk(port, CLOSE % b"other")).startswith(b"HTTP/1.1 404 ")


@pytest_twisted.ensureDeferred
async def test_welcome_head(run: Run) -> None:
    """HEAD has the fields of GET and no page."""
    port = run().port
    page = await talk(port, CLOSE % b"")
    head = await talk(port, (CLOSE % b"").replace(b"GET", b"HEAD"))
    length = len(page.partition(b"\r\n\r\n")[2])
    assert b"\r\nContent-Length: %d\r\n" % length in head
    assert head.endswith(b"\r\n\r\n")


@pytest_twisted.ensureDeferred
async def test_welcome_escapes_the_host(run: Run) -> None:
    """A host that is none comes back as text."""
    page = await talk(run("--no-require-host").port, CLOSE.replace(b"Host: a", b"Host: <b>&") % b"")
    assert b"<b>" not in page
    assert b"&lt;b&gt;&amp;" in page


@pytest_twisted.ensureDeferred
async def test_welcome_on_ipv6(run: Run) -> None:
    """A literal address keeps its brackets where Host needs them, and nowhere else."""
    port = run().port
    page = await talk(port, CLOSE.replace(b"Host: a", b"Host: [::1]:80") % b"")
    assert rf"Host: [::1]\r\nBad Name: 1\r\n\r\n' | nc ::1 {port}".encode() in page


class OnUnixSocket(DummyRequest):
    def getHost(self) -> UNIXAddress:
        return UNIXAddress("/run/my web.sock")


def test_welcome_on_a_unix_socket() -> None:
    """On a UNIX socket the broken request goes to its path."""
    assert b"| nc -U '/run/my web.sock'</code>" in WelcomePage().render_GET(OnUnixSocket([b""]))


@pytest.mark.parametrize("target", [b"", b"nope?token=SECRET"])
@pytest_twisted.ensureDeferred
async def test_head_is_not_logged(run: Run, target: bytes) -> None:
    """Neither page makes Twisted log the target of a HEAD."""
    with capturedLogs() as events:
        await talk(run().port, (CLOSE % target).replace(b"GET", b"HEAD"))
    assert not [event for event in events if "HEAD request" in str(event.get("log_format"))]


@pytest_twisted.ensureDeferred
async def test_path(run: Run, tmp_path: Path) -> None:
    """--path serves a directory."""
    (tmp_path / "a.txt").write_text("file\n")
    assert (await talk(run("--path", str(tmp_path)).port, CLOSE % b"a.txt")).endswith(b"file\n")


@pytest.mark.parametrize("name", ["test_service.root", "support.wire.Paths"])
@pytest_twisted.ensureDeferred
async def test_resource(run: Run, name: str) -> None:
    """--resource serves a resource, or what a class makes."""
    assert (await talk(run("--resource", name).port, CLOSE % b"fast")).endswith(b"fast")


@pytest_twisted.ensureDeferred
async def test_wsgi(run: Run) -> None:
    """--wsgi serves an application in threads."""
    response = await talk(run("--wsgi", "test_service.application").port, CLOSE % b"x")
    assert b"wsgi /x" in response


@pytest_twisted.ensureDeferred
async def test_on_client_error(run: Run) -> None:
    """--on-client-error names functions that may answer."""
    port = run("--on-client-error", "test_service.answer").port
    assert await talk(port, BAD) == b"answered by an operator's function\n"


@pytest_twisted.ensureDeferred
async def test_limits_arrive(run: Run) -> None:
    """A limit from the command line holds on the wire."""
    port = run("--max-header-size", "64").port
    response = await talk(port, b"GET /" + b"a" * 64 + b" HTTP/1.1\r\n")
    assert response.startswith(b"HTTP/1.1 414 ")


@pytest_twisted.ensureDeferred
async def test_logs(run: Run, tmp_path: Path) -> None:
    """Each request is one line of the access log, each error one of the error log."""
    access, errors = tmp_path / "access", tmp_path / "errors"
    running = run("--resource", "test_service.root", "--access-log", str(access))
    second = run("--access-log", str(access), "--error-log", str(errors))
    await talk(running.port, CLOSE % b"fast")
    await talk(second.port, BAD)
    await talk(second.port, b"GET /never/finished?token=1 HTTP/1.1\r\nHo", fin=True)
    started = root.slow.started
    slow = await in_thread(lambda: Client(running.port).send(SLOW))
    await started
    slow.close()

    def lines() -> list[list[str]]:
        return [line.split('"')[1:3] for line in access.read_text().splitlines()]

    await until(lambda: len(lines()) == 4)
    assert lines() == [
        ["GET /fast HTTP/1.1", " 200 4 "],
        ["GET /fast HTTP/1.1", " 400 59 "],
        ["GET /never/finished?******* HTTP/1.1", " 400 59 "],
        ["GET /slow HTTP/1.1", " 499 - "],
    ]
    codes = [json.loads(line)["code"] for line in errors.read_text().splitlines()]
    assert codes == ["HPE_INVALID_HEADER_TOKEN", "HPE_INVALID_EOF_STATE"]


@pytest.mark.parametrize("asked, lines", [([], 0), (["--log-idle"], 1)], ids=["", "asked"])
@pytest_twisted.ensureDeferred
async def test_probe(run: Run, tmp_path: Path, asked: list[str], lines: int) -> None:
    """A probe has a line in each log with --log-idle, and in none without."""
    access, errors = tmp_path / "access", tmp_path / "errors"
    running = run("--access-log", str(access), "--error-log", str(errors), *asked)
    with capturedLogs() as events:
        client = await in_thread(lambda: Client(running.port))
        await until(lambda: running.service.site.open_connections)
        client.reset()
        await until(lambda: running.service.site.journal.quiet)
        await until(lambda: len(access.read_text().splitlines()) >= lines)
        await settled()
    assert [event["code"] for event in events] == ["ECONNRESET"] * lines
    assert [len(log.read_text().splitlines()) for log in (access, errors)] == [lines] * 2


@pytest.mark.parametrize(
    "choice, body",
    [
        (None, b"The server cannot read this request: it is not valid HTTP.\n"),
        ("plain", b"The server cannot read this request: it is not valid HTTP.\n"),
        ("none", b""),
        ("pages", b"my own\n"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_error_pages(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str | None, body: bytes
) -> None:
    """--error-pages chooses what a client reads; by default it is a sentence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "400.txt").write_bytes(b"my own\n")
    (tmp_path / "pages" / "style.css").write_bytes(b"")
    port = run(*([] if choice is None else ["--error-pages", choice])).port
    response = await talk(port, BAD)
    assert response.startswith(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n")
    assert response.partition(b"\r\n\r\n")[2] == body


@pytest_twisted.ensureDeferred
async def test_access_log_format(run: Run, tmp_path: Path) -> None:
    """A line is what --access-log-format says, of what was answered and of what was refused."""
    access = tmp_path / "access"
    running = run("--access-log", str(access), "--access-log-format", "%m %U %>s %D %E")
    await talk(running.port, CLOSE % b"?a=1")
    await talk(running.port, BAD)
    await until(lambda: access.read_text().count("\n") == 2)
    answered, refused = access.read_text().splitlines()
    method, path, status, microseconds, code = answered.split()
    assert (method, path, status, code) == ("GET", "/", "200", "-")
    assert int(microseconds) > 0
    assert refused == "GET /fast 400 - HPE_INVALID_HEADER_TOKEN"


@pytest.mark.parametrize("log", ["--access-log", "--error-log"])
@pytest_twisted.ensureDeferred
async def test_standard_output(run: Run, log: str, capfd: pytest.CaptureFixture[str]) -> None:
    """``-`` is the standard output of the process, past whatever replaced sys.stdout."""
    await talk(run(log, "-").port, BAD)
    output = ""

    def is_there() -> bool:
        nonlocal output
        output += capfd.readouterr().out
        return "HPE_INVALID_HEADER_TOKEN" in output or " 400 " in output

    await until(is_there)


def one(failure: object) -> None: ...


def three(failure: object, socket: object, more: object) -> None: ...


def yields(failure: object, socket: object) -> Iterator[None]:
    yield


async def asgi(scope: object, receive: object, send: object) -> None: ...


content = Resource()
klein_like = SimpleNamespace(resource=Resource)


MISTAKES = [
    (["--path", "/nowhere"], "--path: '/nowhere' does not exist"),
    (["--path", __file__], "is not a directory"),
    (["--resource", "nowhere.root"], "--resource: nowhere.root: there is no module 'nowhere' in /"),
    (["--resource", "nowhere:root"], "--resource: nowhere:root: there is no module 'nowhere' in /"),
    (["--resource", "test_service:nowhere"], "has no attribute 'nowhere'"),
    (["--resource", "test_service.nowhere"], "has no attribute 'nowhere'"),
    (["--resource", "a b"], "--resource: a b: "),
    (["--resource", ""], "--resource: : "),
    (["--resource", "test_service.number"], "is not a resource and cannot be called"),
    (["--resource", "test_service.nothing"], "returned NoneType, not an IResource"),
    (["--resource", "test_service.crash"], "ZeroDivisionError: a bug of the operator's ("),
    (["--resource", "test_service.application"], "is a WSGI application: use --wsgi"),
    (["--resource", "test_service.one"], "one must take no argument, and one takes (failure"),
    (["--resource", "test_service.klein_like"], "cannot be called: use test_service.klein_like.r"),
    (["--wsgi", "test_service.one"], "one must take (environ, start_response), and one takes"),
    (["--wsgi", "test_service.asgi"], "not a coroutine function: ASGI is not supported"),
    (["--wsgi", "test_service.content"], "cannot be called: a resource is served with --resource"),
    (["--on-client-error", "test_service.one"], "one must take (failure, socket), and one takes"),
    (["--on-client-error", "test_service.three"], "must take (failure, socket), and three takes"),
    (["--on-client-error", "test_service.yields"], "must not yield, as yields does: write async"),
    (["--wsgi", "test_service.number"], "--wsgi: test_service.number cannot be called"),
    (["--on-client-error", "test_service.number"], "cannot be called"),
    (["--access-log", "/nowhere/log"], "cannot write '/nowhere/log': No such file"),
    (["--error-log", "/"], "cannot write '/': Is a directory"),
    (["--error-pages", "/nowhere"], "'/nowhere' is not plain, not none, and cannot be read: No"),
    (["--error-pages", __file__], "and cannot be read: Not a directory"),
    (["--error-pages", str(Path(__file__).parent)], "has no page such as 404.html or 404.txt"),
    (["--access-log-format", "json"], "--access-log-format needs --access-log"),
    (["--access-log", "-", "--access-log-format", "%Z"], "--access-log-format: '%Z' is not one of"),
    (["--port", "nonsense:1"], "'nonsense' is not a kind of endpoint"),
    (["--port", "tcp:x"], "--port: 'tcp:x': 'x' is not a number"),
    (["--port", "127.0.0.1:8000"], "on one address, write tcp:8000:interface=127.0.0.1"),
    (["--port", "[::1]:8000"], r"on one address, write tcp6:8000:interface=\:\:1"),
    (["--port", "systemd:domain=INET:index=0"], "systemd has passed no such socket"),
    (["--port", "tcp:1:foo=bar"], "tcp has no option 'foo'"),
    (["--port", "haproxy:tcp"], "haproxy needs 'port'"),
    (["--port", "tcp6:1:interface=::1"], "a colon without a backslash before it"),
    (["--port", "unix:"], "the path of the socket is missing"),
    (["--port", "unix::mode=600"], "the path of the socket is missing"),
]


@pytest.mark.parametrize("arguments, complaint", MISTAKES, ids=lambda value: str(value)[:50])
def test_mistakes(arguments: list[str], complaint: str) -> None:
    """What the options name and is not there is told in one line."""
    with pytest.raises(UsageError) as caught:
        make(*arguments)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the operator's own module says where it is; the current folder counts."""
    (tmp_path / "broken_module.py").write_text("x = 1\ny = (\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"SyntaxError: .* \(.*broken_module.py, line 2\)"):
        make("--resource", "broken_module.root")


@pytest_twisted.ensureDeferred
async def test_port_in_use(run: Run) -> None:
    """A port that somebody has is told by the name that the operator gave it."""
    taken = f"tcp:{run().port}:interface=127.0.0.1"
    service = make("--port", taken)
    with pytest.raises(CannotListen, match=f"cannot listen on {taken}: Address already in use"):
        service.startService()
    await service.stopService()


def test_port_that_needs_a_privilege() -> None:
    """It says which, and of a UNIX socket it does not speak of ports."""
    refused = PermissionError(errno.EACCES, "Permission denied")
    for port, more in (
        (81, " (a port below 1024 needs CAP_NET_BIND_SERVICE; or use 8080)"),
        ("/s", ""),
    ):
        service = make("--port", "0")
        service._eb_listening(Failure(CannotListenError("", port, refused)), "port 81")
        assert str(service._problem) == f"cannot listen on port 81: Permission denied{more}"


@pytest_twisted.ensureDeferred
async def test_running_requests_are_finished(run: Run) -> None:
    """A service that stops takes no new clients and finishes what it has begun."""
    running = run("--resource", "test_service.root")
    started = root.slow.started
    client = await in_thread(lambda: Client(running.port).send(SLOW))
    request = await started
    ended: list[None] = []
    stopped = running.service.stopService().addCallback(ended.append)
    await settled()
    assert not ended
    with pytest.raises(ConnectionRefusedError):
        await in_thread(lambda: socket.create_connection(("127.0.0.1", running.port)))
    request.write(b"finished")
    request.finish()
    response = await in_thread(client.read_all)
    assert b"finished" in response
    client.close()
    await stopped


@pytest.mark.parametrize("hurry", [False, True])
@pytest_twisted.ensureDeferred
async def test_grace_ends(run: Run, hurry: bool) -> None:
    """After the grace time, or when told again, it hangs up on who is left."""
    running = run("--resource", "test_service.root", "--grace", "60" if hurry else "0.1")
    started = root.slow.started
    client = await in_thread(lambda: Client(running.port).send(SLOW))
    await started
    ended: list[None] = []
    stopped = running.service.stopService().addCallback(ended.append)
    if hurry:
        await settled()
        assert not ended
        running.service.end_grace()
    await stopped
    with pytest.raises(ConnectionResetError):
        await in_thread(client.read_all)
    client.close()


@pytest_twisted.ensureDeferred
async def test_full_server_ends(run: Run) -> None:
    """A server at its limit ends like any other, and nobody who waited is let in."""
    running = run("--max-connections", "1", "--grace", "0.1")
    clients = [await in_thread(lambda: Client(running.port)) for _ in range(2)]
    await settled()
    await running.service.stopService()
    for client in clients:
        client.close()


@pytest_twisted.ensureDeferred
async def test_library_use_leaves_signals_alone(run: Run) -> None:
    """Only a program that was started from a command line has its signals taken over."""
    before = signal.getsignal(signal.SIGTERM)
    await run().service.stopService()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "description, backlog",
    [
        ("tcp:80", 511),
        ("tcp:80:127.0.0.1", 511),
        ("tcp:80:127.0.0.1:40", 40),
        ("tcp6:80:backlog=3", 3),
        ("unix:/run/web.sock", 511),
        ("haproxy:tcp:80", 511),
    ],
)
def test_backlog(description: str, backlog: int) -> None:
    """Where nobody says how many may wait to be accepted, it is more than Twisted's 50."""
    port: Any = endpoint(description, MemoryReactor())
    inner = getattr(port._endpoint, "_wrappedEndpoint", port._endpoint)
    assert inner._backlog == backlog
