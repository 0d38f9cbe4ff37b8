"""The status page over real sockets: who may see it, what it tells, and how it keeps up."""

from __future__ import annotations

import json
import re
import socket
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.web.resource import Resource
from twisted.web.test.requesthelper import DummyRequest
from wire import BAD, Client, Paths, Served, in_thread, pause, talk

from twisted_hangup import HangupSite
from twisted_hangup._masking import MaskingPolicy
from twisted_hangup._serving import CannotListen, HangupService
from twisted_hangup.errors import ParseError, UpstreamError
from twisted_hangup.journal import Journal
from twisted_hangup.service import Options, makeService
from twisted_hangup.status import StatusSite
from twisted_hangup.status._access import MOST_SESSIONS, SESSION_SECONDS, Access
from twisted_hangup.status._page import document
from twisted_hangup.status._records import PACKET_BYTES, Records
from twisted_hangup.status._stream import MOST_STREAMS, UPDATE_SECONDS, Streams

Serve = Callable[..., Served]

TOKEN = "a-token-of-the-operators"
HOSTILE = (
    b"GET /<script>alert(1)</script> HTTP/1.1\r\nHost: a\r\n"
    b"Cookie: session=SECRET\r\nX-A: <img src=x onerror=alert(1)>\x1b[31m\xe2\x80\xae\x01\r\n\r\n"
)


class Answer(NamedTuple):
    """A response, as a client reads it."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Pair:
    """A site whose clients err, and the status page that shows it."""

    def __init__(self, serve: Serve, **arguments: Any) -> None:
        from twisted.internet import reactor

        masking = arguments.pop("masking", MaskingPolicy())
        self.shown = serve(Paths(), masking=masking)
        self.site = StatusSite(self.shown.site, reactor, **arguments)
        self.status = serve(self.site)

    async def break_something(self, wire: bytes = BAD) -> None:
        await talk(self.shown.port, wire)

    async def ask(
        self, path: str = "", *fields: str, method: str = "GET", host: str = "localhost"
    ) -> Answer:
        return await ask(self.status.port, path, *fields, method=method, host=host)


async def ask(
    port: int | str,
    path: str = "",
    *fields: str,
    method: str = "GET",
    host: str | None = "localhost",
    body: str = "",
) -> Answer:
    version = "1.0" if host is None else "1.1"
    named = () if host is None else (f"Host: {host}",)
    lines = [f"{method} /{path} HTTP/{version}", *named, "Connection: close", *fields]
    if body:
        lines += [
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(body)}",
        ]
    head, _, rest = (await talk(port, "\r\n".join([*lines, "", body]).encode("latin-1"))).partition(
        b"\r\n\r\n"
    )
    status, *rows = head.decode().split("\r\n")
    answered = dict(row.split(": ", 1) for row in rows)
    return Answer(int(status.split()[1]), answered, rest)


@pytest.fixture
def pair(serve: Serve) -> Pair:
    return Pair(serve)


# Who may see it.


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost", 200),
        ("LocalHost:9000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:9000", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("localhost.", 421),
        ("evil.example:127", 421),
        ("192.0.2.1", 421),
        ("127.0.0.1.evil.example", 421),
        ("[::ffff:192.0.2.1]", 421),
        (None, 421),
    ],
)
@pytest_twisted.ensureDeferred
async def test_host(pair: Pair, host: str | None, status: int) -> None:
    """A page elsewhere whose name was made to resolve to this machine learns nothing."""
    for path in ("", "snapshot", "sign-in", "nowhere"):
        answer = await ask(pair.status.port, path, host=host)
        assert (answer.status == 421) is (status == 421), path


class Asked(DummyRequest):
    """A request that came to an address of the tester's choice."""

    def __init__(self, came_to: Any, came_from: Any = None, **fields: str) -> None:
        super().__init__([b""])
        self._came_to = came_to
        self._came_from = came_from or came_to
        self.cookie_jar: dict[bytes, bytes] = {}
        for name, value in fields.items():
            self.requestHeaders.addRawHeader(name.replace("_", "-"), value)

    def isSecure(self) -> bool:
        return False

    def getHost(self) -> Any:
        return self._came_to

    def getClientAddress(self) -> Any:
        return self._came_from

    def getCookie(self, key: bytes) -> bytes | None:
        return self.cookie_jar.get(key)

    def addCookie(self, k: bytes, v: bytes, **rest: Any) -> None:
        self.cookie_jar[k] = v


NETWORK = IPv4Address("TCP", "192.0.2.7", 9000)
CLIENT = IPv4Address("TCP", "198.51.100.2", 40000)
LOOPBACK = IPv4Address("TCP", "127.0.0.1", 9000)


@pytest.mark.parametrize(
    "came_to, host, right",
    [
        (NETWORK, "192.0.2.7:9000", True),
        (NETWORK, "192.0.2.8", False),
        (NETWORK, "localhost", False),
        (NETWORK, "127.0.0.1", False),
        (IPv6Address("TCP", "2001:db8::7", 9000), "[2001:DB8:0::7]:9000", True),
        (IPv6Address("TCP", "2001:db8::7", 9000), "[2001:db8::8]", False),
        (IPv6Address("TCP", "::ffff:192.0.2.7", 9000), "192.0.2.7", True),
        (IPv6Address("TCP", "::ffff:127.0.0.1", 9000), "localhost", True),
        (IPv6Address("TCP", "fe80::1%eth0", 9000), "[fe80::1]", True),
        (UNIXAddress("/run/status.sock"), "localhost", True),
        (UNIXAddress("/run/status.sock"), "example.org", False),
        (object(), "localhost", False),
    ],
)
def test_host_is_the_address_that_was_asked(came_to: Any, host: str, right: bool) -> None:
    """The address has to be the one that the connection came to, not any of this machine."""
    assert Access(Clock(), None).asks_us(Asked(came_to, host=host)) is right


def test_two_hosts_are_none() -> None:
    """Where a lenient site lets two Host fields through, neither counts."""
    request = Asked(LOOPBACK, host="localhost")
    request.requestHeaders.addRawHeader(b"Host", b"localhost")
    assert not Access(Clock(), None).asks_us(request)


@pytest.mark.parametrize(
    "came_to, came_from, token, admitted",
    [
        (LOOPBACK, LOOPBACK, None, True),
        (UNIXAddress("/s"), UNIXAddress(None), None, True),
        (NETWORK, CLIENT, None, False),
        (LOOPBACK, CLIENT, None, False),  # claimed by a PROXY header, or routed oddly
        (NETWORK, LOOPBACK, None, False),
        (LOOPBACK, LOOPBACK, TOKEN, False),
        (UNIXAddress("/s"), UNIXAddress(None), TOKEN, False),
    ],
)
def test_who_needs_the_token(came_to: Any, came_from: Any, token: Any, admitted: bool) -> None:
    """Only this machine needs none, and it does where the operator chose one."""
    access = Access(Clock(), token)
    assert access.admits(Asked(came_to, came_from)) is admitted
    assert access.admits(Asked(came_to, came_from, authorization=f"Bearer {access.token}"))
    for wrong in ("Bearer", f"Bearer {access.token}x", "Bearer x", f"Basic {access.token}"):
        assert access.admits(Asked(came_to, came_from, authorization=wrong)) is admitted


def test_token_buys_a_cookie() -> None:
    """The cookie is no token, ends by itself, and is good on its own port only."""
    clock = Clock()
    clock.advance(1e9)
    access = Access(clock, None)
    request = Asked(NETWORK, CLIENT)
    assert not access.sign_in(request, b"wrong")
    assert not access.sign_in(request, b"")
    assert not request.cookie_jar and not access.admits(request)
    assert access.sign_in(request, access.token.encode())
    assert access.admits(request)
    assert access.token.encode() not in request.cookie_jar.values()
    other = Asked(IPv4Address("TCP", "192.0.2.7", 9001), CLIENT)
    other.cookie_jar = request.cookie_jar
    assert not access.admits(other)
    clock.advance(SESSION_SECONDS - 1)
    assert access.admits(request)
    clock.advance(1)
    assert not access.admits(request)


def test_sign_ins_are_bounded() -> None:
    """The oldest sign-in makes room for a new one."""
    clock = Clock()
    clock.advance(1e9)
    access = Access(clock, TOKEN)
    requests = [Asked(NETWORK, CLIENT) for _ in range(MOST_SESSIONS + 1)]
    for request in requests:
        access.sign_in(request, TOKEN.encode())
    assert [access.admits(request) for request in requests] == [False] + [True] * MOST_SESSIONS


@pytest_twisted.ensureDeferred
async def test_sign_in(serve: Serve) -> None:
    """Without a cookie there is a form; the token in its body is exchanged for one."""
    pair = Pair(serve, token=TOKEN)
    form = await pair.ask()
    assert form.status == 401 and b'type="password"' in form.body
    assert form.fields["WWW-Authenticate"] == "Bearer"
    for path in ("snapshot", "events", "metrics"):
        assert (await pair.ask(path)).status == 401

    wrong = await ask(pair.status.port, "sign-in", method="POST", body="token=wrong")
    assert wrong.status == 401 and "Set-Cookie" not in wrong.fields
    # In a URL it would be logged, so that it does not work there.
    query = f"?token={TOKEN}"
    assert (await pair.ask(query)).status == 401
    assert (await pair.ask(f"sign-in{query}", method="GET")).status == 405
    assert (await ask(pair.status.port, f"sign-in{query}", method="POST")).status == 401

    for junk in ("token=\xff", "token=%ff", "token", "&&=;", "token=&token=wrong"):
        assert (await ask(pair.status.port, "sign-in", method="POST", body=junk)).status == 401

    right = await ask(pair.status.port, "sign-in", method="POST", body=f"token={TOKEN}")
    assert (right.status, right.fields["Location"]) == (303, "./")
    cookie, *flags = right.fields["Set-Cookie"].split("; ")
    flags = [flag.lower() for flag in flags]
    assert {"httponly", "samesite=strict", "path=/"} <= {*flags} and "secure" not in flags
    assert TOKEN not in cookie
    assert (await pair.ask("", f"Cookie: {cookie}")).status == 200
    assert (await pair.ask("snapshot", f"Cookie: {cookie}")).status == 200
    assert (await pair.ask("snapshot", f"Cookie: {cookie}x")).status == 401
    assert (await pair.ask("snapshot", f"Authorization: Bearer {TOKEN}")).status == 200


@pytest.mark.parametrize(
    "site, status", [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)]
)
@pytest_twisted.ensureDeferred
async def test_pages_elsewhere(pair: Pair, site: str, status: int) -> None:
    """What a browser asks for on behalf of another site's page, it does not get."""
    field = f"Sec-Fetch-Site: {site}"
    assert (await pair.ask("snapshot", field)).status == status
    assert (await pair.ask("events", field, method="HEAD")).status == status
    assert (await pair.ask("metrics", field)).status == (403 if status == 403 else 404)
    posted = await ask(
        pair.status.port, "sign-in", field, method="POST", body=f"token={pair.site.token}"
    )
    assert posted.status == (403 if status == 403 else 303)
    assert (await pair.ask("", field)).status == 200  # by a link


@pytest.mark.parametrize("path", ["", "snapshot", "sign-in", "nowhere", "metrics", "events"])
@pytest_twisted.ensureDeferred
async def test_every_answer_is_locked_down(pair: Pair, path: str) -> None:
    """No answer is stored, framed, sniffed, or may load anything."""
    for method in ("GET", "HEAD", "POST", "DELETE"):
        if (method, path) == ("GET", "events"):
            continue
        for host in ("localhost", "evil.example"):
            answer = await pair.ask(path, method=method, host=host)
            assert answer.fields["Cache-Control"] == "no-store"
            assert answer.fields["X-Content-Type-Options"] == "nosniff"
            assert answer.fields["X-Frame-Options"] == "DENY"
            assert answer.fields["Cross-Origin-Resource-Policy"] == "same-origin"
            assert answer.fields["Referrer-Policy"] == "no-referrer"
            policy = answer.fields["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'")
            assert "frame-ancestors 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize(
    "path, method, status",
    [
        ("", "POST", 405),
        ("snapshot", "DELETE", 405),
        ("sign-in", "GET", 405),
        ("nowhere", "GET", 404),
        ("snapshot/", "GET", 404),
        ("metrics", "GET", 404),
        ("", "HEAD", 200),
        ("snapshot", "HEAD", 200),
        ("events", "HEAD", 200),
    ],
)
@pytest_twisted.ensureDeferred
async def test_paths(pair: Pair, path: str, method: str, status: int) -> None:
    """What is not there is not found, and what changes nothing takes no body."""
    answer = await pair.ask(path, method=method)
    assert answer.status == status
    assert answer.body == b"" or method != "HEAD"


def test_policy_allows_what_is_in_the_page() -> None:
    """The hashes are those of the style and script inside, and nothing is loaded besides."""
    for name, kinds in (("page", {"style", "script"}), ("sign_in", {"style"})):
        html, policy = (part.decode() for part in document(name))
        found = {}
        for kind, text in re.findall(r"<(style|script)>(.*?)</\1>", html, re.DOTALL):
            found[kind] = b64encode(sha256(text.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{found[kind]}'" in policy
        assert found.keys() == kinds
        assert not re.search(r"""(src|href)=["'](?!data:|snapshot")|url\(|@import""", html)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", html)


@pytest_twisted.ensureDeferred
async def test_metrics_are_as_protected(serve: Serve) -> None:
    """A scraper brings the token as a bearer's."""

    class Metrics(Resource):
        isLeaf = True

        def render_GET(self, request: Any) -> bytes:
            return b"errors 1\n"

    pair = Pair(serve, token=TOKEN, metrics=Metrics())
    assert (await pair.ask("metrics")).status == 401
    assert (await pair.ask("metrics", host="evil.example")).status == 421
    answer = await pair.ask("metrics", f"Authorization: Bearer {TOKEN}")
    assert (answer.status, answer.body) == (200, b"errors 1\n")


# What it tells.


@pytest_twisted.ensureDeferred
async def test_snapshot(pair: Pair) -> None:
    """An error has all the documented names; packet, caret and rule are what a report tells."""
    await pair.break_something()
    told = (await pair.ask("snapshot")).json
    assert told["complete"] is True
    assert told["by_code"] == {"HPE_INVALID_HEADER_TOKEN": 1}
    assert (told["by_phase"], told["by_status"]) == ({"head": 1}, {"400": 1})
    assert told["top_peers"] == [["127.0.0.1", 1]]
    assert told["top_codes"] == [["HPE_INVALID_HEADER_TOKEN", 1]]
    [[second, codes]] = told["rates"]
    assert isinstance(second, int) and codes == {"HPE_INVALID_HEADER_TOKEN": 1}
    assert told["connections"] == 0
    [error] = told["entries"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", error["time"])
    assert re.fullmatch(r"127\.0\.0\.1:\d+", error["peer"])
    raw, culprit = b64decode(error["raw_packet"]), error["culprit"]
    assert raw == BAD
    assert (raw[culprit : culprit + 1], error["culprit_name"]) == (b" ", "0x20 (space)")
    assert error["report"] == pair.shown.errors[0].report()
    assert error["rule"] in " ".join(error["report"].replace("\n", " ").split())
    assert {name: error[name] for name in ("number", "code", "phase", "status", "answered")} == {
        "number": 1,
        "code": "HPE_INVALID_HEADER_TOKEN",
        "phase": "head",
        "status": 400,
        "answered": 400,
    }
    assert (error["settled"], error["line"]) == (True, "GET /fast HTTP/1.1")
    assert (error["raw_packet_offset"], error["raw_packet_length"]) == (0, len(BAD))
    assert error["source"] == "RFC 9112, section 5" and error["cause"] and error["cure"]


DOCUMENT = Path(__file__).parent.parent / "docs" / "status.md"


@pytest_twisted.ensureDeferred
async def test_names_are_documented(pair: Pair) -> None:
    """The page about it has every name of the JSON, and no other."""
    await pair.break_something()
    told = (await pair.ask("snapshot")).json
    documented = {
        name
        for row in re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert documented == {*told, *told["entries"][0]}


@pytest_twisted.ensureDeferred
async def test_peer_bytes_are_text(pair: Pair) -> None:
    """Markup, terminal escapes and bidi controls leave as printable ASCII or base64."""
    await pair.break_something(HOSTILE)
    body = (await pair.ask("snapshot")).body
    assert re.fullmatch(rb"[\x20-\x7e]+\n", body)
    [error] = json.loads(body)["entries"]
    strings = [value for value in error.values() if isinstance(value, str)]
    assert all(re.fullmatch(r"[\x20-\x7e\n]*", value) for value in strings)
    packet = b64decode(error["raw_packet"])
    assert b"\x1b[31m" in packet and b"\xe2\x80\xae" in packet


@pytest_twisted.ensureDeferred
async def test_secrets_are_masked(serve: Serve) -> None:
    """The site's own policy holds: what it hides is nowhere, in no encoding."""
    wire = HOSTILE.replace(b"/<", b"/a?q=SECRET<").replace(b"Host: a", b"Host: a\r\nX-Key: SECRET")
    masked = Pair(serve, masking=MaskingPolicy(extra_fields=frozenset({b"x-key"})))
    unmasked = Pair(serve, masking=MaskingPolicy(unmasked=True))
    seen = []
    for pair in (masked, unmasked):
        await pair.break_something(wire)
        body = (await pair.ask("snapshot")).body
        packet = b64decode(json.loads(body)["entries"][0]["raw_packet"])
        seen.append((body.count(b"SECRET"), packet.count(b"SECRET")))
    assert seen[0] == (0, 0)
    assert seen[1][0] and seen[1][1] == 3


@pytest_twisted.ensureDeferred
async def test_large_packets_are_cut(pair: Pair) -> None:
    """Of a large packet the bytes around the error are told, and where they are from."""
    pad = b"X-Pad: " + b"p" * 5000 + b"\r\n"
    await pair.break_something(
        b"GET / HTTP/1.1\r\nHost: a\r\n" + pad + b"a b: 1\r\n" + b"\r\n" * 900
    )
    [error] = (await pair.ask("snapshot")).json["entries"]
    raw = b64decode(error["raw_packet"])
    assert len(raw) == PACKET_BYTES and error["raw_packet_offset"] > 0
    assert raw[error["culprit"] : error["culprit"] + 4] == b" b: "
    assert error["raw_packet_offset"] + error["culprit"] == error["offset"]


@pytest_twisted.ensureDeferred
async def test_errors_without_a_packet(pair: Pair) -> None:
    """Where no byte is to blame there is none, and the report still tells."""
    await talk(pair.shown.port, b"GET /half HTTP/1.1\r\nHo", fin=True)
    [error] = (await pair.ask("snapshot")).json["entries"]
    assert error["code"] == "HPE_INVALID_EOF_STATE"
    assert error["raw_packet"] is error["culprit"] is error["raw_packet_length"] is None
    assert "the input ends here" in error["report"]


def test_upstream_errors_are_told() -> None:
    """A server behind the proxy is named by its URL, masked as its site says."""
    journal = Journal(lambda: 1000.0)
    error = UpstreamError("refused", code="ERR_UPSTREAM_REFUSED", phase="response")
    error.upstream = "http://127.0.0.1:1\x1b"
    journal.record_upstream(error)
    records = Records(MaskingPolicy(), lambda: 2000.0, lambda: 3)
    told = json.loads(records.snapshot(journal.snapshot()))
    [entry] = told["entries"]
    assert entry["upstream"] == r"http://127.0.0.1:1\x1b"
    assert (entry["time"], entry["peer"]) == ("1970-01-01T00:16:40.000Z", None)
    assert (told["now"], told["connections"]) == ("1970-01-01T00:33:20.000Z", 3)


def test_records_are_made_once() -> None:
    """An error is put into words once, again when it is answered, and then forgotten."""
    journal = Journal(lambda: 1000.0)
    records = Records(MaskingPolicy(), lambda: 0.0, lambda: 0)
    error = ParseError("Invalid", code="HPE_INVALID_URL", phase="head")
    journal.record(error)
    records.snapshot(journal.snapshot())
    error.reason = "never told"
    assert "never told" not in records.snapshot(journal.snapshot())
    journal.settle(error, 400)
    assert "never told" in records.snapshot(journal.snapshot())
    for _ in range(200):
        journal.record(ParseError("Invalid", code="HPE_INVALID_URL", phase="head"))
    records.snapshot(journal.snapshot())
    assert len(records._made) == len(journal.snapshot().entries) == 100


# How it keeps up.


class Followed(DummyRequest):
    """A request for events; what was sent is in `messages`."""

    def __init__(self, last_id: str | None = None) -> None:
        super().__init__([b"events"])
        self.transport = StringTransport()
        if last_id is not None:
            self.requestHeaders.addRawHeader(b"Last-Event-ID", last_id.encode())

    @property
    def messages(self) -> list[tuple[str, str, Any]]:
        """Of each: its kind, its id, and what it tells."""
        pattern = re.compile(rb"event: (\w+)\nid: (\S+)\ndata: ([^\n]*)\n\n")
        sent = b"".join(self.written)
        assert not pattern.sub(b"", sent).removeprefix(b"retry: 2000\n\n")
        return [(a.decode(), b.decode(), json.loads(c)) for a, b, c in pattern.findall(sent)]

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer: Any = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def leave(self) -> None:
        self.producer.stopProducing()
        self.processingFailed(Failure(ConnectionLost()))


class Stage:
    """Streams of a journal, and a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.journal = Journal(self.clock.seconds)
        records = Records(MaskingPolicy(), self.clock.seconds, lambda: 0)
        self.streams = Streams(self.journal, records, self.clock)

    def follow(self, last_id: str | None = None) -> Followed:
        request = Followed(last_id)
        self.streams.open(request)
        return request

    def err(self, code: str = "HPE_INVALID_URL", *, settle: bool = True) -> ParseError:
        error = ParseError("Invalid", code=code, phase="head")
        self.journal.record(error)
        if settle:
            self.journal.settle(error, 400)
        return error


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.streams.close()
    assert not stage.clock.getDelayedCalls()


def numbers(message: tuple[str, str, Any]) -> list[int]:
    return [entry["number"] for entry in message[2]["entries"]]


def test_snapshot_first_then_changes(stage: Stage) -> None:
    """Who begins to follow knows all, and then hears what is new, and its answer later."""
    stage.err()
    request = stage.follow()
    slow = stage.err(settle=False)
    stage.clock.advance(1)
    stage.journal.settle(slow, 431)
    stage.clock.advance(1)
    first, second, third = request.messages
    assert [message[0] for message in request.messages] == ["snapshot", "update", "update"]
    assert [numbers(message) for message in request.messages] == [[1], [2], [2]]
    assert first[2]["complete"] and not second[2]["complete"]
    assert not second[2]["entries"][0]["settled"]
    assert third[2]["entries"][0]["answered"] == 431
    assert third[2]["by_status"] == {"400": 1, "431": 1}


def test_a_flood_is_gathered(stage: Stage) -> None:
    """However many errors come, a follower hears of them twice a second at most."""
    request = stage.follow()
    for _ in range(400):
        for _ in range(5):
            stage.err()
        stage.clock.advance(0.01)
    updates = request.messages[1:]
    assert 2 <= len(updates) <= 4 / UPDATE_SECONDS + 1
    assert all(len(message[2]["entries"]) <= 100 for message in updates)
    stage.clock.advance(1)
    assert request.messages[-1][2]["by_code"] == {"HPE_INVALID_URL": 2000}
    # The rates of each second arrive whole: a second that is told again replaces itself.
    rates = dict(pair for message in request.messages for pair in map(tuple, message[2]["rates"]))
    assert sum(codes["HPE_INVALID_URL"] for codes in rates.values()) == 2000


def test_silence_is_told(stage: Stage) -> None:
    """A browser can tell a quiet server from a dead one."""
    request = stage.follow()
    stage.clock.pump([1] * 16)
    assert [message[0] for message in request.messages[1:]] == ["update"] * 3
    assert not any(numbers(message) for message in request.messages[1:])


def test_slow_browsers_cost_no_memory(stage: Stage) -> None:
    """Nothing is kept for who does not read; the whole picture comes when he does."""
    request = stage.follow()
    request.producer.pauseProducing()
    sent = len(request.written)
    for _ in range(50):
        stage.err()
        stage.clock.advance(1)
    assert len(request.written) == sent
    request.producer.resumeProducing()
    assert [message[0] for message in request.messages] == ["snapshot", "snapshot"]
    assert numbers(request.messages[-1]) == list(range(1, 51))
    request.producer.pauseProducing()
    request.producer.resumeProducing()
    assert len(request.messages) == 2


def test_reconnect(stage: Stage) -> None:
    """Who was here a moment ago is told what he missed, and answers that came since."""
    request = stage.follow()
    stage.err()
    waiting = stage.err(settle=False)
    stage.err()
    stage.clock.advance(1)
    last_id = request.messages[-1][1]
    request.leave()
    stage.journal.settle(waiting, 400)
    stage.err()
    [(kind, _, told)] = (again := stage.follow(last_id)).messages
    assert kind == "update" and not told["complete"]
    assert numbers(again.messages[0]) == [2, 3, 4]
    assert told["entries"][0]["settled"]


@pytest.mark.parametrize("last_id", ["", "nonsense", "0123456789abcdef-1", "-1", "x" * 5000])
def test_ids_of_another_life(stage: Stage, last_id: str) -> None:
    """What a server before this one counted means nothing; all is told."""
    stage.err()
    assert stage.follow(last_id).messages[0][0] == "snapshot"


def test_nobody_follows(stage: Stage) -> None:
    """Without a browser there is neither a timer nor a follower of the journal."""
    request, other = stage.follow(), stage.follow()
    request.leave()
    assert stage.clock.getDelayedCalls()
    other.leave()
    assert not stage.clock.getDelayedCalls()
    stage.err()
    assert not stage.clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_events(pair: Pair) -> None:
    """Over a socket: the snapshot, then each error within a second."""
    head = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    client = await in_thread(lambda: Client(pair.status.port).send(head))
    received = await in_thread(lambda: client.read_until(b'"entries": []}\n\n\r\n'))
    assert b"\r\nContent-Type: text/event-stream\r\n" in received
    await pair.break_something()
    update = await in_thread(lambda: client.read_until(b"}]}\n\n\r\n"))
    assert b"event: update\n" in update and b'"HPE_INVALID_HEADER_TOKEN"' in update
    client.close()
    await pause()
    assert not pair.site._status._streams._streams


@pytest_twisted.ensureDeferred
async def test_too_many_follow(pair: Pair) -> None:
    """The next one is told to come again."""
    head = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    clients = [
        await in_thread(lambda: Client(pair.status.port).send(head)) for _ in range(MOST_STREAMS)
    ]
    for client in clients:
        await in_thread(partial(client.read_until, b"\r\n\r\n"))
    clients.append(await in_thread(lambda: Client(pair.status.port).send(head)))
    refused = await in_thread(partial(clients[-1].read_until, b"\r\n\r\n"))
    assert refused.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in refused
    for client in clients:
        client.close()


@pytest_twisted.ensureDeferred
async def test_a_browser_that_does_not_read(pair: Pair) -> None:
    """When its socket is full nothing waits for it in memory; when it reads it gets it all."""
    head = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    client = await in_thread(lambda: Client(pair.status.port, receive_buffer=4096).send(head))
    await pause()
    [stream] = pair.site._status._streams._streams
    comment = b": " + b"x" * 65536 + b"\n\n"
    paused = 0
    while True:  # the kernel makes its buffers larger for a while
        paused = paused + 1 if stream._paused else 0
        if paused == 40:
            break
        if not paused:
            stream.send(comment)
        await pause(0.005)
    [channel] = pair.site._hangups.open()
    transport = channel.transport

    def waiting() -> int:
        return len(transport.dataBuffer) + sum(map(len, transport._tempDataBuffer))

    before = waiting()
    assert stream._paused and before < 4 * len(comment)
    await pair.break_something()
    await pause(2 * UPDATE_SECONDS)
    assert waiting() <= before and stream._behind
    received = await in_thread(lambda: read_on(client, b'"HPE_INVALID_HEADER_TOKEN"'))
    assert b"event: snapshot\n" in received[-100_000:]
    client.close()


def read_on(client: Client, end: bytes) -> bytes:
    """Read until *end* has come."""
    received = bytearray()
    while end not in received[-80_000:] and (more := client.socket.recv(65536)):
        received += more
    return bytes(received)


@pytest_twisted.ensureDeferred
async def test_own_client_errors(pair: Pair) -> None:
    """Whoever breaks HTTP on the status page is answered and told of like anybody else."""
    assert (await talk(pair.status.port, BAD)).startswith(b"HTTP/1.1 400 ")
    assert pair.status.codes == ["HPE_INVALID_HEADER_TOKEN"] and not pair.shown.codes
    long = await ask(pair.status.port, "sign-in", method="POST", body="token=" + "a" * 5000)
    assert long.status == 413


# twistd hangup --status


def make(*arguments: str) -> HangupService:
    options = Options()
    options.parseOptions(["--port", "tcp:0:interface=127.0.0.1", *arguments])
    service = makeService(options)
    assert isinstance(service, HangupService)
    return service


def port_of(service: HangupService) -> int:
    [port] = service.ports
    address: Any = port.getHost()
    number: int = address.port
    return number


class Running:
    """A service with a status page, and both ports."""

    def __init__(self, *arguments: str) -> None:
        self.service = make(*arguments)
        self.service.startService()
        [self.status_service] = self.service._companions
        self.port, self.status = map(port_of, (self.service, self.status_service))


LOCAL = ("--status", "tcp:0:interface=127.0.0.1")


@pytest_twisted.ensureDeferred
async def test_service(tmp_path: Path) -> None:
    """--status shows the errors of --port, and an operator who looks is not logged."""
    access = tmp_path / "access"
    with capturedLogs() as said:
        running = Running(*LOCAL, "--access-log", str(access), "--mask-field", "x-key")
        bad = BAD.replace(b"bad header", b"X-Key: SECRET\r\nbad header")
        await talk(running.port, bad)
        told = (await ask(running.status, "snapshot")).json
        assert (await ask(running.status)).status == 200
        await running.service.stopService()
    assert told["by_code"] == {"HPE_INVALID_HEADER_TOKEN": 1}
    assert b"SECRET" not in b64decode(told["entries"][0]["raw_packet"])
    assert len(access.read_text().splitlines()) == 1
    lines = [formatEvent(event) for event in said]
    assert f"The status page is on 127.0.0.1:{running.status}" in lines
    assert not any("the token" in str(line) or "snapshot" in str(line) for line in lines)


@pytest_twisted.ensureDeferred
async def test_service_has_metrics() -> None:
    """Where prometheus-client is installed they stand beside the page."""
    pytest.importorskip("prometheus_client")
    running = Running(*LOCAL)
    await talk(running.port, BAD)
    metrics = (await ask(running.status, "metrics")).body
    await running.service.stopService()
    assert b'hangup_client_errors_total{code="HPE_INVALID_HEADER_TOKEN",phase="head"} 1' in metrics


def test_service_without_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the page is there all the same."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "twisted_hangup.metrics", raising=False)
    assert make(*LOCAL)._companions


@pytest_twisted.ensureDeferred
async def test_service_prints_the_token_once() -> None:
    """On a network the log has the token, where it starts and nowhere else."""
    with capturedLogs() as said:
        running = Running("--status", "tcp:0")
        token = running.status_service.site.token  # type: ignore[attr-defined]
        await ask(running.status, "sign-in", method="POST", body=f"token={token}")
        await ask(running.status, "snapshot", f"Authorization: Bearer {token}")
        await running.service.stopService()
    assert len([event for event in said if token in str(formatEvent(event))]) == 1


@pytest_twisted.ensureDeferred
async def test_service_with_a_token_of_the_operators(tmp_path: Path) -> None:
    """Then it is needed on loopback, too, and never logged."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with capturedLogs() as said:
        running = Running(*LOCAL, "--status-token-file", str(file))
        assert (await ask(running.status, "snapshot")).status == 401
        field = f"Authorization: Bearer {TOKEN}"
        assert (await ask(running.status, "snapshot", field)).status == 200
        await running.service.stopService()
    assert not [event for event in said if TOKEN in str(event)]


@pytest_twisted.ensureDeferred
async def test_service_ends_event_streams() -> None:
    """A browser that follows holds nothing up, even one that does not read."""
    running = Running(*LOCAL, "--grace", "60")
    head = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    client = await in_thread(lambda: Client(running.status).send(head))
    await in_thread(lambda: client.read_until(b"}\n\n\r\n"))
    stopped = running.service.stopService()
    rest = await in_thread(client.read_all)
    assert rest.endswith(b"0\r\n\r\n")
    await stopped
    client.close()
    with pytest.raises(ConnectionRefusedError):
        await in_thread(lambda: socket.create_connection(("127.0.0.1", running.status)))


@pytest_twisted.ensureDeferred
async def test_service_logs_errors_of_the_status_page() -> None:
    """Whoever breaks it stands in the log."""
    running = Running(*LOCAL)
    with capturedLogs() as said:
        await talk(running.status, BAD)
    await running.service.stopService()
    assert [event["code"] for event in said if "code" in event] == ["HPE_INVALID_HEADER_TOKEN"]


@pytest_twisted.ensureDeferred
async def test_status_port_in_use() -> None:
    """A port that somebody has is told by its name."""
    running = Running(*LOCAL)
    taken = f"tcp:{running.status}:interface=127.0.0.1"
    second = make("--status", taken)
    with pytest.raises(CannotListen, match=f"cannot listen on {taken}: Address already in use"):
        second.startService()
    await second.stopService()
    await running.service.stopService()


def options_of(*arguments: str) -> Options:
    options = Options()
    options.parseOptions([*arguments])
    return options


def test_status_is_off() -> None:
    """Nobody listens unless the operator says so."""
    assert options_of().status is None
    assert not make()._companions


def test_a_number_is_loopback() -> None:
    """A mere port number is for this machine only, unlike that of --port."""
    assert options_of("--status", "9000").status == (
        "port 9000",
        "tcp:9000:interface=127.0.0.1",
    )


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--status", "99999"], "--status: 99999 is not a port number"),
        (["--status", "here"], "--status: 'here' is neither a port number nor an endpoint"),
        (["--status", "nonsense:1"], "--status: 'nonsense:1': 'nonsense' is no kind of"),
        (["--status", "haproxy:tcp:9000"], "--status: not behind the PROXY protocol"),
        (["--status-token-file", "x"], "--status-token-file needs --status"),
        ([*LOCAL, "--status-token-file", "/nowhere"], "cannot read '/nowhere': No such file"),
        ([*LOCAL, "--status-token-file", __file__], "has to hold one token of 16 to 512"),
        ([*LOCAL, "--status-token-file", "/dev/null"], "has to hold one token of 16 to 512"),
    ],
)
def test_mistakes(arguments: list[str], complaint: str) -> None:
    """A mistake is told in one line that names the option."""
    with pytest.raises(UsageError) as caught:
        make(*arguments)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_site_of_ones_own(serve: Serve) -> None:
    """In a program it is a site like any other."""
    from twisted.internet import reactor

    site = HangupSite(Resource(), masking=MaskingPolicy(extra_fields=frozenset({b"x-key"})))
    status = StatusSite(site, reactor)
    assert status.masking is site.masking and status.token_was_made_up and len(status.token) >= 32
