"""The paths of the status page, and the headers of all its responses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.http import (
    FORBIDDEN,
    NOT_ALLOWED,
    NOT_FOUND,
    SEE_OTHER,
    SERVICE_UNAVAILABLE,
    UNAUTHORIZED,
    parse_qs,
)
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from ..journal.merged import AnyJournal, MergedJournal
from ..server.pages import without_body
from ..server.site import HangupSite, SiteErrors, errors_of
from ..transport.clock import steady
from .access import GUESS_SECONDS, Access, url_of
from .codes import codes_page
from .page import document
from .snapshots import Snapshots
from .stream import Streams

# RFC 9110, section 15.5.20
MISDIRECTED_REQUEST: Final = 421

# RFC 6585, section 4
TOO_MANY_REQUESTS: Final = 429

_HEADERS: Final = {
    b"Cache-Control": b"no-store",
    b"Cross-Origin-Opener-Policy": b"same-origin",
    b"Cross-Origin-Resource-Policy": b"same-origin",
    b"Referrer-Policy": b"no-referrer",
    b"X-Content-Type-Options": b"nosniff",
    b"X-Frame-Options": b"DENY",
    b"Content-Security-Policy": b"default-src 'none'; frame-ancestors 'none'",
}


class StatusResource(Resource):
    """A site's journal as a live page; docs/status.md lists its paths.

    It belongs at the root of a `StatusSite`.  If ``Host`` is not the address that the request came
    to (or ``localhost`` on this machine), it answers 421 with the URL to open.

    Args:
        site: The site whose client errors are shown: a `HangupSite`, or the `SiteErrors` that
            `forward_client_errors` has returned; or what its workers report.
        clock: Timers; the reactor.
        token: Everybody needs it to see the page.  None makes one up, which is not needed on
            loopback and UNIX sockets.
        metrics: A resource for ``/metrics``, for those who may see the page.
        now: Returns the time in seconds since 1970.

    Attributes:
        token: The token to type into the page.
        admitted: Called with the address of each client that has shown that it may see the page.
    """

    isLeaf = True

    def __init__(
        self,
        site: HangupSite | SiteErrors | MergedJournal,
        clock: IReactorTime,
        *,
        token: str | None = None,
        metrics: IResource | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        clock = steady(clock)
        errors = site if isinstance(site, MergedJournal) else errors_of(site)
        self._journal: AnyJournal
        self._journal = errors if isinstance(errors, MergedJournal) else errors.journal
        workers = errors.workers if isinstance(errors, MergedJournal) else None
        self._access = Access(clock, token)
        self._snapshots = Snapshots(errors.masking, now, lambda: errors.open_connections, workers)
        self._streams = Streams(self._journal, self._snapshots, clock)
        self._metrics = metrics
        self._page, self._sign_in_page = document("page"), document("sign_in")
        self._codes_page = codes_page()
        self.token = self._access.token
        self.admitted: Callable[[IAddress], object] = lambda client: None
        self._clock = clock
        #: Who waits for a token to be checked: one request of each connection.
        self._guessing: set[object] = set()

    def close(self) -> None:
        """End all event streams; browsers connect again by themselves."""
        self._streams.close()

    def render(self, request: Any) -> Any:
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        brings_token = request.postpath == [b"sign-in"] or request.getHeader(b"authorization")
        if not (brings_token and self._access.is_guessed_at):
            return self._render(request)
        client = request.getClientAddress()
        who = client if hasattr(client, "port") else request.channel
        if who in self._guessing:
            request.setHeader(b"Retry-After", b"1")
            return _plain(request, TOO_MANY_REQUESTS, "Another token is being checked. Try again.")
        self._guessing.add(who)
        waiting = deferLater(self._clock, GUESS_SECONDS, self._render, request)
        request.notifyFinish().addErrback(lambda _: waiting.cancel())
        waiting.addBoth(self._cb_looked_at, request, who)
        return NOT_DONE_YET

    def _cb_looked_at(self, answer: Any, request: Any, who: object) -> None:
        self._guessing.discard(who)
        if isinstance(answer, bytes):
            if request.method != b"HEAD":
                request.setHeader(b"Content-Length", b"%d" % len(answer))
            request.write(answer)
            request.finish()
        elif isinstance(answer, Failure) and not answer.check(CancelledError):
            request.processingFailed(answer)

    def _render(self, request: Any) -> Any:
        if not self._access.asks_us(request):
            text = "This page answers only under its address: open {}"
            return _plain(request, MISDIRECTED_REQUEST, text.format(url_of(request)))
        path = b"/".join(request.postpath)
        if path == b"sign-in":
            return self._sign_in(request)
        answer = {
            b"": self._render_page,
            b"codes": self._render_codes,
            b"snapshot": self._render_snapshot,
            b"events": self._render_events,
            b"metrics": self._render_metrics,
        }.get(path)
        if answer is None:
            return _plain(request, NOT_FOUND, "Not found.")
        if request.method not in (b"GET", b"HEAD"):
            return _not_allowed(request, b"GET, HEAD")
        # A link from elsewhere may lead to the page, but no other page may read its data.
        if path and self._access.is_foreign(request):
            return _plain(request, FORBIDDEN, "Pages of other sites may not read this.")
        if not self._access.admits(request):
            return self._refuse(request, path)
        self.admitted(request.getClientAddress())
        return answer(request)

    def _refuse(self, request: Any, path: bytes) -> bytes:
        request.setHeader(b"WWW-Authenticate", b"Bearer")
        if path:
            return _plain(request, UNAUTHORIZED, "The token is missing or wrong.")
        return self._render_sign_in(request)

    def _render_sign_in(self, request: Any) -> bytes:
        request.setResponseCode(UNAUTHORIZED)
        request.setHeader(b"Content-Security-Policy", self._sign_in_page.policy)
        return _body(request, b"text/html; charset=utf-8", self._sign_in_page.html)

    def _sign_in(self, request: Any) -> bytes:
        """Exchange the token for a cookie.  The token comes in the body, which no log has."""
        if request.method != b"POST":
            return _not_allowed(request, b"POST")
        if self._access.is_foreign(request):
            return _plain(request, FORBIDDEN, "Pages of other sites may not do this.")
        # Not request.args, which also has what is in the URL.
        request.content.seek(0)
        form = parse_qs(request.content.read())
        if not self._access.sign_in(request, form.get(b"token", [b""])[0].strip()):
            return self._render_sign_in(request)
        self.admitted(request.getClientAddress())
        request.setResponseCode(SEE_OTHER)
        request.setHeader(b"Location", b"./")
        return b""

    def _render_page(self, request: Any) -> bytes:
        request.setHeader(b"Content-Security-Policy", self._page.policy)
        return _body(request, b"text/html; charset=utf-8", self._page.html)

    def _render_codes(self, request: Any) -> bytes:
        request.setHeader(b"Content-Security-Policy", self._codes_page.policy)
        return _body(request, b"text/html; charset=utf-8", self._codes_page.html)

    def _render_snapshot(self, request: Any) -> bytes:
        data = self._snapshots.json(self._journal.snapshot())
        return _body(request, b"application/json", data.encode("ascii") + b"\n")

    def _render_events(self, request: Any) -> Any:
        if self._streams.full:
            request.setHeader(b"Retry-After", b"5")
            return _plain(request, SERVICE_UNAVAILABLE, "Too many browsers are connected already.")
        request.setHeader(b"Content-Type", b"text/event-stream")
        if request.method == b"HEAD":
            return b""
        self._streams.open(request)
        return NOT_DONE_YET

    def _render_metrics(self, request: Any) -> Any:
        if self._metrics is None:
            text = "No metrics: pip install 'twisted_hangup[metrics]'"
            return _plain(request, NOT_FOUND, text)
        return self._metrics.render(request)


def _plain(request: Any, status: int, text: str) -> bytes:
    request.setResponseCode(status)
    return _body(request, b"text/plain; charset=utf-8", text.encode() + b"\n")


def _not_allowed(request: Any, allowed: bytes) -> bytes:
    request.setHeader(b"Allow", allowed)
    return _plain(request, NOT_ALLOWED, f"Allowed here: {allowed.decode()}.")


def _body(request: Any, kind: bytes, body: bytes) -> bytes:
    request.setHeader(b"Content-Type", kind)
    return without_body(request, body) if request.method == b"HEAD" else body
