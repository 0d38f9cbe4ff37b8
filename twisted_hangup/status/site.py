"""A site of its own for the status page, so that whoever breaks that one is told of, too."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.web.resource import IResource

from .._arguments import must_be, must_be_reactor, must_have
from ..limits import KIB, Limits
from ..server.site import HangupSite, SiteErrors, errors_of
from .resource import StatusResource

#: A token in a form, and nothing larger, is ever sent here.
_LIMITS: Final = Limits(body_bytes=4 * KIB)

#: Connections of clients that have not shown yet that they may see it.  One more, and the
#: oldest of them makes room: half of the places are kept for those who may.
MOST_STRANGERS: Final = 32


class StatusSite(HangupSite):
    """Serves the status page of another site.

    Args:
        site: The site whose client errors are shown; of a site of your own, what
            `forward_client_errors` has returned.
        reactor: Timers and clock.
        token: See `StatusResource`.
        metrics: See `StatusResource`.

    Attributes:
        token: What to type into the page, where it asks.
        token_was_made_up: Whether it was, so that somebody has to be told.
    """

    def __init__(
        self,
        site: HangupSite | SiteErrors,
        reactor: Any,
        *,
        token: str | None = None,
        metrics: IResource | None = None,
    ) -> None:
        errors = errors_of(site)
        must_be_reactor("reactor", reactor)
        must_be("token", token, (str, type(None)))
        if token == "":
            raise ValueError("token must not be empty: None makes one up")
        if metrics is not None:
            cure = "metrics.resource()" if hasattr(metrics, "exposition") else ""
            must_have("metrics", metrics, "an IResource", ("render", "getChildWithDefault"), cure)
        self._status = StatusResource(errors, reactor, token=token, metrics=metrics)
        #: Clients that have shown that they may see it.
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
        """As `HangupSite` does, and make room for it."""
        peers = [(one, one.transport.getPeer()) for one in self.context.open()]
        self._known.intersection_update([peer for _, peer in peers])
        strangers = [one for one, peer in peers if peer not in self._known]
        for one in strangers[: max(0, len(strangers) + 1 - MOST_STRANGERS)]:
            one.transport.abortConnection()
        return super().buildProtocol(address)

    def log(self, request: Any) -> None:
        """Nothing: an operator who looks is no news."""

    def drain(self) -> Deferred[None]:
        """As `HangupSite.drain`; event streams end at once."""
        self._status.close()
        return super().drain()
