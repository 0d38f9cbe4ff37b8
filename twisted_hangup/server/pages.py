"""Short pages of text for what cannot be served, and answers to HEAD."""

from __future__ import annotations

from typing import Any

from twisted.web.http import FORBIDDEN, NOT_FOUND
from twisted.web.resource import Resource


class PlainPage(Resource):
    """Answers every method, there and below, with a status and a line of text."""

    isLeaf = True

    def __init__(self, status: int, text: str) -> None:
        super().__init__()
        self._status = status
        self._body = text.encode("utf-8") + b"\n"

    def render(self, request: Any) -> bytes:
        request.setResponseCode(self._status)
        request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        return without_body(request, self._body) if request.method == b"HEAD" else self._body


def without_body(request: Any, body: bytes) -> bytes:
    """What to return for HEAD where GET returns *body*.

    Twisted would drop a body itself, and log the request with its whole target each time.
    """
    if body:
        request.setHeader(b"Content-Length", b"%d" % len(body))
    return b""


PAGE_NOT_FOUND = PlainPage(NOT_FOUND, "Not found.")
PAGE_FORBIDDEN = PlainPage(FORBIDDEN, "Forbidden.")
