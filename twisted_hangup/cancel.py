"""Ends an application's work when its client leaves, if the application asks for that.

Nothing is cancelled by default, because work that has begun to change something often has to
finish.  `cancellable` and `cancel_on_hangup` mark work that may end early.  `shield` marks work
inside it that may not.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import iscoroutine, isgenerator, isroutine
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, overload

from twisted.internet.defer import CancelledError, Deferred, FirstError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed, ResponseFailed
from twisted.web.iweb import IRequest

from ._arguments import described, must_have, must_take_some
from ._defer import fail_quietly

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

#: What `cancel_on_hangup` and `shield` accept.
Work: TypeAlias = "Deferred[T] | Coroutine[Deferred[Any], Any, T]"

_log = Logger()


def cancel_on_hangup(request: Any, work: Work[T]) -> Deferred[T]:
    """Cancel *work* when the client of *request* leaves before its response is finished.

    Use it for a part of a method; `cancellable` is for a whole method.

    A coroutine gets a `CancelledError` where it waits.  If the client has left already, a Deferred
    is cancelled at once, and a coroutine is not started.  After ``request.finish()`` nothing is
    cancelled.

    Args:
        request: The request that the work is for.
        work: A Deferred or a coroutine.  Nothing else may wait for the same Deferred: it would be
            cancelled, too.

    Returns:
        A new Deferred with the result of *work*; wait for this one.  After a hang-up it fails with
        a `CancelledError` whose ``__cause__`` is the `ClientHangUp`, even if the work has wrapped
        it (as ``gatherResults`` and ``treq`` do); if you do not handle it, nothing is logged.  If
        the work answers the cancellation with another result or error, you get that.  If you cancel
        the new Deferred, it cancels *work*, once: a second cancellation, after the hang-up, does
        not disturb what the work does to clean up.  An error of work that nobody waits for any more
        is logged.

    Raises:
        TypeError: *request* is not a request, or *work* is neither a Deferred nor a coroutine.
    """
    must_have("request", request, "a request", ("notifyFinish",))
    _must_be_work(work)
    return _Errand(request, work).waiter


@overload
def cancellable(function: Callable[P, Work[T]]) -> Callable[P, Deferred[T]]: ...
@overload
def cancellable(function: Callable[P, R]) -> Callable[P, R]: ...
def cancellable(function: Callable[P, Any]) -> Callable[P, Any]:
    """Decorate a function so that its work for a request ends when the client leaves.

    It is for methods of an `AsyncResource`, klein routes, and other functions that take a request
    and are coroutine functions or return a Deferred:

        class Report(AsyncResource):
            @cancellable
            async def render_GET(self, request):
                return await self.database.query("...")

    In klein, put it under ``@app.route``.

    Returns:
        A function that returns what `cancel_on_hangup` returns, and any other result unchanged.
        When called, it raises TypeError if no argument is a request.

    Raises:
        TypeError: *function* is not a function, or takes no argument.
    """
    must_take_some("function", function, "a request")

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        request = _request_among(*args, *kwargs.values())
        result = function(*args, **kwargs)
        if isinstance(result, Deferred) or iscoroutine(result):
            return cancel_on_hangup(request, result)
        return result

    return call


def shield(work: Work[T]) -> Deferred[T]:
    """Finish *work* even if the Deferred that waits for it is cancelled.

    Use it inside `cancellable` work for a step that must not stop in the middle:

        @cancellable
        async def render_POST(self, request):
            order = await self.check(request)        # may end early
            await shield(self.place(order))          # ends when it is done
            return b"placed"

    Args:
        work: A Deferred or a coroutine; a coroutine starts now.

    Returns:
        A new Deferred with the result of *work*.  If you cancel it, it fails with a
        `CancelledError` at once, and the work goes on.  If the work fails after that, its error is
        logged; its result is lost.

    Raises:
        TypeError: *work* is neither a Deferred nor a coroutine.
    """

    def pass_on(result: Any) -> None:
        if not waiter.called:
            _fire(waiter, result)
        elif isinstance(result, Failure):
            _log.failure("Shielded work failed when nobody waited for it any more", result)

    # A canceller that does nothing: Twisted then fails the Deferred itself.
    _must_be_work(work)
    waiter: Deferred[T] = Deferred(lambda _: None)
    _begin(work).addBoth(pass_on)
    return waiter


def cancellation_in(error: BaseException | None) -> CancelledError | None:
    """The `CancelledError` that *error* is or wraps; None if there is none.

    Helpers that run things in parallel wrap the error of one of them, and Twisted's HTTP client
    wraps all errors.
    """
    if isinstance(error, CancelledError):
        return error
    reasons: list[Failure] = []
    if isinstance(error, FirstError):
        reasons = [error.subFailure]
    elif isinstance(error, (ResponseFailed, RequestTransmissionFailed)):
        reasons = error.reasons
    for reason in reasons:
        cancellation = cancellation_in(reason.value)
        if cancellation is not None:
            return cancellation
    return None


class _Errand(Generic[T]):
    """Work for one request.

    Attributes:
        waiter: Fires with the result.
    """

    def __init__(self, request: Any, work: Work[T]) -> None:
        self.waiter: Deferred[T] = Deferred(self._cancel)
        self._request = request
        self._work: Deferred[T]
        if isinstance(work, Deferred):
            self._work = work
        elif self._reason is None:
            self._work = Deferred.fromCoroutine(_Told(work, self._tell))
        else:
            work.close()
            self._work = Deferred()
        self._notice: Deferred[None] = request.notifyFinish()
        self._notice.addErrback(lambda _: self._work.cancel())
        self._work.addBoth(self._cbDone)

    @property
    def _reason(self) -> BaseException | None:
        """The `ClientHangUp`, once the client has left."""
        # Not stored when the notice comes: another callback may run, and cancel this, before.
        failure = getattr(self._request, "gone", None)
        return failure and (failure.value.__cause__ or failure.value)

    def _cancel(self, waiter: Deferred[T]) -> None:
        """The caller waits no longer."""
        if self._reason is None:
            self._work.cancel()
        else:
            error = CancelledError()
            error.__cause__ = self._reason
            fail_quietly(waiter, Failure(error))

    def _tell(self, error: BaseException | None) -> CancelledError | None:
        """Set the cause of the `CancelledError` in *error*, if a hang-up caused it."""
        reason = self._reason
        if reason is None:
            return None
        cancelled = cancellation_in(error)
        if cancelled is not None and cancelled.__cause__ is None:
            cancelled.__cause__ = reason
        return cancelled

    def _cbDone(self, result: T | Failure) -> None:
        self._forget_request()
        cancelled = self._tell(result.value) if isinstance(result, Failure) else None
        if not self.waiter.called:
            if cancelled is not None:
                fail_quietly(self.waiter, Failure(cancelled))
            else:
                _fire(self.waiter, result)
        elif isinstance(result, Failure) and cancellation_in(result.value) is None:
            _log.failure("Cancelled work failed when nobody waited for it any more", result)

    def _forget_request(self) -> None:
        """Remove the callback: an endless response may wait for many things, one by one."""
        waiting = getattr(self._request, "notifications", [])
        if self._notice in waiting:
            self._request.notifications = [each for each in waiting if each is not self._notice]


class _Told(Coroutine[Deferred[Any], Any, T]):
    """A coroutine; *tell* is called with each exception before it is thrown into the coroutine."""

    def __init__(
        self,
        coroutine: Coroutine[Deferred[Any], Any, T],
        tell: Callable[[BaseException | None], object],
    ) -> None:
        self._coroutine = coroutine
        self._tell = tell

    def send(self, value: Any) -> Deferred[Any]:
        return self._coroutine.send(value)

    def throw(self, error: Any, value: Any = None, traceback: Any = None) -> Deferred[Any]:
        try:
            self._tell(error)  # Twisted throws the exception alone
            return self._coroutine.throw(error)
        finally:
            del error  # its traceback has this frame

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()


def _must_be_work(work: object) -> None:
    """Raise TypeError unless *work* is a Deferred or a coroutine."""
    if isinstance(work, (Deferred, Coroutine)) or isgenerator(work):
        return
    came, cure = described(work), ""
    if isroutine(work):
        cure = f": {work.__name__}(...)"
    elif hasattr(work, "add_done_callback"):
        cure = ": Deferred.fromFuture(future)"
    raise TypeError(f"work must be a Deferred or a coroutine, not {came}{cure}")


def _begin(work: Work[T]) -> Deferred[T]:
    return work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)


def _fire(deferred: Deferred[T], result: T | Failure) -> None:
    if isinstance(result, Failure):
        deferred.errback(result)
    else:
        deferred.callback(result)


def _request_among(*arguments: object) -> Any:
    for argument in arguments:
        if IRequest.providedBy(argument):
            return argument
    raise TypeError("cancellable: none of the arguments is a request")
