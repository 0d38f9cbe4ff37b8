"""The errback chain: handlers answer a client error in order, and the default answer comes last.

Each handler has the same guard around it, which turns its result into one of three outcomes:
handled, passed on, or failed with a bug.  A Deferred is made only if a handler waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from .._arguments import must_take
from ..errors import ClientError
from ..transport.deadlines import Deadline, Deadlines
from .client_socket import ClientSocket
from .handler_log import handler_log
from .pages import ErrorPages


class ClientFailure(Failure):
    """The `Failure` that a handler gets; ``failure.value`` is the `ClientError`.

    Use it in annotations: Twisted's own class does not know the type of ``value``.
    """

    value: ClientError

    if TYPE_CHECKING:  # Twisted's have no types

        def check(self, *errorTypes: type[BaseException] | str) -> Any: ...
        def trap(self, *errorTypes: type[BaseException] | str) -> Any: ...


Outcome: TypeAlias = Failure | bytes | None
#: A handler of client errors: see `ClientErrbacks.add`.
Handler: TypeAlias = Callable[
    [ClientFailure, ClientSocket], Outcome | Deferred[Any] | Coroutine[Any, Any, Outcome]
]
HandlerT = TypeVar("HandlerT", bound=Handler)

_log = Logger()


class ClientErrbacks:
    """The handlers of one site, oldest first.  A site has them as ``site.errors.errbacks``.

    Attributes:
        outcomes: How often a handler has ``"handled"`` an error, ``"passed"`` it on, ``"failed"``
            with a bug of its own, or was ``"cancelled"`` because it took too long.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._handlers: tuple[Handler, ...] = ()

    def add(self, handler: HandlerT) -> HandlerT:
        """Call *handler* for every client error from now on, after the handlers before it.

        Args:
            handler: Called as ``handler(failure, socket)``: ``failure.value`` is the `ClientError`,
                *socket* the `ClientSocket`.  It returns one of these:

                - None: it has handled the error and closes the socket itself, now or later;
                - bytes: they are sent as they are, and the connection is closed;
                - *failure*: the next handler gets the error (``failure.trap()`` does the same);
                - a Deferred or coroutine with one of these as its result.

                If it raises anything else, the exception is logged and the next handler gets the
                error.

        Returns:
            The handler, so that you can use this as a decorator.

        Raises:
            TypeError: *handler* does not take two arguments.
        """
        must_take("handler", handler, "failure", "socket")
        self._handlers = (*self._handlers, handler)
        return handler

    def run(self, failure: ClientFailure, socket: ClientSocket) -> Deferred[Outcome]:
        """Give *failure* to the handlers, one after the other.

        Returns:
            A Deferred that fires with None once a handler has handled the error, and fails with the
            same error if none has.  If you cancel it, it cancels the Deferred or coroutine that a
            handler is waiting for.
        """
        outcome = self.ask(failure, socket)
        if isinstance(outcome, Failure):
            return fail(outcome)
        return outcome if isinstance(outcome, Deferred) else succeed(outcome)

    def ask(self, failure: ClientFailure, socket: ClientSocket) -> Outcome | Deferred[Outcome]:
        """As `run`, but without a Deferred if no handler waits for one."""
        error = failure.value
        outcome: Outcome | Deferred[Outcome] = failure
        for handler in self._handlers:
            if isinstance(outcome, Failure):
                outcome = _guarded(outcome, handler, socket, error, self.outcomes)
            elif outcome is not None:
                assert isinstance(outcome, Deferred)
                outcome.addErrback(_guarded, handler, socket, error, self.outcomes)
        return outcome


class Chain:
    """One client error on its way to exactly one answer.

    It judges the result of the channel's ``client_error`` like a handler's, bounds its time, and
    sends the default answer if there is no other.
    """

    __slots__ = ("_deadline", "_deadlines", "_error", "_hook", "_pages", "_socket", "_waiting")

    def __init__(
        self,
        error: ClientError,
        socket: ClientSocket,
        deadlines: Deadlines,
        pages: ErrorPages | None,
    ) -> None:
        """*pages* are the default answers; None means Node's."""
        self._error = error
        self._socket = socket
        self._deadlines = deadlines
        self._pages = pages
        self._deadline: Deadline | None = None
        self._waiting: Deferred[Any] | None = None

    def start(self, hook: Handler, handler_seconds: float) -> Deferred[Any] | None:
        """Call *hook*; if it takes longer than *handler_seconds* (0 = no limit), go on without it.

        Returns:
            The Deferred that the chain waits for; None if it waits for none.
        """
        self._hook = hook
        self._socket.error, self._socket.handler = self._error, hook
        result = _called(hook, ClientFailure(self._error), self._socket)
        if _takes_time(result):
            self._waiting = result
            result.addBoth(self._cb_outcome)
        else:
            self._cb_outcome(result)
        if handler_seconds and (self._waiting is not None or not self._socket.ended):
            self._deadline = Deadline(self._out_of_time)
            self._deadlines.set(self._deadline, self._deadlines.seconds() + handler_seconds)
            self._socket.when_closed().addCallback(self._cb_closed)
        return self._waiting

    def _cb_outcome(self, result: object) -> None:
        """The hook has returned.  A handler that took the error may still be writing."""
        self._waiting = None
        socket = self._socket
        try:
            outcome = _judged(result, self._hook, socket, self._error)
            if socket.out_of_time:
                self._do_without()  # whatever it has returned after being cancelled
            elif outcome is not None or (self._error.status is None and not self._begun):
                self._answer()  # without a status there is no answer to wait for, only the close
        except Exception:
            _log.failure("Could not answer {log_error}", log_error=str(self._error))
            socket.destroy()
        if self._deadline is not None and socket.ended:
            self._deadlines.forget(self._deadline)

    def _answer(self) -> None:
        """The last step: the default answer, unless another has begun."""
        error, socket = self._error, self._socket
        if socket.ended:
            return
        status = error.status
        if status is None or not socket.writable or self._begun:
            socket.end()
        elif error.default_body:
            socket.respond(status, error.default_body)
        elif self._pages is not None:
            socket.respond(status, *self._pages.page_of(error, status))
        else:
            socket.respond_by_default(status)

    @property
    def _begun(self) -> bool:
        """Whether an answer has begun, so that no other can be sent."""
        return bool(self._socket.headers_sent or self._socket.bytes_written)

    def _out_of_time(self) -> None:
        waiting, socket, error = self._waiting, self._socket, self._error
        socket.out_of_time = True  # the rest of the chain passes the error on
        if waiting is not None:
            handler_log.still_waits(socket.handler, error)
            waiting.cancel()
            if self._waiting is waiting:  # a coroutine that goes on although it was cancelled
                self._cb_outcome(Failure(error))
        elif not socket.ended:
            log = handler_log.never_closed if self._begun else handler_log.never_answered
            log(socket.handler, error)
            self._do_without()

    def _do_without(self) -> None:
        """The handler's time is over: send the default answer, or close if it has begun one."""
        if not self._begun:
            self._answer()
        elif not self._socket.ended:
            self._socket.destroy()

    def _cb_closed(self, _: None) -> None:
        """The connection has gone: only a handler that still waits is to be bounded in time."""
        if self._waiting is None and self._deadline is not None:
            self._deadlines.forget(self._deadline)


def _guarded(
    failure: Failure,
    handler: Handler,
    socket: ClientSocket,
    error: ClientError,
    outcomes: Counter[str],
) -> Outcome | Deferred[Outcome]:
    """Call *handler*, and turn its result into one of the outcomes of the chain."""
    if socket.out_of_time:
        return failure
    socket.handler = handler
    result = _called(handler, failure, socket)
    if _takes_time(result):
        return result.addBoth(_counted, handler, socket, error, outcomes)
    return _counted(result, handler, socket, error, outcomes)


def _called(handler: Handler, failure: Failure, socket: ClientSocket) -> object:
    """Call *handler*; an exception comes back as a Failure, a coroutine as a Deferred."""
    of_client: Any = failure  # the chain's, or that of a handler that raised the same error
    try:
        result = handler(of_client, socket)
    except BaseException:
        return Failure()
    return Deferred.fromCoroutine(result) if iscoroutine(result) else result


def _takes_time(result: object) -> TypeGuard[Deferred[Any]]:
    """Whether *result* is a Deferred or coroutine; the usual results are tested first."""
    return not (result is None or isinstance(result, Failure | bytes)) and isinstance(
        result, Deferred
    )


def _counted(
    result: object,
    handler: Handler,
    socket: ClientSocket,
    error: ClientError,
    outcomes: Counter[str],
) -> Outcome:
    """Count the outcome that `_judged` finds in *result*, and return it."""
    outcome = _judged(result, handler, socket, error)
    if outcome is None:
        outcomes["handled"] += 1
    elif outcome is result:
        outcomes["passed"] += 1
    else:
        outcomes["cancelled" if socket.out_of_time else "failed"] += 1
    return outcome


def _judged(result: object, handler: Handler, socket: ClientSocket, error: ClientError) -> Outcome:
    if result is None:
        return None
    if isinstance(result, bytes) and socket.takes_bytes:
        socket.end(b"" if socket.bytes_written else result)
        return None
    if isinstance(result, Failure):
        if result.value is error:
            error.__traceback__ = None  # of the raise that passed it on: it holds frames
            return result
        if not (socket.out_of_time and result.check(CancelledError)):
            handler_log.failed(handler, result, error)
    elif isinstance(result, bytes):
        handler_log.returned_bytes(handler, error)
    else:
        handler_log.returned(handler, result, error)
    return ClientFailure(error)
