"""`StatusSite`: a site for the status page, apart from the site that it shows."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.web.resource import IResource

from .._arguments import must_be, must_be_reactor, must_have
from ..journal.merged import MergedJournal
from ..limits import KIB, Limits
from ..server.site import HangupSite, SiteErrors, errors_of
from .resource import StatusResource

#: Clients only send a token in a form.
_LIMITS: Final = Limits(body_bytes=4 * KIB)

#: Most connections of clients that have not shown yet that they may see the page.  One more
#: closes the oldest of them: half of the places are kept for those who may see it.
MOST_STRANGERS: Final = 32


class StatusSite(HangupSite):
    """A site that shows the client errors of another site, live.

    Let it listen on a port of its own, on this machine only:

        status = StatusSite(site, reactor)
        hangup_endpoint(TCP4ServerEndpoint(reactor, 9000, interface="127.0.0.1")).listen(status)

    Args:
        site: The site whose client errors are shown: a `HangupSite`, or the `SiteErrors` that
            `forward_client_errors` has returned; or what its workers report.
        reactor: Timers and clock.
        token: Everybody needs it to see the page.  None makes one up, which is not needed on
            loopback and UNIX sockets.
        metrics: A resource for ``/metrics``, such as ``Metrics(site).resource()``.

    Raises:
        ValueError: *token* is empty.

    Attributes:
        token: The token to type into the page, if it asks.
        token_was_made_up: Whether it was made up, so that you have to print or log it.
    """

    def __init__(
        self,
        site: HangupSite | SiteErrors | MergedJournal,
        reactor: Any,
        *,
        token: str | None = None,
        metrics: IResource | None = None,
    ) -> None:
        errors = site if isinstance(site, MergedJournal) else errors_of(site)
        must_be_reactor("reactor", reactor)
        must_be("token", token, (str, type(None)))
        if token == "":
            raise ValueError("token must not be empty: None makes one up")
        if metrics is not None:
            cure = "metrics.resource()" if hasattr(metrics, "exposition") else ""
            must_have("metrics", metrics, "an IResource", ("render", "getChildWithDefault"), cure)
        self._status = StatusResource(errors, reactor, token=token, metrics=metrics)
        #: Clients that have shown that they may see the page.
        self._known: set[IAddress] = set()
        self._status.admitted = self._known.add
        super().__init__(
            self._status,
            limits=_LIMITS,
            masking=errors.masking,
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.token = self._status.token
        self.token_was_made_up = token is None

    def buildProtocol(self, address: Any) -> Any:
        """As in `HangupSite`, and make room for the connection."""
        peers = [(one, one.transport.getPeer()) for one in self.context.open()]
        self._known.intersection_update([peer for _, peer in peers])
        strangers = [one for one, peer in peers if peer not in self._known]
        for one in strangers[: max(0, len(strangers) + 1 - MOST_STRANGERS)]:
            one.transport.abortConnection()
        return super().buildProtocol(address)

    def log(self, request: Any) -> None:
        """Do nothing: the operator's own requests are no news."""

    def drain(self) -> Deferred[None]:
        """As `HangupSite.drain`; event streams end at once."""
        self._status.close()
        return super().drain()
