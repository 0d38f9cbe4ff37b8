"""Static files: what was put there to be served, and nothing else."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from support.wire import Serve, talk
from twisted.logger import capturedLogs
from twisted.web.resource import Resource
from twisted.web.server import Request
from twisted.web.static import File

from twisted_hangup.service.files import StaticFiles


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StaticFiles]:
    (tmp_path / "page.html").write_text("<p>page")
    (tmp_path / "README").write_text("no type")
    (tmp_path / "ünï.txt").write_text("unicode")
    (tmp_path / ".env").write_text("SECRET=1")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("secret")
    (tmp_path / ".git" / ".hidden").write_text("secret")
    (tmp_path / "empty").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("index")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    special = socket.socket(socket.AF_UNIX)
    special.bind("special")
    files = StaticFiles(str(tmp_path))
    files.out_of_files = pytest.fail
    yield files
    special.close()


async def get(serve: Serve, files: Resource, target: str, method: str = "GET") -> bytes:
    served = serve(files)
    request = f"{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    return await talk(served.port, request.encode())


FOUND = [
    ("/page.html", 200, b"<p>page"),
    ("/README", 200, b"no type"),
    ("/%C3%BCn%C3%AF.txt", 200, b"unicode"),
    ("/site/", 200, b"index"),
    ("/site", 302, b""),
    ("http://a/page.html?x=http://b/README", 200, b"<p>page"),
    ("HTTPS://a:8000/%C3%BCn%C3%AF.txt", 200, b"unicode"),
    ("http://a/site/", 200, b"index"),
    ("http://a/site", 302, b""),
    ("http://a", 403, b""),
    ("http://a/", 403, b""),
    ("http://a/.env", 404, b""),
    ("http://a/..%2f..%2fetc/passwd", 404, b""),
    ("//page.html", 403, b""),
    ("http://a//page.html", 403, b""),
    ("ftp://a/page.html", 404, b""),
    ("/nix", 404, b""),
    ("/page.html/more", 404, b""),
    ("/empty/", 403, b""),
    ("/", 403, b""),
    ("/.env", 404, b""),
    ("/%2eenv", 404, b""),
    ("/.git/config", 404, b""),
    ("/site/../.env", 404, b""),
    ("/%2e%2e/%2e%2e/etc/passwd", 404, b""),
    ("/..%2f..%2fetc/passwd", 404, b""),
    ("/special", 404, b""),
    ("/%FF", 404, b""),
    ("/page.html%00", 404, b""),
    ("/%0d%0aX: y", 400, b""),
    ("/%0d%0aX:y", 404, b""),
    ("/" + "a" * 5000, 404, b""),
]


@pytest.mark.parametrize("target, status, body", FOUND, ids=lambda value: str(value)[:30])
@pytest_twisted.ensureDeferred
async def test_found(
    serve: Serve, files: StaticFiles, target: str, status: int, body: bytes
) -> None:
    """Files and index pages are served; what is hidden, special or absent is not."""
    response = await get(serve, files, target)
    head, _, content = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    if body:
        assert content == body


@pytest.mark.parametrize(
    "target, kind",
    [("/page.html", b"text/html"), ("/README", b"application/octet-stream")],
)
@pytest_twisted.ensureDeferred
async def test_types(serve: Serve, files: StaticFiles, target: str, kind: bytes) -> None:
    """What has no type is no web page: nobody's upload runs as a script."""
    response = await get(serve, files, target, "HEAD")
    assert b"\r\nContent-Type: " + kind + b"\r\n" in response
    assert response.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("target", ["/.env", "/.git/config", "/.git/.hidden"])
@pytest_twisted.ensureDeferred
async def test_dotfiles_on_request(serve: Serve, files: StaticFiles, target: str) -> None:
    """With dotfiles allowed they are files like others, in every directory."""
    files.dotfiles = True
    assert (await get(serve, files, target)).startswith(b"HTTP/1.1 200 ")


LINKS = [
    ("/out", False, 404),
    ("/up/secret", False, 404),
    ("/out", True, 200),
    ("/up/secret", True, 200),
    ("/in", False, 200),
    ("/in-dir/index.html", False, 200),
]


@pytest.mark.parametrize("target, follow, status", LINKS)
@pytest_twisted.ensureDeferred
async def test_links(
    serve: Serve, files: StaticFiles, tmp_path: Path, target: str, follow: bool, status: int
) -> None:
    """A link may point at what is served anyway; out of the directory only on request."""
    outside = tmp_path.parent / f"{tmp_path.name}-outside"  # has the name of the root in front
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (tmp_path / "out").symlink_to(outside / "secret")
    (tmp_path / "up").symlink_to(outside)
    (tmp_path / "in").symlink_to("page.html")
    (tmp_path / "in-dir").symlink_to("site")
    files.follow_links = follow
    assert (await get(serve, files, target)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("target", ["/nix?token=SECRET", "/empty/?token=SECRET", "/site"])
@pytest_twisted.ensureDeferred
async def test_head_of_an_error(serve: Serve, files: StaticFiles, target: str) -> None:
    """HEAD has the fields of GET, and nothing of the target comes into the log."""
    with capturedLogs() as events:
        page = await get(serve, files, target)
        head = await get(serve, files, target, "HEAD")
    length = len(page.partition(b"\r\n\r\n")[2])
    assert b"\r\nContent-Length: %d\r\n" % length in head
    assert head.endswith(b"\r\n\r\n")
    assert not [event for event in events if "HEAD request" in str(event.get("log_format"))]


@pytest_twisted.ensureDeferred
async def test_out_of_files(
    serve: Serve, files: StaticFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file to open the client is told to come back, and no traceback is logged."""

    def none_left(self: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    warnings: list[str] = []
    files.out_of_files = lambda text, **_: warnings.append(text)
    monkeypatch.setattr(StaticFiles, "openForReading", none_left)
    response = await get(serve, files, "/page.html")
    assert response.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in response
    assert warnings == ["Out of files: {path} could not be opened"]


@pytest_twisted.ensureDeferred
async def test_out_of_files_in_a_program(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that nobody has set up logs that, but not for each client."""

    def none_left(self: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    (tmp_path / "page.html").write_text("<p>page")
    monkeypatch.setattr(StaticFiles, "openForReading", none_left)
    with capturedLogs() as events:
        for _ in range(3):
            files = StaticFiles(str(tmp_path))
            assert (await get(serve, files, "/page.html")).startswith(b"HTTP/1.1 503 ")
    assert 1 <= sum("Out of files" in str(event.get("log_format")) for event in events) < 3


class Reports(Resource):
    """Sends one file, whatever is asked of it."""

    isLeaf = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def render_GET(self, request: Request) -> Any:
        request.setHeader(b"Content-Disposition", b"attachment")
        return StaticFiles(str(self.path)).render(request)


@pytest.mark.parametrize("now", ["pipe", "directory", "nothing"])
@pytest_twisted.ensureDeferred
async def test_what_has_become_of_a_file(serve: Serve, tmp_path: Path, now: str) -> None:
    """What was a file when it was looked up is not served as anything else, nor waited for."""

    class Replaced(StaticFiles):
        def openForReading(self) -> FileIO:
            os.unlink(self.path)
            if now == "pipe":
                os.mkfifo(self.path)
            elif now == "directory":
                os.mkdir(self.path)
            return super().openForReading()

    (tmp_path / "file").write_text("content")
    response = await get(serve, Replaced(str(tmp_path)), "/file")
    assert response.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest_twisted.ensureDeferred
async def test_one_file(serve: Serve, tmp_path: Path, method: str) -> None:
    """A resource of an application sends a file with it, with headers of its own."""
    path = tmp_path / "report.csv"
    path.write_bytes(b"1,2\n" * 30_000)
    answer = await get(serve, Reports(path), "/any/thing", method)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    for line in (b"Content-Disposition: attachment", b"Content-Length: 120000", b"ETag: "):
        assert b"\r\n" + line in head
    assert body == (path.read_bytes() if method == "GET" else b"")
    path.unlink()
    assert (await get(serve, Reports(path), "/")).startswith(b"HTTP/1.1 404 ")


async def ranges(
    serve: Serve, files: StaticFiles, target: str, value: bytes
) -> tuple[bytes, bytes]:
    """Head and body of the answer to a Range."""
    request = b"GET %b HTTP/1.1\r\nHost: a\r\nRange: %b\r\nConnection: close\r\n\r\n"
    response = await talk(serve(files).port, request % (target.encode(), value))
    head, _, body = response.partition(b"\r\n\r\n")
    return head, body


RANGES = [
    ("/page.html", b"bytes=3-", 206, b"page"),
    ("/page.html", b"bytes=-500", 206, b"<p>page"),
    ("/page.html", b"bytes=99-", 416, b""),
    ("/page.html", b"bytes=", 200, b"<p>page"),
    ("/page.html", b"bytes=\xb2-", 200, b"<p>page"),
    ("/page.html", b"bytes=0-,0-,0-", 200, b"<p>page"),
    ("/nothing", b"bytes=-500", 200, b""),
    ("/nothing", b"bytes=0-0,1-1,-1", 200, b""),
]


@pytest.mark.parametrize("target, value, status, body", RANGES)
@pytest_twisted.ensureDeferred
async def test_ranges(
    serve: Serve,
    files: StaticFiles,
    tmp_path: Path,
    target: str,
    value: bytes,
    status: int,
    body: bytes,
) -> None:
    """Whatever Range a client sends, it is answered, and nothing is logged for that."""
    (tmp_path / "nothing").touch()
    with capturedLogs() as events:
        head, content = await ranges(serve, files, target, value)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert content == body
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head + b"\r\n"
    assert not [event for event in events if "ange" in str(event.get("log_format"))]


@pytest_twisted.ensureDeferred
async def test_several_ranges(serve: Serve, files: StaticFiles) -> None:
    """Two parts that do not overlap come as two, in the order asked for."""
    head, body = await ranges(serve, files, "/page.html", b"bytes=5-6,0-1,99-")
    assert head.startswith(b"HTTP/1.1 206 ")
    assert b"multipart/byteranges" in head
    parts = re.findall(rb"Content-range: bytes (.*)\r\n\r\n(.*)\r\n", body)
    assert parts == [(b"5-6/7", b"ge"), (b"0-1/7", b"<p")]


def tree(folder: Path) -> Path:
    """Directories and files with names of every kind."""
    if not folder.exists():
        for name in ("a", "a.a", "aü", "a b", "a\\", "~", "a%", "*"):
            (folder / "d" / name).mkdir(parents=True)
            (folder / name).write_text(name)
            (folder / "d" / name / "a").write_text(name)
    return folder


@given(
    path=st.lists(st.text("ad./ü \\~%*", max_size=4), min_size=1, max_size=3), dots=st.booleans()
)
def test_lookup_is_twisteds(
    tmp_path_factory: pytest.TempPathFactory, path: list[str], dots: bool
) -> None:
    """Names are looked up as Twisted does; only what is hidden is not there."""
    root = tree(tmp_path_factory.getbasetemp() / "tree")
    ours: Any = StaticFiles(str(root))
    ours.dotfiles = dots
    twisteds: Any = File(str(root))
    twisteds.indexNames = ours.indexNames
    for name in path:
        ours, twisteds = (one.getChild(name.encode(), None) for one in (ours, twisteds))
        served = isinstance(twisteds, File) and not (name.startswith(".") and not dots)
        assert isinstance(ours, StaticFiles) == served
        if not served:
            break
        assert ours.path == twisteds.path
        assert (ours.dotfiles, ours.root) == (dots, str(root))
        assert ours.children == {}
