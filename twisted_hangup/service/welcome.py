"""The page of a server with nothing to serve: what it is, and what to do next."""

from __future__ import annotations

import shlex
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final

from twisted.internet.address import UNIXAddress
from twisted.web.resource import IResource, Resource

from ..server.pages import PAGE_NOT_FOUND, without_body

#: A shell line that sends a broken request.
_BROKEN: Final = r"printf 'GET / HTTP/1.1\r\nHost: {host}\r\nBad Name: 1\r\n\r\n' | {client}"
_PLAIN: Final = "nc {host} {port}"
_TLS: Final = "openssl s_client -quiet -connect {authority}:{port}"
_UNIX: Final = "nc -U {path}"


class WelcomePage(Resource):
    """Answers ``/``, with commands for the address that the browser used; all else is 404."""

    def __init__(self) -> None:
        super().__init__()
        text = files(__package__).joinpath("welcome.html").read_text("utf-8")
        self._page = Template(text)

    def getChild(self, path: bytes, request: Any) -> IResource:
        return PAGE_NOT_FOUND if path else self

    def render_HEAD(self, request: Any) -> bytes:
        return without_body(request, self.render_GET(request))

    def render_GET(self, request: Any) -> bytes:
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        # The page loads nothing, and the browser would not let it.
        request.setHeader(
            b"Content-Security-Policy", b"default-src 'none'; style-src 'unsafe-inline'"
        )
        page = self._page.substitute(broken=escape(_broken_request(request), quote=False))
        return page.encode("utf-8")


def _broken_request(request: Any) -> str:
    """A shell line that sends a broken request to the address that *request* came to."""
    address = request.getHost()
    if isinstance(address, UNIXAddress):
        path = (address.name or b"SOCKET").decode("utf-8", "replace")
        return _BROKEN.format(host="localhost", client=_UNIX.format(path=shlex.quote(path)))
    host = request.getRequestHostname().decode("ascii", "replace").strip("[]") or "localhost"
    authority = f"[{host}]" if ":" in host else host
    client = _TLS if request.isSecure() else _PLAIN
    return _BROKEN.format(
        host=authority,
        client=client.format(host=host, authority=authority, port=address.port),
    )
