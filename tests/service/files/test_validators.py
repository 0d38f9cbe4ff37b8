"""Who has the current file gets a 304, and ranges only of the file that he has begun with."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from support.wire import Serve, Served, talk

from twisted_hangup.service.files import StaticFiles

MODIFIED = 1_000_000_000.5
DATE = "Sun, 09 Sep 2001 01:46:41 GMT"
EARLIER = "Sun, 09 Sep 2001 01:46:40 GMT"
LATER = "Sun, 09 Sep 2001 01:46:42 GMT"
TAG = f'"{int(MODIFIED * 1e9):x}-5"'


class Files(StaticFiles):
    """Counts what is opened."""

    opened: list[str] = []

    def openForReading(self) -> Any:
        self.opened.append(self.path)
        return super().openForReading()


@pytest.fixture
def served(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    file = tmp_path / "file.txt"
    file.write_bytes(b"bytes")
    os.utime(file, (MODIFIED, MODIFIED))
    monkeypatch.setattr(Files, "opened", [])
    files = Files(str(tmp_path))
    files.out_of_files = pytest.fail
    return serve(files)


async def ask(served: Served, *fields: str, method: str = "GET") -> tuple[bytes, bytes]:
    """Head and body of the answer."""
    lines = [f"{method} /file.txt HTTP/1.1", "Host: a", "Connection: close", *fields]
    response = await talk(served.port, "\r\n".join([*lines, "", ""]).encode())
    head, _, body = response.partition(b"\r\n\r\n")
    return head + b"\r\n", body


KNOWN = [
    (f"If-None-Match: {TAG}",),
    (f"If-None-Match: W/{TAG}",),
    ("If-None-Match: *",),
    (f'If-None-Match: "a", "b,{TAG[1:]} , {TAG}, W/"c"',),
    ('If-None-Match: "a"', f"If-None-Match: {TAG}"),
    (f"If-None-Match: {TAG}", f"If-Modified-Since: {EARLIER}"),
    (f"If-Modified-Since: {DATE}",),
    (f"If-Modified-Since: {LATER}",),
    (f"If-Modified-Since: {DATE}; length=5",),
    (f"If-None-Match: {TAG}", "Range: bytes=0-1"),
]
UNKNOWN = [
    ('If-None-Match: "a"',),
    (f"If-None-Match: {TAG[1:-1]}",),
    (f"If-None-Match: {TAG[:-2]}",),
    ("If-None-Match:", f"If-None-Match: w/{TAG[1:]}"),
    ('If-None-Match: "*"',),
    ('If-None-Match: "a"', f"If-Modified-Since: {LATER}"),
    (f"If-Modified-Since: {EARLIER}",),
    ("If-Modified-Since: yesterday",),
    ("If-Modified-Since:",),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("fields", KNOWN, ids=" ".join)
@pytest_twisted.ensureDeferred
async def test_client_that_has_the_file(
    served: Served, fields: tuple[str, ...], method: str
) -> None:
    """It gets a 304 with the validators and without a body; the file is never opened."""
    head, body = await ask(served, *fields, method=method)
    assert head.startswith(b"HTTP/1.1 304 ")
    assert f"\r\nLast-Modified: {DATE}\r\nETag: {TAG}\r\n".encode() in head
    assert b"\r\nContent-Length:" not in head
    assert body == b""
    assert Files.opened == []


@pytest.mark.parametrize("fields", UNKNOWN, ids=" ".join)
@pytest_twisted.ensureDeferred
async def test_client_that_has_not(served: Served, fields: tuple[str, ...]) -> None:
    """It gets the file, which is opened once."""
    head, body = await ask(served, *fields)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"\r\nLast-Modified: {DATE}\r\nETag: {TAG}\r\n".encode() in head
    assert body == b"bytes"
    assert len(Files.opened) == 1


@pytest_twisted.ensureDeferred
async def test_head(served: Served) -> None:
    """HEAD gets what GET gets, without an open."""
    head, body = await ask(served, method="HEAD")
    whole, content = await ask(served)
    assert re.sub(rb"Date: .*", b"", head) == re.sub(rb"Date: .*", b"", whole)
    assert (body, content) == (b"", b"bytes")
    assert len(Files.opened) == 1


@pytest.mark.parametrize("fields", [(), (f"If-None-Match: {TAG}",)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest_twisted.ensureDeferred
async def test_file_that_may_not_be_read(
    served: Served, fields: tuple[str, ...], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a 403, whoever asks."""

    def refused(self: StaticFiles) -> Any:
        raise PermissionError(13, "by this test")

    monkeypatch.setattr(Files, "openForReading", refused)  # root may read everything
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    head, _ = await ask(served, *fields, method=method)
    assert head.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "value, status",
    [
        (TAG, 206),
        (f" {TAG} ", 206),
        (DATE, 206),
        (f"W/{TAG}", 200),
        ('"a"', 200),
        (EARLIER, 200),
        (LATER, 200),
        ("", 200),
    ],
)
@pytest_twisted.ensureDeferred
async def test_if_range(served: Served, value: str, status: int) -> None:
    """A client that continues a download gets the rest of that file, or all of the new one."""
    head, body = await ask(served, f"If-Range: {value}", "Range: bytes=3-")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert body == (b"es" if status == 206 else b"bytes")


@pytest_twisted.ensureDeferred
async def test_file_that_changes(served: Served, tmp_path: Path) -> None:
    """Another length or another moment is another tag."""
    tags = set()
    for content, moment in [(b"bytes", 1.0), (b"byte", 1.0), (b"bytes", 1.001)]:
        (tmp_path / "file.txt").write_bytes(content)
        os.utime(tmp_path / "file.txt", (moment, moment))
        head, _ = await ask(served)
        tags.add(head.partition(b"ETag: ")[2])
    assert len(tags) == 3
