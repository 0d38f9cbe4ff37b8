"""The error pages that a client gets from us: a sentence, as HTML for browsers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from html import escape
from string import Template
from typing import Any, Final

from twisted.web.http import FORBIDDEN, NOT_FOUND
from twisted.web.resource import Resource

from ..errors import ClientError
from ..events import Field
from .answers import phrase_of

#: Status -> a sentence for people who do not know HTTP.
SENTENCES: Final[Mapping[int, str]] = {
    400: "The server cannot read this request: it is not valid HTTP.",
    403: "This page is not open to visitors.",
    404: "There is no page at this address.",
    405: "This page cannot be used in this way.",
    408: "The request took too long to arrive. Try again.",
    413: "The request is larger than this server accepts.",
    414: "The address is longer than this server accepts.",
    417: "The server does not know what the request expects of it.",
    431: "The request has more header fields, or larger ones, than this server accepts. "
    "Delete the cookies of this site and try again.",
    500: "Something went wrong in the server. Its log says what.",
    501: "The server does not know this kind of request.",
    502: "The server behind this one has failed. Try again in a moment.",
    503: "The server has too much to do. Try again in a moment.",
    504: "The server behind this one took too long to answer. Try again in a moment.",
}

_TEXT: Final = (b"Content-Type", b"text/plain; charset=utf-8")
_HTML: Final = (b"Content-Type", b"text/html; charset=utf-8")
_VARY: Final = (b"Vary", b"Accept")
# The page loads nothing, and the browser would not let it.
_POLICY: Final = (b"Content-Security-Policy", b"default-src 'none'; style-src 'unsafe-inline'")

_WEIGHT: Final = re.compile(r"\s*q=(0(\.\d{0,3})?|1(\.0{0,3})?)\s*")

_PAGE: Final = Template(
    """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$status $phrase</title>
<style>
  :root { --ink: #1d2129; --soft: #5b6472; --paper: #fbfaf7; }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e6e4df; --soft: #a2a7b0; --paper: #16181c; }
  }
  body { margin: 0; background: var(--paper); color: var(--ink);
         font: 1.05rem/1.6 system-ui, sans-serif; }
  main { max-width: 36rem; margin: 0 auto; padding: 18vh 1.25rem 3rem; }
  h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
  h1 span { color: var(--soft); font-weight: normal; }
  p { margin: 0; }
</style>
</head>
<body>
<main>
<h1><span>$status</span> $phrase</h1>
<p>$sentence</p>
</main>
</body>
</html>
"""
)


class ErrorPages:
    """The error pages of a site; they hold no byte of a client's."""

    def __init__(self, own: Mapping[str, bytes] | None = None) -> None:
        """*own* are the operator's pages: ``404.html`` and ``404.txt`` replace ours."""
        self._own = own or {}

    def page(
        self, status: int, accept: Iterable[bytes], sentence: str | None = None
    ) -> tuple[bytes, list[Field]]:
        """The body of an answer, and its headers except the length.

        Args:
            accept: The values of the client's ``Accept``.
            sentence: What to say in place of the sentence in `SENTENCES`.
        """
        html = wants_html(accept)
        own = self._own.get(f"{status}.{'html' if html else 'txt'}")
        if own is not None:
            return own, [_HTML if html else _TEXT, _VARY]
        if html:
            return _page(status, _sentence(status, sentence)), [_HTML, _VARY, _POLICY]
        return _sentence(status, sentence).encode() + b"\n", [_TEXT, _VARY]

    def page_of(self, error: ClientError, status: int) -> tuple[bytes, list[Field]]:
        """The same for the client of *error*, by the part of its request that arrived."""
        fields = [] if error.request is None else error.request.fields
        return self.page(status, [value for name, value in fields if name.lower() == b"accept"])


def wants_html(accept: Iterable[bytes]) -> bool:
    """Whether these values of ``Accept`` prefer HTML to plain text, or take both alike.

    They have to name HTML, as browsers do; ``*/*`` is not enough (RFC 9110, section 12.5.1).
    """
    weights = {"text/html": 0.0, "text/plain": 0.0}
    for media_range in b",".join(accept).decode("latin-1").lower().split(","):
        name, *parameters = media_range.split(";")
        if name.strip() in weights:
            matches = filter(None, map(_WEIGHT.fullmatch, parameters))
            weights[name.strip()] = min((float(match[1]) for match in matches), default=1.0)
    return weights["text/html"] > 0 and weights["text/html"] >= weights["text/plain"]


def error_page(request: Any, status: int, sentence: str | None = None) -> bytes:
    """Set *status* on *request*, and return the site's page for it as the body.

    The body is plain text if the site has no pages, and empty for HEAD.
    """
    request.setResponseCode(status)
    pages = getattr(getattr(request.channel, "context", None), "pages", None)
    if pages is None:
        body, fields = _sentence(status, sentence).encode() + b"\n", [_TEXT]
    else:
        accept = request.requestHeaders.getRawHeaders(b"Accept", ())
        body, fields = pages.page(status, accept, sentence)
    for name, value in fields:
        request.setHeader(name, value)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return b"" if request.method == b"HEAD" else body


class ErrorPage(Resource):
    """Answers every method, here and below, with a status and its page."""

    isLeaf = True

    def __init__(self, status: int) -> None:
        super().__init__()
        self._status = status

    def render(self, request: Any) -> bytes:
        return error_page(request, self._status)


def without_body(request: Any, body: bytes) -> bytes:
    """What to return for HEAD if GET returns *body*.

    Twisted would drop a body itself, and log the request with its whole target each time.
    """
    if body:
        request.setHeader(b"Content-Length", b"%d" % len(body))
    return b""


def _sentence(status: int, sentence: str | None) -> str:
    return sentence or SENTENCES.get(status) or f"{phrase_of(status).decode('ascii')}."


@lru_cache(maxsize=64)
def _page(status: int, sentence: str) -> bytes:
    phrase = escape(phrase_of(status).decode("ascii"))
    return _PAGE.substitute(status=status, phrase=phrase, sentence=escape(sentence)).encode()


PAGE_NOT_FOUND = ErrorPage(NOT_FOUND)
PAGE_FORBIDDEN = ErrorPage(FORBIDDEN)
