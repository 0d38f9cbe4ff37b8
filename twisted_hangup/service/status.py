"""``--status`` of ``twistd hangup``: a second site that shows the errors of the first."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger
from twisted.python.usage import UsageError

from ..journal.console import ConsoleLog
from ..journal.merged import MergedJournal
from ..server.site import HangupSite
from ..status import StatusSite, is_local
from ..transport.clock import steady
from .accept import Gate
from .options import Options
from .ports import endpoint
from .serving import HangupService, address_text

if TYPE_CHECKING:
    from ..metrics import Metrics, WorkerMetrics

#: Enough for a handful of operators and a scraper, and never so many that the site lacks files.
MOST_CONNECTIONS: Final = 64

#: Only event streams take longer, and they are not waited for.
GRACE_SECONDS: Final = 1.0

# RFC 6750, section 2.1: b64token, and too long to be guessed.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}", re.ASCII)

_log = Logger()


class StatusService(HangupService):
    """A `StatusSite` on its endpoint; it logs the token if readers need it."""

    def _log_address(self, address: object) -> None:
        site = self.site
        assert isinstance(site, StatusSite)
        if site.token_was_made_up and not is_local(address):
            # The one place where the token is written.
            _log.info(
                "The status page is on {address} and asks for the token {token}",
                address=address_text(address),
                token=site.token,
            )
        else:
            _log.info("The status page is on {address}", address=address_text(address))


def status_service(
    site: HangupSite | MergedJournal,
    options: Options,
    reactor: Any,
    metrics: Metrics | WorkerMetrics | None,
) -> StatusService:
    """The service that shows the errors of *site* at the endpoint of ``--status``.

    Raises:
        UsageError: There is no such endpoint, or no token in the file.
    """
    assert options.status is not None
    name, description = options.status
    path = options["status-token-file"]
    token = None if path is None else _token_in(path)
    resource = None if metrics is None else metrics.resource()
    shown = StatusSite(site, reactor, token=token, metrics=resource)
    console = ConsoleLog(
        steady(reactor), log_idle=bool(options["log-idle"]), policy=options.masking
    )
    return StatusService(
        shown,
        [(name, endpoint(description, reactor, "--status"))],
        Gate(reactor, MOST_CONNECTIONS, room=shown.context.room),
        reactor=reactor,
        grace_seconds=GRACE_SECONDS,
        closers=[shown.journal.watch(console), console.close],
    )


def metrics_of(site: HangupSite) -> Metrics | None:
    """The metrics of *site*; None if the extra ``metrics`` is not installed."""
    try:
        from ..metrics import Metrics
    except ImportError:
        return None
    return Metrics(site)


def metrics_report_of(site: HangupSite) -> Callable[[], bytes] | None:
    """A function that returns the metrics of *site* for `WorkerMetrics`; None likewise."""
    try:
        from prometheus_client import CollectorRegistry

        from ..metrics import Metrics, metrics_report
    except ImportError:
        return None
    # The first process has metrics of its own process.
    registry = Metrics(site, registry=CollectorRegistry()).registry
    return partial(metrics_report, registry)


def _token_in(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            token = file.read(1024).strip()
    except OSError as error:
        reason = f"cannot read {path!r}: {error.strerror}"
        raise UsageError(f"--status-token-file: {reason}") from error
    if not _TOKEN.fullmatch(token):
        raise UsageError(
            f"--status-token-file: {path!r} has to hold one token of 16 to 512 letters, digits "
            "and -._~+/="
        )
    return token
