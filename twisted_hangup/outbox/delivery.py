"""One attempt to deliver a request, through any ``IAgent``."""

from __future__ import annotations

import time
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from ..client.backoff import BytesProducer, Discard, retry_after_seconds
from ..report.text import shortened
from .policy import DeliveryPolicy, Verdict
from .request import headers_from_text
from .store import Claim, Settlement

_PROBLEM_COLUMNS: Final = 300

_log = Logger()


def handback(claim: Claim) -> Settlement:
    """For whoever comes next, at once: the service stops, which says nothing about a server."""
    return Settlement(claim, Verdict.RETRY, "given back")


class DeliveryAttempt:
    """One request under way.

    Attributes:
        claim: Which.
        settled: Fires with the `Settlement`; never fails.
    """

    def __init__(self, agent: IAgent, claim: Claim, policy: DeliveryPolicy, clock: Any) -> None:
        self.claim = claim
        self.settled: Deferred[Settlement] = Deferred()
        self._policy = policy
        self._clock = clock
        self._timer = clock.callLater(policy.attempt_seconds, self._time_out)
        self._timed_out = self._released = False
        self._discard: Discard | None = None
        self._settlement: Settlement | None = None
        body = BytesProducer(claim.body) if claim.body else None
        method, url = claim.method.encode("latin-1"), claim.url.encode("ascii")
        self._responding: Deferred[Any] = maybeDeferred(
            agent.request, method, url, _headers(claim), body
        )
        self._responding.addCallbacks(self._cb_head, self._eb_failed).addErrback(self._eb_bug)

    def release(self) -> None:
        """Give up the attempt, and let somebody else make it; harmless when it is over."""
        self._released = True
        self._cancel()

    def _time_out(self) -> None:
        self._timed_out = True
        self._cancel()

    def _cancel(self) -> None:
        if self._discard is not None:
            self._discard.stop()
        else:
            self._responding.cancel()

    def _cb_head(self, response: Any) -> None:
        verdict = self._policy.judge(response.code, self.claim.attempt)
        wait = retry_after_seconds(response.headers, time.time())
        pause = min(wait, self._policy.pause_cap_seconds)
        problem = None
        if verdict is not Verdict.DELIVERED:
            phrase = shortened(b"%d %b" % (response.code, response.phrase or b""), 100)
            problem = f"answered {phrase}".rstrip()
            location = response.headers.getRawHeaders(b"location")
            if 300 <= response.code < 400 and location:
                problem += f" to {shortened(location[0].partition(b'?')[0], 150)}"
        self._settlement = Settlement(
            self.claim, verdict, problem, pause, verdict is not Verdict.RETRY, pause
        )
        self._timer.cancel()
        self._discard = Discard(self._clock)
        self._discard.ended.addCallback(self._end)
        response.deliverBody(self._discard)

    def _eb_failed(self, failure: Failure) -> None:
        if self._released:
            self._settlement = handback(self.claim)
        else:
            problem = (
                f"no response within {self._policy.attempt_seconds:g} s"
                if self._timed_out
                else _problem(failure)
            )
            self._settlement = Settlement(self.claim, Verdict.RETRY, problem, reached=False)
        self._end(None)

    def _eb_bug(self, failure: Failure) -> None:
        """The policy or the agent's response has raised: the request is not lost for that."""
        _log.failure("an attempt went wrong", failure)
        self._settlement = Settlement(self.claim, Verdict.RETRY, _problem(failure), reached=False)
        self._end(None)

    def _end(self, _: object) -> None:
        if self.settled.called:
            return
        if self._timer.active():
            self._timer.cancel()
        assert self._settlement is not None
        self.settled.callback(self._settlement)


def _headers(claim: Claim) -> Headers:
    headers = Headers()
    for name, value in headers_from_text(claim.headers):
        headers.addRawHeader(name.encode("latin-1"), value.encode("latin-1"))
    headers.setRawHeaders(b"Idempotency-Key", [claim.key.encode("ascii")])
    return headers


def _problem(failure: Failure) -> str:
    """A failure of an agent in one line: what is inside of Twisted's lists of reasons."""
    error = failure.value
    while reasons := getattr(error, "reasons", None):
        error = reasons[0].value if isinstance(reasons[0], Failure) else reasons[0]
    if isinstance(error, CancelledError):
        return "the attempt was cancelled"
    text = " ".join(str(error).split())
    name = type(error).__name__
    return shortened(f"{name}: {text}".encode() if text else name.encode(), _PROBLEM_COLUMNS)
