"""One attempt to deliver a request, through any ``IAgent``."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from .._arguments import must_be
from ..client.agent import Requests
from ..client.backoff import BytesProducer, Discard, retry_after_seconds
from ..client.failures import anothers_request_failed
from ..errors import ServerHangUp
from ..report.text import shortened
from .policy import DeliveryPolicy, Verdict
from .request import OutboxLimits, headers_from_text
from .store import Claim, Settlement

_PROBLEM_COLUMNS: Final = 300

#: Errors of this machine: no descriptors, memory, ports, network; and names, which another server
#: knows.
_LOCAL: Final = frozenset(
    {
        *("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EADDRINUSE", "EADDRNOTAVAIL"),
        *("ENETDOWN", "ENETUNREACH", "ENOTFOUND", "EAI_AGAIN"),
    }
)

_log = Logger()


def handback(claim: Claim) -> Settlement:
    """Give the request to another attempt at once: this one says nothing about the server."""
    return Settlement(claim, Verdict.RETRY, "given back", given_back=True)


class DeliveryAttempt:
    """One running attempt.

    Attributes:
        claim: The request.
        settled: Fires with the `Settlement` once it is decided; with a response, when its head has
            arrived.  It never fails.
        response: The response whose body is still to be read, or None.
    """

    def __init__(
        self, agent: IAgent | Requests, claim: Claim, policy: DeliveryPolicy, clock: Any
    ) -> None:
        self.claim = claim
        self.settled: Deferred[Settlement] = Deferred()
        self.response: Any = None
        self._policy = policy
        self._timer = clock.callLater(policy.attempt_seconds, self._time_out)
        self._timed_out = self._released = False
        body = BytesProducer(claim.body) if claim.body else None
        method, url = claim.method.encode("latin-1"), claim.url.encode("ascii")
        self._responding: Deferred[Any] = maybeDeferred(
            agent.request, method, url, _headers(claim), body
        )
        self._responding.addCallbacks(self._cb_head, self._eb_failed)
        self._responding.addErrback(self._eb_bug).addCallback(self._cb_settle)

    def release(self) -> None:
        """Cancel the attempt and give the request back; harmless when it is over."""
        self._released = True
        self._responding.cancel()

    def _time_out(self) -> None:
        self._timed_out = True
        self._responding.cancel()

    def _cb_head(self, response: Any) -> Settlement:
        self.response = response
        code = response.code
        problem = f"answered {shortened(b'%d %b' % (code, response.phrase or b''), 100)}".rstrip()
        location = response.headers.getRawHeaders(b"location")
        if 300 <= code < 400 and location:
            problem += f" to {shortened(location[0].partition(b'?')[0], 150)}"
        wait = retry_after_seconds(response.headers, time.time())
        return self._judged(code, problem, min(wait, self._policy.pause_cap_seconds))

    def _eb_failed(self, failure: Failure) -> Settlement:
        if self._released:
            return handback(self.claim)
        status = _final_status(failure)
        if status is not None:
            return self._judged(status, f"answered {status}; {_problem(failure)}", 0.0)
        problem = (
            f"no response within {self._policy.attempt_seconds:g} s"
            if self._timed_out
            else _problem(failure)
        )
        assert failure.value is not None
        verdict = self._policy.judge_failure(failure.value, self.claim.attempt)
        reached = None if _is_local(failure) else False
        return self._bounded(Settlement(self.claim, verdict, problem, reached=reached))

    def _eb_bug(self, failure: Failure) -> Settlement:
        """The policy or the agent's response has raised: the request is not lost for that."""
        _log.failure("an attempt went wrong", failure)
        problem = _problem(failure)
        return self._bounded(Settlement(self.claim, Verdict.RETRY, problem, reached=False))

    def _judged(self, status: int, problem: str, wait: float) -> Settlement:
        verdict = self._policy.judge(status, self.claim.attempt)
        reached: bool | None = verdict is not Verdict.RETRY
        if status == HTTPStatus.TOO_MANY_REQUESTS and wait and not reached:
            reached = None  # the server works, and asks for a pause
        return self._bounded(
            Settlement(
                *(self.claim, verdict, None if verdict is Verdict.DELIVERED else problem),
                *(wait, reached, wait),
            )
        )

    def _bounded(self, settlement: Settlement) -> Settlement:
        """Give up a request that has been tried often enough."""
        must_be("the policy's verdict", settlement.verdict, Verdict)
        last = self.claim.attempt >= self._policy.max_attempts
        if settlement.verdict is not Verdict.RETRY or not last:
            return settlement
        problem = f"too many attempts; {settlement.problem}"
        return settlement._replace(verdict=Verdict.DEAD, problem=problem)

    def _cb_settle(self, settlement: Settlement) -> None:
        if self._timer.active():
            self._timer.cancel()
        self.settled.callback(settlement)


class Drains:
    """Reads unwanted bodies to their end.

    The number of bodies at a time is bounded, in all and for one destination; one more closes the
    oldest.
    """

    def __init__(self, clock: Any, limits: OutboxLimits) -> None:
        self._clock = clock
        self._limits = limits
        self._discards: dict[Discard, str] = {}

    def add(self, response: Any, destination: str) -> None:
        """Read the body of *response*, to keep its connection."""
        discard = Discard(self._clock)
        self._discards[discard] = destination
        discard.ended.addCallback(lambda _: self._discards.pop(discard))
        try:
            response.deliverBody(discard)
        except Exception:
            _log.failure("a response has no body to read")
            discard.stop()
        same = [one for one, name in self._discards.items() if name == destination]
        if len(same) > self._limits.deliveries_per_destination:
            same[0].stop()
        elif len(self._discards) > self._limits.deliveries:
            next(iter(self._discards)).stop()

    def stop(self) -> None:
        """Close the connections that are left."""
        for discard in [*self._discards]:
            discard.stop()


def _is_local(failure: Failure) -> bool:
    """Whether a failure is this machine's, and says nothing about the destination."""
    error = anothers_request_failed(failure).value
    return isinstance(error, ServerHangUp) and not error.acted_on and error.code in _LOCAL


def _final_status(failure: Failure) -> int | None:
    """The status of a response that broke off, or turned out not to be HTTP."""
    error: Any = failure.value
    while error is not None:
        response = getattr(error, "response", None)
        status = getattr(response, "status", None) or getattr(response, "code", None)
        if isinstance(status, int) and status >= 200:
            return status
        error = error.__cause__
    return None


def _headers(claim: Claim) -> Headers:
    headers = Headers()
    for name, value in headers_from_text(claim.headers):
        headers.addRawHeader(name.encode("latin-1"), value.encode("latin-1"))
    headers.setRawHeaders(b"Idempotency-Key", [claim.key.encode("ascii")])
    return headers


def _problem(failure: Failure) -> str:
    """A failure of an agent in one line: the innermost one of Twisted's lists of reasons."""
    error = failure.value
    while not isinstance(error, ServerHangUp) and (reasons := getattr(error, "reasons", None)):
        error = reasons[0].value if isinstance(reasons[0], Failure) else reasons[0]
    if isinstance(error, CancelledError):
        return "the attempt was cancelled"
    text = " ".join(str(error).split())
    name = "ServerHangUp" if isinstance(error, ServerHangUp) else type(error).__name__
    return shortened(f"{name}: {text}".encode() if text else name.encode(), _PROBLEM_COLUMNS)
