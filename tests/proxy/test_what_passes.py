"""The table "What passes" of docs/proxy.md, from what servers and clients really saw.

Each row is asked for through every front, with a body that is held and one that is passed on while
it comes.  A cell says what came out, in the words of this file; after a semicolon it may say more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import pytest_twisted
from support.certificates import server_context
from support.http2_client import H2Client
from support.upstreams import Connection, RawServer
from support.wire import Client, Serve, in_thread

from twisted_hangup import ProxyResource
from twisted_hangup.events import NEED_DATA, EndOfMessage, Field, RequestHead, ResponseHead
from twisted_hangup.limits import Limits
from twisted_hangup.parser import RequestParser
from twisted_hangup.parser.response import ResponseParser
from twisted_hangup.proxy.forwarding import IDENTITY, Forwarding
from twisted_hangup.server import bodies

PAGE: Final = Path(__file__).parents[2] / "docs" / "proxy.md"
FRONTS: Final = ("HTTP/1.0", "HTTP/1.1", "HTTP/2")
#: What comes out on each side; None if this way has no such thing.
Cells: TypeAlias = tuple[str | None, str | None]

CHUNKED: Final = (b"Transfer-Encoding", b"chunked")
EMPTY: Final = (b"Content-Length", b"0")


@dataclass
class Answer:
    """What a client got: the last head, and what came before and after it."""

    status: int = 0
    reason: bytes = b""
    fields: list[Field] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)
    trailers: list[Field] = field(default_factory=list)


class Way:
    """One way through the proxy, to the server behind it.

    Args:
        front: The client's HTTP.
        held: Whether bodies are held.

    Attributes:
        port: Of the proxy.
        seen: The last request that the server got, and its trailers.
    """

    def __init__(self, front: str, held: bool) -> None:
        self.front, self.held = front, held
        self.port = 0
        self.seen: RequestHead | None = None
        self.trailers: list[Field] = []
        self._answer = b""

    def serve(self, connection: Connection) -> None:
        """Read one request, and answer it."""
        parser = RequestParser(Limits())
        while True:
            event = parser.next_event()
            if event is NEED_DATA:
                data = connection.socket.recv(65536)
                if not data:
                    return
                parser.receive(data)
            elif isinstance(event, RequestHead):
                self.seen = event
                if event.upgrade:
                    break
            elif isinstance(event, EndOfMessage):
                self.trailers = event.trailers
                break
        connection.send(self._answer)

    def ask(
        self,
        *fields: Field,
        method: bytes = b"POST",
        target: bytes = b"/a%2Fb?c",
        body: bytes = b"hi",
        trailers: list[Field] | None = None,
        status: bytes = b"200 Fine",
        answer: list[Field] | None = None,
        interim: bytes = b"",
        content: bytes = b"",
    ) -> Answer:
        """Send a request with *fields*; the server's answer has *answer* and *content*."""
        self.seen = None
        head = b"".join(b"%b: %b\r\n" % line for line in [EMPTY] if answer is None)
        head += b"".join(b"%b: %b\r\n" % line for line in answer or [])
        self._answer = b"%bHTTP/1.1 %b\r\n%b\r\n%b" % (interim, status, head, content)
        lines = list(fields)
        if self.front == "HTTP/2":
            return self._ask_http2(method, target, lines, body, trailers)
        chunked = CHUNKED in lines
        if body and not chunked:
            lines.append((b"Content-Length", b"%d" % len(body)))
        end = b"".join(b"%b: %b\r\n" % line for line in trailers or [])
        wire = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, end) if chunked else body
        head = b"".join(b"%b: %b\r\n" % line for line in [(b"Host", b"a"), *lines])
        request = b"%b %b %b\r\n%b\r\n%b" % (method, target, self.front.encode(), head, wire)
        client = Client(self.port).send(request)
        parser, got = ResponseParser(Limits()), Answer()
        parser.expect(method, upgrade=True)
        while True:
            event: Any = parser.next_event()
            if event is NEED_DATA:
                data = client.socket.recv(65536)
                if not data:
                    break
                parser.receive(data)
            elif isinstance(event, EndOfMessage):
                got.trailers = event.trailers
                break
            elif isinstance(event, ResponseHead):
                if event.interim:
                    got.interim.append(event.status)
                else:
                    got.status, got.reason, got.fields = event.status, event.reason, event.fields
                if event.upgrade:
                    break
        client.close()
        return got

    def _ask_http2(
        self,
        method: bytes,
        target: bytes,
        lines: list[Field],
        body: bytes,
        trailers: list[Field] | None,
    ) -> Answer:
        client = H2Client(self.port)
        pseudo = [(b":method", method), (b":scheme", b"https"), (b":authority", b"a")]
        pseudo.append((b":path", target))
        if body and CHUNKED not in lines:
            lines = [*lines, (b"content-length", b"%d" % len(body))]
        small = [(name.lower(), value) for name, value in lines if (name, value) != CHUNKED]
        head = client.headers(pseudo + small, end=not body)
        client.send(head)
        if body:
            client.data(head.stream_id, body, end=not trailers)
        if trailers:
            client.send(client.headers(trailers, stream=head.stream_id))
        stream = client.answer(head.stream_id)
        client.close()
        assert stream.status is not None
        fields = [one for one in stream.lines if not one[0].startswith(b":")]
        return Answer(stream.status, b"", fields, stream.statuses[:-1])

    def passed(self, *fields: Field) -> Cells:
        """What becomes of *fields* in a request, and in a response."""
        lines = [line for line in fields if self.front != "HTTP/2" or line[0] not in FORBIDDEN]
        got = self.ask(*lines)
        assert self.seen is not None
        up = verdict(lines, self.seen.fields)
        got = self.ask(answer=[*fields, EMPTY])
        return up, verdict(list(fields), got.fields)


#: No request of HTTP/2 has them (RFC 9113, section 8.2.2).
FORBIDDEN: Final = {b"Connection", b"Keep-Alive", b"Proxy-Connection", b"Upgrade", b"TE"}


def verdict(sent: list[Field], came: list[Field]) -> str:
    """What has become of the lines of *sent*; only those with one name have an order."""
    names = {name.lower() for name, _ in sent}
    sent = sorted(((name.lower(), value) for name, value in sent), key=name_of)
    came = sorted(((name.lower(), value) for name, value in came), key=name_of)
    came = [one for one in came if one[0] in names]
    if came == sent:
        return "unchanged"
    if not came:
        return "no"
    if came[: len(sent)] == sent and len(came) == len(sent) + 1:
        return "one line added"
    if came == [(sent[0][0], b"; ".join(value for _, value in sent))]:
        return "one line"
    return "the proxy's own" if not {*sent} & {*came} else f"mixed: {came}"


def name_of(line: Field) -> bytes:
    return line[0]


def framing(fields: list[Field]) -> str:
    """The header that says where a body ends."""
    lines = [
        f"`{name.decode().title()}`"
        for name, value in fields
        if name.lower() in (b"content-length", b"transfer-encoding")
    ]
    assert len(lines) < 2, fields
    return lines[0] if lines else "neither"


def line(way: Way) -> Cells:
    way.ask()
    assert way.seen is not None
    same = (way.seen.method, way.seen.target) == (b"POST", b"/a%2Fb?c")
    return "unchanged" if same else "another", ""


def status(way: Way) -> Cells:
    got = way.ask(status=b"218 This is fine")
    reason = b"" if way.front == "HTTP/2" else b"This is fine"
    return "", "unchanged" if (got.status, got.reason) == (218, reason) else "another"


def host(way: Way) -> Cells:
    way.ask()
    assert way.seen is not None
    hosts = [value for name, value in way.seen.fields if name == b"Host"]
    return "unchanged" if hosts == [b"a"] else f"{hosts}", ""


def length(way: Way) -> Cells:
    got = way.ask(answer=[(b"Content-Length", b"2")] * 2, content=b"ok")
    assert way.seen is not None
    return framing(way.seen.fields), framing(got.fields)


def chunks(way: Way) -> Cells:
    got = way.ask(*coded(way), answer=[CHUNKED], content=b"2\r\nok\r\n0\r\n\r\n")
    assert way.seen is not None
    return framing(way.seen.fields) if coded(way) else None, framing(got.fields)


def coded(way: Way) -> list[Field]:
    """What asks for chunks, which HTTP/1.0 has not."""
    return [] if way.front == "HTTP/1.0" else [CHUNKED]


def no_content(way: Way) -> Cells:
    got = way.ask(status=b"204 No", answer=[EMPTY])
    return "", framing(got.fields)


def not_modified(way: Way) -> Cells:
    got = way.ask(method=b"GET", body=b"", status=b"304 No", answer=[(b"Content-Length", b"9")])
    head = way.ask(method=b"HEAD", body=b"", answer=[(b"Content-Length", b"9")])
    assert framing(got.fields) == framing(head.fields)
    return "", verdict([(b"Content-Length", b"9")], got.fields)


def nothing(way: Way) -> Cells:
    way.ask(method=b"GET", body=b"")
    assert way.seen is not None and framing(way.seen.fields) == "neither"
    way.ask(method=b"POST", body=b"")
    return "`Content-Length: 0`" if EMPTY in way.seen.fields else "neither", ""


def trailers(way: Way) -> Cells:
    lines = [(b"x-sum", b"1"), (b"set-cookie", b"a=1")]
    way.ask(*coded(way), trailers=[(b"x", b"y")] if coded(way) else None)
    assert way.seen is not None and (b"x", b"y") not in way.seen.fields
    up = "no" if not way.trailers else "passed"
    tail = b"".join(b"%b: %b\r\n" % line for line in lines)
    content = b"2\r\nok\r\n0\r\n%b\r\n" % tail
    assert not way.ask(answer=[CHUNKED], content=content).trailers
    asked = [(b"TE", b"trailers"), (b"Connection", b"TE")][: 1 if way.front == "HTTP/2" else 2]
    got = way.ask(*asked, answer=[CHUNKED], content=content)
    return up, "yes" if got.trailers == lines[:1] else "no"


def te(way: Way) -> Cells:
    ours = [(b"TE", b"trailers"), (b"Connection", b"TE")]
    way.ask(*ours[: 1 if way.front == "HTTP/2" else 2])
    assert way.seen is not None
    return verdict(ours, way.seen.fields), way.passed((b"TE", b"trailers"))[1]


def hop_by_hop(way: Way) -> Cells:
    listed = [(b"Connection", b"X-Listed, keep-alive, content-length, host")]
    own = [(b"X-Listed", b"1"), (b"Keep-Alive", b"timeout=9")]
    if way.front == "HTTP/2":
        listed, own = [], []
    own += named(b"Proxy", b"Proxy-Authorization", b"Proxy-Authenticate", b"Trailer")
    own += named(b"HTTP2-Settings")
    way.ask(*listed, *own)
    assert way.seen is not None and framing(way.seen.fields) == "`Content-Length`"
    got = way.ask(answer=[*listed, *own, EMPTY])
    assert framing(got.fields) == "`Content-Length`"
    assert not {*listed} & {*way.seen.fields, *got.fields}
    return verdict(own, way.seen.fields), verdict(own, got.fields)


def other_te(way: Way) -> Cells:
    up, down = way.passed((b"TE", b"gzip"))
    return None if way.front == "HTTP/2" else up, down


def date(way: Way) -> Cells:
    assert b"date" in [name.lower() for name, _ in way.ask().fields]
    return "", way.passed((b"Date", b"never"))[1]


def server(way: Way) -> Cells:
    assert b"server" not in [name.lower() for name, _ in way.ask().fields]
    return "", way.passed((b"Server", b"x"))[1]


def interim(way: Way) -> Cells:
    hints = b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n"
    passed = way.ask(interim=hints).interim
    if way.front == "HTTP/1.0":
        return "", None if not passed else "yes"
    return "", "yes" if passed == [103] else "no"


def expect(way: Way) -> Cells:
    way.ask((b"Expect", b"100-continue"))
    assert way.seen is not None
    return verdict([(b"Expect", b"100-continue")], way.seen.fields), ""


def forwards(way: Way) -> Cells:
    assert way.ask((b"Max-Forwards", b"0"), method=b"OPTIONS", body=b"").status == 204
    assert way.ask((b"Max-Forwards", b"0"), method=b"TRACE", body=b"").status in (405, 501)
    assert way.seen is None
    way.ask((b"Max-Forwards", b"3"), method=b"OPTIONS", body=b"")
    assert way.seen is not None
    return "one less" if (b"Max-Forwards", b"2") in way.seen.fields else "unchanged", ""


def answered_here(way: Way) -> Cells:
    way.ask(method=b"OPTIONS", target=b"*", body=b"")
    if way.front != "HTTP/2":
        assert way.ask(method=b"CONNECT", target=b"b:80", body=b"").status == 501
    return "no" if way.seen is None else "passed", ""


def upgrade(way: Way) -> Cells:
    if way.front == "HTTP/2":
        return "no", None
    wanted = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    got = way.ask(*wanted, method=b"GET", body=b"", status=b"101 Go", answer=wanted)
    assert way.seen is not None
    crossed = got.status == 101 and verdict(wanted, way.seen.fields) != "no"
    way.ask((b"Connection", b"Upgrade"), (b"Upgrade", b"h2c"), method=b"GET", body=b"")
    assert verdict(wanted[1:], way.seen.fields) == "no"
    return ("unchanged", verdict(wanted[1:], got.fields)) if crossed else ("no", None)


def lines(*fields: Field) -> Callable[[Way], Cells]:
    """What becomes of these lines."""
    return lambda way: way.passed(*fields)


def named(*names: bytes) -> list[Field]:
    return [(name, b"x") for name in names]


FORWARDED: Final = named(
    b"Forwarded", b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host"
)
OTHERS: Final = IDENTITY - {name.lower() for name, _ in FORWARDED}

#: The first cell of each row, and what comes out.
ROWS: Final[dict[str, Callable[[Way], Cells]]] = {
    "method and request target": line,
    "status and reason phrase": status,
    "`Host`": host,
    "several lines of `Cookie`": lambda way: (
        way.passed((b"Cookie", b"a=1"), (b"Cookie", b"b=2"))[0],
        "",
    ),
    "all other headers, also repeated ones (`Set-Cookie`)": lines(
        *((b"X", b"\xff"), (b"Set-Cookie", b"b"), (b"Set-Cookie", b"a"), (b"X", b"")),
        *((b"Content-Encoding", b"gzip"), (b"X_Y", b"z"), (b"Authorization", b"Basic x")),
    ),
    "`Connection` and the headers it lists; `Keep-Alive`, `Proxy`, `Proxy-*`, `Trailer`, "
    "`HTTP2-Settings`": hop_by_hop,
    "`TE: trailers`": te,
    "`TE`, other values": other_te,
    "body with a `Content-Length`": length,
    "body in chunks, or over HTTP/2 without a length": chunks,
    "no body, with `POST`, `PUT` or `PATCH`": nothing,
    "`Content-Length` of 204": no_content,
    "`Content-Length` of 304, and of the response to `HEAD`": not_modified,
    "trailers": trailers,
    "`Expect: 100-continue`": expect,
    "interim responses (103)": interim,
    "`Via`": lines((b"Via", b"1.1 first")),
    "`Server`": server,
    "`Date`": date,
    "`Forwarded`, `X-Forwarded-For`, `-Proto`, `-Host`": lines(*FORWARDED),
    "other `X-Forwarded-*`, and other headers that say [who the client is](#who-the-client-is)": (
        lines(*named(*sorted(OTHERS), b"X-Forwarded-User", b"X-Forwarded-Port"))
    ),
    "spellings of these with `_` (`X_Forwarded_For`), which CGI and WSGI confuse with them": lines(
        *named(b"X_Forwarded_For", b"x-real_ip", b"Remote_User")
    ),
    "`Upgrade` (WebSocket)": upgrade,
    "`Max-Forwards` of `OPTIONS` and `TRACE`": forwards,
    "`OPTIONS *`, `CONNECT`": answered_here,
}


def table() -> dict[str, list[str]]:
    """The rows of the page: the first cell, and what the others say before a semicolon."""
    section = PAGE.read_text().partition("## What passes\n")[2].partition("\n## ")[0]
    rows = [row.strip("|").split("|") for row in re.findall(r"^\|.*\|$", section, re.M)[2:]]
    return {
        name.strip(): [cell.partition(";")[0].strip() for cell in cells] for name, *cells in rows
    }


#: How ways may differ.
DIFFERENCES: Final[dict[str, Callable[[Way], bool]]] = {
    "if held": lambda way: way.held,
    "over HTTP/1.1": lambda way: way.front == "HTTP/1.1",
    "over HTTP/2": lambda way: way.front == "HTTP/2",
}


def together(words: dict[Way, str | None]) -> str:
    """One cell for all ways, that says where they differ."""
    known = {way: word for way, word in words.items() if word is not None}
    if len({*known.values()}) == 1:
        return known.popitem()[1]
    for what, differs in DIFFERENCES.items():
        some = {word for way, word in known.items() if differs(way)}
        others = {word for way, word in known.items() if not differs(way)}
        if len(some) == len(others) == 1:
            return f"{some.pop()} {what}, else {others.pop()}"
    return f"{ {(way.front, way.held): word for way, word in known.items()} }"


@pytest.fixture
def ways(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Way]]]:
    """Every front, with bodies that are held and, however small, with bodies that are not."""
    monkeypatch.setattr(bodies, "LARGEST_HELD", 0)
    opened: list[tuple[ProxyResource, RawServer]] = []

    def open_all(**arguments: Any) -> list[Way]:
        all_ways = [Way(front, held) for held in (True, False) for front in FRONTS]
        for way in all_ways:
            raw = RawServer(way.serve)
            proxy = ProxyResource(raw.url, buffer_requests=way.held, **arguments)
            proxy.pool._most_idle = 0
            opened.append((proxy, raw))
            tls = server_context() if way.front == "HTTP/2" else None
            way.port = serve(proxy, tls=tls, parsePOSTFormSubmission=False).port
        return all_ways

    yield open_all
    for proxy, raw in opened:
        pytest_twisted.blockon(proxy.pool.close())
        raw.close()


async def cells(ways: list[Way], probe: Callable[[Way], Cells]) -> list[str]:
    """What *probe* finds on all ways together."""
    pairs = {way: await in_thread(partial(probe, way)) for way in ways}
    return [together({way: pair[at] for way, pair in pairs.items()}) for at in (0, 1)]


@pytest_twisted.ensureDeferred
async def test_table(ways: Callable[..., list[Way]]) -> None:
    """Each row says what came out, and there is no other."""
    written, opened = table(), ways()
    assert list(written) == list(ROWS)
    outcome = {name: await cells(opened, probe) for name, probe in ROWS.items()}
    wrong = {name: outcome[name] for name in ROWS if outcome[name] != written[name]}
    assert not wrong


@pytest_twisted.ensureDeferred
async def test_no_via(ways: Callable[..., list[Way]]) -> None:
    """If there is to be none, that of others stays."""
    opened = ways(forwarding=Forwarding(via=b""))
    assert await cells(opened, ROWS["`Via`"]) == ["unchanged", "unchanged"]


@pytest_twisted.ensureDeferred
async def test_host_of_the_url(ways: Callable[..., list[Way]]) -> None:
    """The client's Host stays here if the server is to have its own."""
    opened = ways(forwarding=Forwarding(host="rewrite"))
    up, _ = await cells(opened[:1], ROWS["`Host`"])
    assert "127.0.0.1:" in up
