"""What the proxy writes on the first lines of its requests: tables, without a connection."""

from __future__ import annotations

import pytest

from twisted_hangup.proxy.upstream import (
    CannotForward,
    Upstream,
    field_section,
    host_asked_for,
    request_line,
)


@pytest.mark.parametrize(
    "url, method, asked, above, target",
    [
        ("http://a", b"GET", b"/x/y?q=/..", 0, b"/x/y?q=/.."),
        ("http://a", b"GET", b"/x/../y", 0, b"/x/../y"),
        ("http://a/", b"GET", b"/x/y?q", 0, b"/x/y?q"),
        ("http://a", b"GET", b"http://b", 0, b"/"),
        ("http://a", b"GET", b"http://u:p@b:80?q", 0, b"/?q"),
        ("http://a", b"OPTIONS", b"http://b", 0, b"*"),
        ("http://a", b"OPTIONS", b"http://b/", 0, b"/"),
        ("http://a/v1", b"OPTIONS", b"http://b", 0, b"/v1/"),
        ("http://a/v1", b"GET", b"/x?q", 0, b"/v1/x?q"),
        ("http://a/v1/", b"GET", b"/", 0, b"/v1/"),
        ("http://a/v1/", b"GET", b"/api", 1, b"/v1/"),
        ("http://a/v1/", b"GET", b"/api/", 1, b"/v1/"),
        ("http://a/v1/", b"GET", b"/api/x%2Fy//z?q=/..", 1, b"/v1/x%2Fy//z?q=/.."),
        ("http://a", b"GET", b"/api/x..y/...", 1, b"/api/x..y/..."),
    ],
)
def test_target(url: str, method: bytes, asked: bytes, above: int, target: bytes) -> None:
    """Origin form; a path in the URL stands for the path at which the resource stands."""
    assert Upstream(url).target(method, asked, above) == target


@pytest.mark.parametrize(
    "path",
    [
        *(b"/api/..", b"/api/../x", b"/api/x/%2e%2E/y", b"/api/..%2fx", b"/api/..\\x"),
        *(b"/api/..%5Cx", b"/api/..;/x", b"/api/..%3b/x", b"/api/x%2f..", b"http://b/api/../x"),
    ],
)
@pytest.mark.parametrize("url, above", [("http://a", 1), ("http://a/v1/", 0), ("http://a/v1/", 1)])
def test_path_that_leads_out(url: str, above: int, path: bytes) -> None:
    """Where a part of a server is published, no spelling of ".." reaches the rest of it."""
    with pytest.raises(CannotForward, match=r"\.\."):
        Upstream(url).target(b"GET", path, above)


@pytest.mark.parametrize(
    "url, reason",
    [
        *((url, "not the URL of a server") for url in ("", "9000", "a:1", "ftp://a/", "http://")),
        *(("http://a/?q", "more than"), ("http://u@a/", "more than"), ("http://a/#f", "more than")),
        *(("http://a:x/", "Port"), ("http://a:99999/", "Port"), ("http://[::1", "IPv6")),
        *(("http://a/b c", "%20"), ("http://a/ü", "%20"), ("http://a b/", "not a valid host")),
        *(('http://a"/', "not a valid host"), ("http://" + "ü" * 99, "not a valid host")),
    ],
)
def test_url_that_is_none(url: str, reason: str) -> None:
    """A mistake is told in a few words, when the proxy is made."""
    with pytest.raises(ValueError, match=reason):
        Upstream(url)


@pytest.mark.parametrize(
    "url, host, port, secure, authority",
    [
        ("http://127.0.0.1:9000", "127.0.0.1", 9000, False, b"127.0.0.1:9000"),
        ("https://A.example/x", "a.example", 443, True, b"A.example"),
        ("http://[::1]:80", "::1", 80, False, b"[::1]:80"),
        ("http://ü.example:81", "xn--tda.example", 81, False, b"xn--tda.example:81"),
    ],
)
def test_url(url: str, host: str, port: int, secure: bool, authority: bytes) -> None:
    """Where to connect, and what stands in Host."""
    upstream = Upstream(url)
    assert (upstream.host, upstream.port, upstream.secure) == (host, port, secure)
    assert upstream.authority == authority


@pytest.mark.parametrize(
    "target, hosts, host",
    [
        (b"/", [b"a:80"], b"a:80"),
        (b"/", [], b""),
        (b"/", [b""], b""),
        (b"http://b:81/", [b"a"], b"b:81"),
        (b"http://u:p@b", [b"a"], b"b"),
        (b"http://[::1]:8/", [], b"[::1]:8"),
    ],
)
def test_host(target: bytes, hosts: list[bytes], host: bytes) -> None:
    """That of the target goes before that of the field (RFC 9112, section 3.2.2)."""
    assert host_asked_for(target, hosts) == host


@pytest.mark.parametrize(
    "target, hosts",
    [
        *((b"/", [b"a b"]), (b"/", [b"a", b"a"]), (b"/", [b"a/b"])),
        *((b"/", [b'a"']), (b"/", [b"u@a"]), (b"http://u@v@w/", []), (b"http://a b/", [])),
    ],
)
def test_host_that_is_none(target: bytes, hosts: list[bytes]) -> None:
    """What another server might read as another name is not passed on."""
    with pytest.raises(CannotForward, match="Host"):
        host_asked_for(target, hosts)


HOST = (b"Host", b"a")


def test_head() -> None:
    """Fields with nothing in them, obs-text and tabs are all right."""
    assert request_line(b"M-SEARCH", b"/?\\|") == b"M-SEARCH /?\\| HTTP/1.1\r\n"
    section = field_section([HOST, (b"X", b""), (b"Y", b"\xff\t;")])
    assert section == b"Host: a\r\nX: \r\nY: \xff\t;\r\n\r\n"


@pytest.mark.parametrize(
    "method, target, field",
    [
        (b"GET", b"/ HTTP/1.1\r\nX: y", HOST),
        (b"GET", b"/a b", HOST),
        (b"GET", b"/\xff", HOST),
        (b"GET", b"/a#b", HOST),
        (b"GET", b"", HOST),
        (b"GET /", b"/", HOST),
        (b"", b"/", HOST),
        (b"GET", b"/", (b"X Y", b"")),
        (b"GET", b"/", (b"X:", b"")),
        (b"GET", b"/", (b"", b"x")),
        (b"GET", b"/", (b"X\r\nY", b"")),
        *((b"GET", b"/", (b"X", b"a%bb" % bytes([byte]))) for byte in b"\0\r\n\x01\x0b\x1b\x7f"),
        (b"GET", b"/", (b"X", b"a\r\nContent-Length: 5")),
        (b"GET", b"/", (b"X: a\r\nY", b"b")),
        (b"GET", b"/", (b"X", b"a\r\n\r\nGET /evil HTTP/1.1\r\nHost: a")),
    ],
)
def test_head_that_could_be_read_otherwise(
    method: bytes, target: bytes, field: tuple[bytes, bytes]
) -> None:
    """Whatever let it in, it does not go out."""
    with pytest.raises(CannotForward):
        request_line(method, target) + field_section([field])
