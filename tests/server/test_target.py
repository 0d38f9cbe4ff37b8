"""What a request target means to a resource, in each of its forms (RFC 9112, section 3.2)."""

from __future__ import annotations

from typing import Any

import pytest
from support.wire import Paths
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from twisted_hangup import HangupSite, forward_client_errors
from twisted_hangup.testing import feed


class Echo(Resource):
    """Tells what a request has become."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        request.setResponseCode(299)  # nobody else's
        host = request.getRequestHostname()
        facts = request.uri, request.path, request.args, request.prepath, request.postpath, host
        return repr(facts).encode()


class OwnRequest(Request):
    """A request class with a say before its resource."""

    def process(self) -> None:
        self.asked_at = self.path
        super().process()


def seen_of(
    target: bytes, *, method: bytes = b"GET", version: bytes = b"1.1", **options: Any
) -> Any:
    """What `Echo`, which stands at ``/a``, tells of *target*; None where it is not asked."""
    wire = b"%b %b HTTP/%b\r\nHost: field:1\r\n\r\n" % (method, target, version)
    return answer(feed(HangupSite(Paths(a=Echo()), **options), wire).received)


def answer(response: bytes) -> Any:
    head, _, body = response.partition(b"\r\n\r\n")
    if b" 299 " not in head:
        return None
    if b"chunked" in head:
        body = body.split(b"\r\n")[1]
    return eval(body)


FORMS = [
    (b"http://h.example/a/b%20c?d=e", b"/a/b%20c", {b"d": [b"e"]}, [b"b c"]),
    (b"HTTPS://u:p@h.example:8443/a/?x=http://g/", b"/a/", {b"x": [b"http://g/"]}, [b""]),
    (b"http://h.example/a//b", b"/a//b", {}, [b"", b"b"]),
]


@pytest.mark.parametrize("request_class", [Request, OwnRequest])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("target, path, arguments, rest", FORMS)
def test_absolute_form(
    target: bytes, path: bytes, arguments: Any, rest: Any, version: bytes, request_class: Any
) -> None:
    """A whole URL is its path and query, and its host goes before Host; ``uri`` stays."""
    seen = seen_of(target, version=version, requestFactory=request_class)
    assert seen == (target, path, arguments, [b"a"], rest, b"h.example")


def test_absolute_form_in_a_site_of_ones_own() -> None:
    """So it is for whatever makes the requests."""
    site = Site(Paths(a=Echo()), requestFactory=lambda *given: OwnRequest(*given))
    forward_client_errors(site)
    seen = answer(feed(site, b"GET http://h/a HTTP/1.1\r\nHost: g\r\n\r\n").received)
    assert seen == (b"http://h/a", b"/a", {}, [b"a"], [], b"h")


def test_absolute_form_of_a_request_without_a_site() -> None:
    """A request of `twisted.web.http` alone is given the path, too."""
    seen: list[tuple[bytes, bytes]] = []

    class Bare(HTTPRequest):
        def process(self) -> None:
            seen.append((self.uri, self.path))
            self.finish()

    feed(
        HangupSite(Resource(), requestFactory=Bare), b"GET http://h/a?b HTTP/1.0\r\nHost: g\r\n\r\n"
    )
    assert seen == [(b"http://h/a?b", b"/a")]


@pytest.mark.parametrize("target", [b"http://h", b"http://h?a=b", b"http://h:80/"])
def test_no_path(target: bytes) -> None:
    """A URL without a path is the root."""
    seen = answer(feed(HangupSite(Echo()), b"GET %b HTTP/1.1\r\nHost: g\r\n\r\n" % target).received)
    assert seen[1:2] + seen[3:] == (b"/", [], [b""], b"h")


def test_options() -> None:
    """``*`` asks no resource; a host alone asks the root, which may be a proxy (section 3.2.4)."""
    site = HangupSite(Echo())
    response = feed(site, b"OPTIONS * HTTP/1.1\r\nHost: g\r\n\r\n").received
    assert response.startswith(b"HTTP/1.1 200 ") and answer(response) is None
    response = feed(site, b"OPTIONS http://h HTTP/1.1\r\nHost: g\r\n\r\n").received
    assert answer(response)[:2] == (b"http://h", b"/")


def test_url_of_another_scheme() -> None:
    """It names nothing here, and none of its letters are lost."""
    site = HangupSite(Echo())
    wire = b"GET ftp://h/a HTTP/1.1\r\nHost: g\r\n\r\n"
    seen = answer(feed(site, wire).received)
    assert seen[4] == [b"ftp:", b"", b"h", b"a"]
    assert seen_of(b"ftp://h/a") is None
