"""What the parser refuses of its own accord, where Node is laxer, and what it does not."""

from __future__ import annotations

from typing import Final, NamedTuple

import pytest
from support.parsing import CHUNKED, HOST, bytewise, events, get_with, head_of, refusal

from twisted_hangup.events import RequestHead
from twisted_hangup.limits import NODE_METHODS, Limits


class Refused(NamedTuple):
    """One thing that llhttp lets through; the error comes after *wire*."""

    what: str
    wire: bytes
    code: str
    reason: str
    field: bytes | None = None


URL: Final = "HPE_INVALID_URL"
VERSION: Final = "HPE_INVALID_VERSION"
CODING: Final = "HPE_INVALID_TRANSFER_ENCODING"
FORM: Final = "Request target in none of the four forms"
FRAGMENT: Final = "Fragment in the request target"
SPACES: Final = "More than one space in the request line"
ONLY_CHUNKED: Final = "Transfer-Encoding other than a single `chunked`"


REFUSED: Final = [
    Refused("0.9 with CRLF", b"GET /x\r\n", VERSION, "HTTP/0.9 is not supported"),
    Refused("0.9 with LF", b"GET /x\n", VERSION, "HTTP/0.9 is not supported"),
    Refused("0.9 by name", b"GET / HTTP/0.9", VERSION, "Invalid HTTP version"),
    Refused("2.0", b"GET / HTTP/2.0", VERSION, "Invalid HTTP version"),
    Refused("version before protocol", b"GET / RTSP/2.0", VERSION, "Invalid HTTP version"),
    Refused("RTSP", b"SETUP / RTSP/1.0", "HPE_INVALID_CONSTANT", "Expected HTTP/"),
    Refused("ICE", b"SOURCE / ICE/1.0", "HPE_INVALID_CONSTANT", "Expected HTTP/"),
    Refused("protocol before spaces", b"GET  / RTSP/1.0", "HPE_INVALID_CONSTANT", "Expected HTTP/"),
    Refused("two spaces before target", b"GET  / HTTP/1.1", URL, SPACES),
    Refused("two spaces before version", b"GET /  HTTP/1.1", URL, SPACES),
    Refused("spaces before target form", b"GET  *x HTTP/1.1", URL, SPACES),
    Refused("fragment", b"GET /#a HTTP/1.1", URL, FRAGMENT),
    Refused(
        "fragment of a URL", b"GET http://a/#a HTTP/1.1", URL, "Fragment in the request target"
    ),
    Refused("star and more", b"OPTIONS *a HTTP/1.1", URL, FORM),
    Refused("no authority", b"GET http:///a HTTP/1.1", URL, FORM),
    Refused("authority of a port", b"GET http://:80/ HTTP/1.1", URL, FORM),
    Refused("authority of userinfo", b"GET http://u@/ HTTP/1.1", URL, FORM),
    Refused("query after no authority", b"GET http://?a HTTP/1.1", URL, FORM),
    Refused("not an IP literal", b"GET http://[x]/ HTTP/1.1", URL, FORM),
    Refused("port of letters", b"GET http://a:b/ HTTP/1.1", URL, FORM),
    Refused("half an escape", b"GET http://a%2/ HTTP/1.1", URL, FORM),
    Refused(
        "coding in 1.0",
        get_with(b"Transfer-Encoding: chunked", version=b"1.0"),
        CODING,
        "Transfer-Encoding in an HTTP/1.0 request",
        b"Transfer-Encoding",
    ),
    Refused(
        "two codings",
        get_with(HOST[:-2], b"transfer-encoding: gzip, chunked"),
        CODING,
        ONLY_CHUNKED,
        b"transfer-encoding",
    ),
    Refused(
        "codings in two fields",
        get_with(b"Transfer-Encoding: gzip", b"TRANSFER-ENCODING: chunked"),
        CODING,
        ONLY_CHUNKED,
        b"TRANSFER-ENCODING",
    ),
    Refused(
        "coding in an upgrade",
        get_with(b"Transfer-Encoding: gzip", b"Upgrade: x", b"Connection: upgrade"),
        CODING,
        ONLY_CHUNKED,
        b"Transfer-Encoding",
    ),
    Refused(
        "length of 2**63",
        get_with(b"Content-Length: 9223372036854775808"),
        "HPE_INVALID_CONTENT_LENGTH",
        "Content-Length overflow",
        b"Content-Length",
    ),
    Refused("no Host", get_with(b"A: b"), "ERR_HTTP_HOST_REQUIRED", "Missing Host"),
    Refused(
        "two Hosts",
        get_with(b"Host: a", b"HOST: a"),
        "ERR_HTTP_INVALID_HOST",
        "More than one Host",
        b"HOST",
    ),
    Refused(
        "two Hosts in HTTP/1.0",
        get_with(b"Host: a", b"HOST: b").replace(b"HTTP/1.1", b"HTTP/1.0"),
        "ERR_HTTP_INVALID_HOST",
        "More than one Host",
        b"HOST",
    ),
    *(
        Refused(
            f"Host {value!r} in HTTP/{version.decode()}",
            get_with(b"Host: " + value).replace(b"HTTP/1.1", b"HTTP/" + version),
            "ERR_HTTP_INVALID_HOST",
            "Invalid Host",
            b"Host",
        )
        for version in (b"1.1", b"1.0")
        for value in (
            *(b"a b", b"a,b", b"a,b:c", b"a/b", b"u@a", b"a:b", b"a:1:2", b"\xff", b"%zz", b"a%2"),
            *(b"::1", b"[::1", b"[::1]x", b"[1:2]", b"[::1%25eth0]", b"[v1]", b'"a"'),
        )
    ),
    Refused(
        "framing before Host",
        get_with(b"Transfer-Encoding: gzip, chunked"),
        CODING,
        ONLY_CHUNKED,
        b"Transfer-Encoding",
    ),
    Refused(
        "17 digits of chunk size",
        CHUNKED + b"00000000000000001",
        "HPE_INVALID_CHUNK_SIZE",
        "Chunk size overflow",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.what)
def test_refused(case: Refused) -> None:
    """What RFC 9112 forbids is refused where its element ends, however it is cut."""
    for reads in ([case.wire + b"X"], bytewise(case.wire)):
        error = refusal(reads)
        assert (error.code, error.reason) == (case.code, case.reason)
        assert error.offset == len(case.wire)
        assert error.field == case.field
        assert error.status == 400


ACCEPTED: Final = [
    b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: \t a:80 \t\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a%20b.c_d~!$&'()*+;=:\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 1.2.3.4:0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [1:2:3:4:5:6:1.2.3.4]\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [v1.a:b]\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://u:p%20@a.b:80/c?d HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://[::1]?d HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://a HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9223372036854775807\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\t CHUNKED \r\n\r\n",
    CHUNKED + b"0000000000000000\r\n\r\n",
    CHUNKED + b"ffffffffffffffff\r\n",
]


@pytest.mark.parametrize("wire", ACCEPTED)
def test_accepted(wire: bytes) -> None:
    """What RFC 9112 allows is not refused for resembling what it forbids."""
    whole, cut = events([wire]), events(bytewise(wire))
    assert isinstance(whole[0], RequestHead)
    assert whole == cut


def test_host_is_not_required_where_it_is_turned_off() -> None:
    """Without ``require_host`` neither a missing nor an odd Host is refused."""
    lax = Limits(require_host=False)
    for lines in ([], [b"Host: a", b"Host: b"], [b"Host: a b"]):
        assert head_of(get_with(*lines), lax).version == b"1.1"


def test_http2_preface_keeps_nodes_words() -> None:
    """PRI is exempt from the rules for versions and targets: Node has words of its own."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    error = refusal([preface])
    assert (error.code, error.offset) == ("HPE_PAUSED_H2_UPGRADE", 24)
    error = refusal([b"PRI * HTTP/2.0\r\nHost: a"])
    assert error.reason == "Expected HTTP/2 Connection Preface"
    assert error.offset == 16


@pytest.mark.parametrize("method", sorted(NODE_METHODS))
def test_methods_of_node(method: bytes) -> None:
    """Every method in Node's list is accepted."""
    target = b"a:80" if method == b"CONNECT" else b"/"
    assert head_of(method + b" " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n").method == method


def test_methods_of_the_operator() -> None:
    """An operator's method is accepted, also one that starts as another does."""
    limits = Limits(methods=frozenset({b"GET", b"GETALL", b"x-y"}))
    for method in (b"GET", b"GETALL", b"x-y"):
        wire = method + b" / HTTP/1.1\r\nHost: a\r\n\r\n"
        assert head_of(wire, limits).method == method
        assert events(bytewise(wire), limits) == events([wire], limits)
    assert refusal([b"POST"], limits).offset == 1  # PLAY goes on
    assert refusal([b"DELETE"], limits).offset == 2  # DESCRIBE goes on
    assert refusal([b"PLAY / HTTP/1.1"], limits).reason == "Invalid method for HTTP/x.x request"
    assert refusal([b"GETA "], limits).reason == "Invalid method encountered"
