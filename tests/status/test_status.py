"""The status page over real sockets: who may see it, and what it tells."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from support.status_pages import Pair, Serve, ask
from support.wire import BAD, talk
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.test.requesthelper import DummyRequest

from twisted_hangup.errors import ParseError, UpstreamError
from twisted_hangup.journal import Journal
from twisted_hangup.report.links import anchor_of
from twisted_hangup.report.lookalikes import LOOKALIKES
from twisted_hangup.report.masking import MaskingPolicy
from twisted_hangup.report.remedies import REASONS, REMEDIES
from twisted_hangup.status.access import MOST_SESSIONS, SESSION_SECONDS, Access
from twisted_hangup.status.codes import codes_page
from twisted_hangup.status.page import document
from twisted_hangup.status.snapshots import PACKET_BYTES, Snapshots

TOKEN = "a-token-of-the-operators"
HOSTILE = (
    b"GET /<script>alert(1)</script> HTTP/1.1\r\nHost: a\r\n"
    b"Cookie: session=SECRET\r\nX-A: <img src=x onerror=alert(1)>\x1b[31m\xe2\x80\xae\x01\r\n\r\n"
)


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
        if status == 421:
            assert answer.body.decode() == (
                "This page answers only under its address: "
                f"open http://127.0.0.1:{pair.status.port}/\n"
            )


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
        ("codes", "GET", 200),
        ("codes", "HEAD", 200),
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


def test_page_of_codes() -> None:
    """Every code has an entry, and every link of the live page leads to one."""
    html = codes_page().html.decode()
    assert "<!--" not in html
    anchors = re.findall(r'<h2 id="(.*?)">', html)
    assert len(anchors) == len(set(anchors)) == len(REMEDIES) + len(LOOKALIKES)
    assert {anchor_of(name) for name in (*REMEDIES, "ERR_SSL_OF_TOMORROW", *LOOKALIKES)} == set(
        anchors
    )
    assert anchor_of("no such code") is None
    for remedy in (*REMEDIES.values(), *REASONS.values()):
        assert escape(remedy.cause) in html and escape(remedy.cure) in html


def test_policy_allows_what_is_in_the_page() -> None:
    """The hashes are those of the style and script inside, and nothing is loaded besides."""
    for name, kinds in (
        ("page", {"style", "script"}),
        ("sign_in", {"style"}),
        ("codes", {"style"}),
    ):
        html, policy = (part.decode() for part in document(name))
        hashes = {}
        for kind, text in re.findall(r"<(style|script)>(.*?)</\1>", html, re.DOTALL):
            hashes[kind] = b64encode(sha256(text.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{hashes[kind]}'" in policy
        assert hashes.keys() == kinds
        assert not re.search(
            r"""(src|href)=["'](?!data:|snapshot"|codes"|\./")|url\(|@import""", html
        )
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
    snapshot = (await pair.ask("snapshot")).json
    assert snapshot["complete"] is True
    assert snapshot["by_code"] == {"HPE_INVALID_HEADER_TOKEN": 1}
    assert (snapshot["by_phase"], snapshot["by_status"]) == ({"head": 1}, {"400": 1})
    assert snapshot["top_peers"] == [["127.0.0.1", 1]]
    assert snapshot["top_codes"] == [["HPE_INVALID_HEADER_TOKEN", 1]]
    [[second, codes]] = snapshot["rates"]
    assert isinstance(second, int) and codes == {"HPE_INVALID_HEADER_TOKEN": 1}
    assert snapshot["connections"] == 0
    [error] = snapshot["entries"]
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


DOCUMENT = Path(__file__).parents[2] / "docs" / "status.md"


@pytest_twisted.ensureDeferred
async def test_names_are_documented(pair: Pair) -> None:
    """The page about it has every name of the JSON, and no other."""
    await pair.break_something()
    snapshot = (await pair.ask("snapshot")).json
    documented = {
        name
        for row in re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    # The last two are there with --workers: tests/service/workers/test_view.py.
    assert documented == {*snapshot, *snapshot["entries"][0], "workers", "worker"}


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
    snapshots = Snapshots(MaskingPolicy(), lambda: 2000.0, lambda: 3)
    snapshot = json.loads(snapshots.json(journal.snapshot()))
    [entry] = snapshot["entries"]
    assert entry["upstream"] == r"http://127.0.0.1:1\x1b"
    assert (entry["time"], entry["peer"]) == ("1970-01-01T00:16:40.000Z", None)
    assert (snapshot["now"], snapshot["connections"]) == ("1970-01-01T00:33:20.000Z", 3)


def test_entries_are_put_into_words_once() -> None:
    """An error is put into words once, again when it is answered, and then forgotten."""
    journal = Journal(lambda: 1000.0)
    snapshots = Snapshots(MaskingPolicy(), lambda: 0.0, lambda: 0)
    error = ParseError("Invalid", code="HPE_INVALID_URL", phase="head")
    journal.record(error)
    snapshots.json(journal.snapshot())
    error.reason = "never told"
    assert "never told" not in snapshots.json(journal.snapshot())
    journal.settle(error, 400)
    assert "never told" in snapshots.json(journal.snapshot())
    for _ in range(200):
        journal.record(ParseError("Invalid", code="HPE_INVALID_URL", phase="head"))
    snapshots.json(journal.snapshot())
    assert len(snapshots._entries) == len(journal.snapshot().entries) == 100
