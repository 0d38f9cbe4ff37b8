"""Which fields cross the proxy: a table, without a connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_hangup.events import Field
from twisted_hangup.proxy.forwarding import (
    HOP_BY_HOP,
    IDENTITY,
    IDENTITY_PREFIXES,
    Client,
    Forwarding,
    asks_for_tunnel,
    request_fields,
    response_fields,
    trailer_fields,
)

CLIENT = Client(b"192.0.2.7", False, b"example.org", b"1.1")


def sent(fields: list[Field], **arguments: Any) -> list[Field]:
    settings: dict[str, Any] = {
        "method": b"GET",
        "client": CLIENT,
        "authority": b"127.0.0.1:9000",
        "forwarding": Forwarding(forwarded="off"),
        "content_length": None,
        **arguments,
    }
    return request_fields(fields, **settings)


HOST = (b"Host", b"example.org")
VIA = (b"Via", b"1.1 twisted_hangup")


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Connection", b"close")],
        [(b"Keep-Alive", b"timeout=5")],
        [(b"Proxy-Connection", b"keep-alive")],
        [(b"Transfer-Encoding", b"chunked")],
        [(b"TE", b"gzip")],
        [(b"Upgrade", b"websocket")],
        [(b"Trailer", b"X")],
        [(b"Proxy-Authorization", b"Basic x")],
        [(b"Proxy", b"http://evil/")],
        [(b"HTTP2-Settings", b"x")],
        [(b"Expect", b"100-continue")],
        [(b"X_Forwarded_For", b"10.0.0.1"), (b"x-real_ip", b"10.0.0.1")],
        [(b"Content_Length", b"3"), (b"Transfer_Encoding", b"chunked")],
        [(b"Connection", b"x-one , X-Two"), (b"X-One", b"1"), (b"x-two", b"2")],
        [(b"Connection", b"a"), (b"connection", b"b,,c"), (b"A", b""), (b"B", b""), (b"C", b"")],
    ],
)
def test_what_belongs_to_the_connection_stays(fields: list[Field]) -> None:
    """Hop-by-hop fields, and those that Connection lists, are not passed on."""
    assert sent([(b"Host", b"example.org"), *fields]) == [HOST, VIA]


@pytest.mark.parametrize("listed", [b"Content-Length", b"Host", b"close, host, content-length"])
def test_connection_cannot_remove_framing(listed: bytes) -> None:
    """Host and Content-Length are ours to write, whatever Connection says."""
    fields = [(b"Host", b"example.org"), (b"Connection", listed), (b"Content-Length", b"3")]
    assert sent(fields, method=b"POST", content_length=3) == [
        HOST,
        (b"Content-Length", b"3"),
        VIA,
    ]


def test_repeated_fields_are_kept() -> None:
    """Each line passes by itself, in order."""
    fields = [(b"Cookie", b"a=1"), (b"X", b"1"), (b"cookie", b"b=2"), (b"X", b"")]
    assert sent(fields) == [HOST, *fields, VIA]


@pytest.mark.parametrize(
    "method, length, expected",
    [
        (b"GET", None, []),
        (b"GET", 3, [(b"Content-Length", b"3")]),
        (b"POST", None, [(b"Content-Length", b"0")]),
        (b"PUT", None, [(b"Content-Length", b"0")]),
        (b"DELETE", None, []),
        (b"DELETE", 1, [(b"Content-Length", b"1")]),
    ],
)
def test_framing(method: bytes, length: int | None, expected: list[Field]) -> None:
    """A body has one Content-Length, and where one is expected its absence is told too."""
    came = [(b"Transfer-Encoding", b"chunked")]
    assert sent(came, method=method, content_length=length) == [HOST, *expected, VIA]


def test_upgrade() -> None:
    """Upgrade passes, with a Connection of ours, only where the protocol may change."""
    came = [(b"Connection", b"keep-alive, Upgrade"), (b"Upgrade", b"websocket")]
    assert sent(came, upgrade=True) == [HOST, came[1], (b"Connection", b"Upgrade"), VIA]
    assert sent(came) == [HOST, VIA]


def test_underscores_of_others_pass() -> None:
    """Only names that we have something to do with are taken for what they seem."""
    assert sent([(b"Host", b"example.org"), (b"X_One", b"1")]) == [HOST, (b"X_One", b"1"), VIA]


def test_disguise_does_not_help_behind_a_trusted_proxy() -> None:
    """Where our fields are appended, such a proxy would not write them with underscores."""
    appending = Forwarding(forwarded="append")
    names = [name for name, _ in sent([(b"X_FORWARDED_FOR", b"10.0.0.1")], forwarding=appending)]
    assert b"X_FORWARDED_FOR" not in names


@pytest.mark.parametrize(
    "connection, upgrade, expected",
    [
        (b"Upgrade", b"websocket", True),
        (b"keep-alive, upgrade", b"foo/2, bar", True),
        (b"Upgrade", b"h2c", False),
        (b"Upgrade, HTTP2-Settings", b"websocket, H2C", False),
        (b"Upgrade", b"TLS/1.3, HTTP/1.1", False),
        (b"Upgrade", b"h2c;x", False),
        (b"Upgrade", b"h2c; x=y, websocket", False),
        (b"Upgrade", b'"h2c"', False),
        (b"Upgrade", b"foo h2c", False),
        (b"Upgrade", b"websocket h2c", False),
        (b"Upgrade", b"h2c\tfoo", False),
        (b"Upgrade", b"h2c/", False),
        (b"Upgrade", b"/h2c", False),
        (b"Upgrade", b"foo/1/h2c", False),
        (b"Upgrade", b"h2c=1", False),
        (b"Upgrade", b"h2c\x0b", False),
        (b"Upgrade", b"\xa0h2c", False),
        (b"Upgrade", b"(x)h2c", False),
        (b"Upgrade", b"H2C-17", False),
        (b"Upgrade", b"h2-14", False),
        (b"Upgrade", b"h3", False),
        (b"Upgrade", b"https", False),
        (b"Upgrade", b"SPDY/3", False),
        (b"close", b"websocket", False),
        (b"Upgrade", b"", False),
    ],
)
def test_tunnel(connection: bytes, upgrade: bytes, expected: bool) -> None:
    """Another protocol may have a tunnel, but not HTTP itself: its requests would be unseen."""
    assert asks_for_tunnel([(b"Connection", connection), (b"Upgrade", upgrade)]) == expected


def test_trailers_are_asked_for() -> None:
    """Of TE only "trailers" concerns the server behind us."""
    assert sent([(b"TE", b"gzip;q=0.5, trailers"), (b"Connection", b"TE")]) == [
        HOST,
        (b"TE", b"trailers"),
        (b"Connection", b"TE"),
        VIA,
    ]


def test_host() -> None:
    """The client's, or the server's own; the server's where the client sent none."""
    rewrite = Forwarding(host="rewrite", forwarded="off")
    assert sent([], forwarding=rewrite)[0] == (b"Host", b"127.0.0.1:9000")
    nameless = Client(b"192.0.2.7", False, b"", b"1.0")
    assert sent([], client=nameless) == [
        (b"Host", b"127.0.0.1:9000"),
        (b"Via", b"1.0 twisted_hangup"),
    ]


IDENTITIES = [
    *(b"X-Forwarded-User", b"X-Forwarded-Client-Cert", b"X-Forwarded-By", b"X-Forwarded-Method"),
    *(b"x-forwarded-", b"X-Forwarded", b"X-FORWARDED-ANY-OTHER", b"X-Real-Ip", b"True-Client-IP"),
    *(b"X-Client-Cert", b"Client-Cert", b"X-SSL-Client-Verify", b"Ssl-Client-Cert"),
    *(b"Remote-User", b"X-Auth-Request-Email", b"X-MS-CLIENT-PRINCIPAL-ID", b"X-Original-URL"),
]


@pytest.mark.parametrize("name", IDENTITIES)
def test_nobody_says_who_they_are(name: bytes) -> None:
    """Applications believe these fields, so only a proxy that we trust may send them."""
    came = [(name, b"root")]
    disguised = [(name.replace(b"-", b"_"), b"root"), (name.replace(b"-", b"_", 1), b"root")]
    disguised = [field for field in disguised if b"_" in field[0]]
    for choice in ("off", "replace"):
        forwarding = Forwarding(forwarded=choice)
        assert came[0] not in sent([*came, *disguised], forwarding=forwarding)
        assert not {*disguised} & {*sent(disguised, forwarding=forwarding)}
    appending = Forwarding(forwarded="append")
    assert came[0] in sent([*came, *disguised], forwarding=appending)
    assert not {*disguised} & {*sent(disguised, forwarding=appending)}


def test_they_are_documented() -> None:
    """Who writes an application can look up what no client sends it."""
    page = (Path(__file__).parents[2] / "docs" / "proxy.md").read_text().lower()
    for name in IDENTITY - {b"forwarded", b"x-forwarded"}:
        assert f"`{name.decode()}`" in page
    for prefix in {*IDENTITY_PREFIXES} - {b"x-forwarded-"}:
        assert f"`{prefix.decode()}*`" in page


@pytest.mark.parametrize(
    "name",
    [b"X-Forwarder", b"X-Request-Id", b"Authorization", b"Client", b"X-Client-Id", b"X-Api-Key"],
)
def test_other_fields_are_the_applications(name: bytes) -> None:
    """What only looks like these passes."""
    assert (name, b"1") in sent([(name, b"1")], forwarding=Forwarding())


@pytest.mark.parametrize("choice", ["replace", "append", "off"])
def test_fields_that_the_operator_drops(choice: Any) -> None:
    """They stay here whatever else is trusted, however they are written."""
    forwarding = Forwarding(forwarded=choice, drop_fields=frozenset({b"X-User_Id"}))
    came = [(b"x-user-id", b"1"), (b"X_User_Id", b"1"), (b"X-USER_ID", b"1"), (b"X-User", b"1")]
    names = [name for name, _ in sent(came, forwarding=forwarding)]
    assert [name for name in names if name.lower().startswith((b"x-u", b"x_u"))] == [b"X-User"]


LIES = [
    (b"X-Forwarded-For", b"10.0.0.1"),
    (b"forwarded", b"for=10.0.0.1"),
    (b"X-Real-IP", b"10.0.0.1"),
    (b"X-Forwarded-Port", b"1"),
]
TRUTH = [
    (b"Forwarded", b'for=192.0.2.7;proto=http;host="example.org"'),
    (b"X-Forwarded-For", b"192.0.2.7"),
    (b"X-Forwarded-Proto", b"http"),
    (b"X-Forwarded-Host", b"example.org"),
]


@pytest.mark.parametrize(
    "forwarding, expected",
    [
        (Forwarding(), [VIA, *TRUTH]),
        (Forwarding(forwarded="append"), [*LIES, VIA, *TRUTH]),
        (Forwarding(forwarded="off"), [VIA]),
    ],
)
def test_forwarded(forwarding: Forwarding, expected: list[Field]) -> None:
    """By default no client can claim to be another one."""
    assert sent(LIES, forwarding=forwarding) == [HOST, *expected]


@pytest.mark.parametrize(
    "client, expected",
    [
        (Client(b"::1", True, b"a", b"2"), b'for="[::1]";proto=https;host="a"'),
        (Client(b"", False, b"a", b"1.1"), b'for=unknown;proto=http;host="a"'),
    ],
)
def test_forwarded_node(client: Client, expected: bytes) -> None:
    """RFC 7239: IPv6 in brackets and quotes; a client without an address is unknown."""
    fields = sent([], client=client, forwarding=Forwarding())
    assert (b"Forwarded", expected) in fields
    assert ((b"X-Forwarded-For", b"") in fields) is False


def test_response() -> None:
    """Cookies are never merged; the framing of the other connection stays behind."""
    came = [
        (b"Set-Cookie", b"a=1"),
        (b"Connection", b"X"),
        (b"X", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Set-Cookie", b"b=2"),
        (b"Via", b"1.1 first"),
    ]
    assert response_fields(came, Forwarding()) == [
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"Via", b"1.1 first"),
        VIA,
    ]


@pytest.mark.parametrize("status, passes", [(103, False), (204, False), (200, True), (304, True)])
def test_length_of_nothing(status: int, passes: bool) -> None:
    """Where no body can be there is no length either (RFC 9110, section 8.6)."""
    came = [(b"Content-Length", b"0")]
    expected = came if passes else []
    assert response_fields(came, Forwarding(), status=status) == [*expected, VIA]


def test_via_has_the_version_that_came() -> None:
    """It is that of the message, not of ours (RFC 9110, section 7.6.3)."""
    assert response_fields([], Forwarding(), version=b"1.0") == [(b"Via", b"1.0 twisted_hangup")]


def test_via_may_be_left_out() -> None:
    """Some servers treat whoever sends it as a proxy that can do less than a client."""
    silent = Forwarding(via=b"", forwarded="off")
    assert sent([], forwarding=silent) == [HOST]
    assert response_fields([(b"Via", b"1.1 a")], silent) == [(b"Via", b"1.1 a")]


def test_length_of_a_response_passes() -> None:
    """Even where Connection lists it: a body without its length would seem to have no end."""
    came = [(b"Connection", b"content-length"), (b"Content-Length", b"2")]
    assert response_fields(came, Forwarding()) == [came[1], VIA]


# The same rules written as sentences, one look at all fields for each.

NAMES = st.sampled_from(
    [
        *(b"Host", b"Cookie", b"TE", b"te", b"Upgrade", b"Connection", b"connection"),
        *(b"X-A", b"X_A", b"x_b", b"X-Forwarded-For", b"x_forwarded-for", b"Forwarded"),
        *(b"Content_Length", b"Expect"),
        *(b"Content-Length", b"Keep-Alive", b"Trailer", b"Transfer-Encoding", b"x-own", b"X_Own"),
        *(b"x-%b" % (b"a" * 70), b"x-webauth-%b" % (b"a" * 70), b"Date"),
    ]
)
VALUES = st.sampled_from([b"", b"x-a", b"X_A, close", b"content-length", b"trailers", b"x-b,te,"])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=12)
CHOICES = st.builds(
    Forwarding,
    forwarded=st.sampled_from(["replace", "append", "off"]),
    drop_fields=st.sampled_from(
        [frozenset(), frozenset({b"X-Own"}), frozenset({b"x_own", b"date"})]
    ),
)


def members(fields: list[Field], name: bytes) -> set[bytes]:
    values = [value for own, value in fields if own.lower() == name]
    return {part.strip() for value in values for part in value.lower().split(b",")} - {b""}


def plain(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")


@given(HEADERS, CHOICES)
def test_what_passes_to_the_server(fields: list[Field], forwarding: Forwarding) -> None:
    """Neither what is of one connection, nor, if we trust no proxy, what names a client."""
    never = HOP_BY_HOP | {b"host", b"content-length", b"expect"} | members(fields, b"connection")
    never |= {plain(name) for name in forwarding.drop_fields}

    def passes(name: bytes) -> bool:
        if name.lower() in never or plain(name) in never:
            return False
        if forwarding.forwarded == "append" and b"_" not in name:
            return True
        return not (plain(name) in IDENTITY or plain(name).startswith(IDENTITY_PREFIXES))

    expected = [field for field in fields if passes(field[0])]
    own = {b"Host", b"TE", b"Connection", b"Via"} | {name for name, _ in TRUTH}
    passed = sent(fields, forwarding=forwarding)[1:]
    assert passed[: len(expected)] == expected
    assert {name for name, _ in passed[len(expected) :]} <= own
    asks = b"trailers" in members(fields, b"te")
    assert ((b"TE", b"trailers") in passed) == asks


@given(HEADERS, st.sampled_from([103, 200, 204, 304]))
def test_what_passes_to_the_client(fields: list[Field], status: int) -> None:
    """All that is not of one connection, and the length of what may have a body."""
    never = (HOP_BY_HOP | members(fields, b"connection")) - {b"content-length"}
    if status in (103, 204):
        never |= {b"content-length"}
    expected = [field for field in fields if field[0].lower() not in never]
    assert response_fields(fields, Forwarding(), status=status) == [*expected, VIA]


def test_trailers() -> None:
    """What frames, routes or authenticates has no place behind a body."""
    allowed = [(b"X-Checksum", b"1")]
    assert trailer_fields([(b"Content-Length", b"0"), *allowed, (b"Set-Cookie", b"x")]) == allowed
