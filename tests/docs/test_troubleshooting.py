"""The messages on docs/troubleshooting.md are those that come."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from support.documents import PAGES
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger, formatEvent
from twisted.python.usage import UsageError
from twisted.web.resource import Resource
from zope.interface import implementer

import twisted_hangup
from twisted_hangup import HangupSite
from twisted_hangup.journal import ConsoleLog
from twisted_hangup.service import makeService
from twisted_hangup.service.options import Options
from twisted_hangup.testing import feed

PAGE: Final = PAGES["troubleshooting"].read_text()
SOURCE: Final = Path(twisted_hangup.__file__).parent


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "8000", "--status", "8000"],
        ["--resource", "mysite.root"],
        ["--port", "tls:./certificates:port=8443"],
    ],
    ids=lambda options: options[-1],
)
def test_refused_at_the_start(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command line answers, but for the folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "certificates").mkdir()

    def start() -> None:
        parsed = Options()
        parsed.parseOptions(options)
        makeService(parsed)

    with pytest.raises(UsageError) as refused:
        start()
    message = str(refused.value).replace(f"{tmp_path}/certificates", "./certificates")
    assert f"    hangup: {message.replace(str(tmp_path), '/srv/site')}\n" in PAGE


@pytest.mark.parametrize(
    "wire",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 54716 8000\r\nGET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
        b"Cookie: " + b"a" * 17_000 + b"\r\n\r\n",
    ],
    ids=["TLS", "PROXY", "cookies"],
)
def test_lines_of_the_log(wire: bytes) -> None:
    """Code, reason and guess are those of the page; what the client sent is its own."""
    events: list[LogEvent] = []
    clock = Clock()
    site = HangupSite(Resource(), reactor=clock)

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        events.append(event)

    site.journal.watch(ConsoleLog(clock, logger=Logger(observer=observe)))
    feed(site, wire)
    [line] = map(formatEvent, events)
    parts = re.fullmatch(r'(\d+ \w+ ".*?") at byte .*?( \(looks like .*\))', str(line))
    assert parts is not None
    code, guess = parts.groups()
    assert re.search(rf"^    {re.escape(code)} at byte .*{re.escape(guess)}$", PAGE, re.M)


@pytest.mark.parametrize(
    "words",
    [
        "(a port below 1024 needs CAP_NET_BIND_SERVICE; or use 8080)",
        "connections, as many as one address may have; more are closed",
        "metrics need prometheus_client: pip install 'twisted_hangup[metrics]'",
        "returned None, but neither answered nor closed within",
        "call forward_client_errors(site) first, or listen with HangupSite(resource)",
        "Missing PROXY protocol header",
        "no answer in time",
        "This page answers only under its address: open ",
    ],
)
def test_words_of_the_source(words: str) -> None:
    """What takes a kernel to provoke stands in the source as it stands on the page."""
    source = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    joined = re.sub(r'"\s+(?:f?")', "", source)
    assert words in PAGE
    assert words in joined
