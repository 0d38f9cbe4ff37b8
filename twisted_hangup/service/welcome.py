"""The page of a server that was given nothing to serve: what it is and how to go on."""

from __future__ import annotations

import shlex
from html import escape
from string import Template
from typing import Any, Final

from twisted.internet.address import UNIXAddress
from twisted.web.resource import IResource, Resource

from ..server.pages import PAGE_NOT_FOUND, without_body

_PAGE: Final = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>twistd hangup</title>
<style>
  :root { --ink: #1d2129; --soft: #5b6472; --paper: #fbfaf7; --box: #f0eee8; --line: #ddd9cf; }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e6e4df; --soft: #a2a7b0; --paper: #16181c; --box: #20242a; --line: #343a43; }
  }
  body { margin: 0; background: var(--paper); color: var(--ink);
         font: 1.05rem/1.6 system-ui, sans-serif; }
  main { max-width: 44rem; margin: 0 auto; padding: 3.5rem 1.25rem; }
  h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .75rem; }
  h2 { font-size: 1.05rem; margin: 2.2rem 0 .4rem; }
  p { margin: .4rem 0; }
  .soft { color: var(--soft); }
  pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px;
        padding: .7rem .9rem; margin: .5rem 0;
        white-space: pre-wrap; overflow-wrap: anywhere; }
  code { font: .9rem/1.5 ui-monospace, SFMono-Regular, Menlo, monospace; }
</style>
</head>
<body>
<main>
<h1>It runs. Now break it.</h1>
<p>This is <code>twistd hangup</code>, an HTTP server that tells you about every request that
was not HTTP: what the client sent, where it broke and what it was answered.</p>

<h2>Send it something broken</h2>
<pre><code>$broken</code></pre>
<p class="soft">There is a space in a field name. The client gets a 400, and the server's log
says which byte it was.</p>

<h2>Serve something of your own</h2>
<pre><code>twistd -n hangup --path ./public           # the files of a directory
twistd -n hangup --resource mysite.root    # an IResource, or a callable that makes one
twistd -n hangup --wsgi mysite.application # a WSGI application</code></pre>

<h2>Answer broken requests yourself</h2>
<pre><code># mysite.py
from twisted_hangup import HeaderOverflow

def too_large(failure, socket):
    failure.trap(HeaderOverflow)  # anything else is somebody else's
    socket.respond(431, b"Your cookies are too large. Clear them and try again.\\n")</code></pre>
<pre><code>twistd -n hangup --on-client-error mysite.too_large</code></pre>

<p class="soft"><code>twistd hangup --help</code> lists every limit and timeout.</p>
</main>
</body>
</html>
""")

#: A shell line that sends a broken request.
_BROKEN: Final = r"printf 'GET / HTTP/1.1\r\nHost: {host}\r\nBad Name: 1\r\n\r\n' | {client}"
_PLAIN: Final = "nc {host} {port}"
_TLS: Final = "openssl s_client -quiet -connect {authority}:{port}"
_UNIX: Final = "nc -U {path}"


class WelcomePage(Resource):
    """Answers ``/``, for the address that the browser asked; everything else is not found."""

    def getChild(self, path: bytes, request: Any) -> IResource:
        return PAGE_NOT_FOUND if path else self

    def render_HEAD(self, request: Any) -> bytes:
        return without_body(request, self.render_GET(request))

    def render_GET(self, request: Any) -> bytes:
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        # Nothing is loaded from anywhere, and nothing could be.
        request.setHeader(
            b"Content-Security-Policy", b"default-src 'none'; style-src 'unsafe-inline'"
        )
        return _PAGE.substitute(broken=escape(_broken_request(request), quote=False)).encode(
            "utf-8"
        )


def _broken_request(request: Any) -> str:
    """A shell line that sends a broken request the way *request* came."""
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
