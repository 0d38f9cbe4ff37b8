"""Work ends when its client leaves, where the application says so, and only there."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from hyperframe.frame import RstStreamFrame
from support.certificates import server_context
from support.cleanliness import LoggedErrors
from support.http2_client import H2Client
from support.wire import SLOW, Client, Paths, Serve, in_thread, settled, until
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    FirstError,
    fail,
    gatherResults,
    inlineCallbacks,
    succeed,
)
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseNeverReceived
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from twisted_hangup import ClientHangUp, cancel_on_hangup, cancellable, shield


class Asked:
    """A request whose client waits for ``/slow``."""

    def __init__(self, request: Any, client: Client) -> None:
        self.request = request
        self._client = client

    async def hang_up(self) -> None:
        """Let the client leave, and the server notice."""
        gone: Deferred[None] = Deferred()
        # Last in line: everything that waits for the same has been told by then.
        self.request.notifyFinish().addErrback(lambda _: gone.callback(None))
        await in_thread(self._client.reset)
        await gone

    async def finish(self) -> None:
        """Finish the response and let the client read it."""
        self.request.finish()
        await in_thread(self._client.close)


async def ask(serve: Serve) -> Asked:
    served = serve()
    started: Deferred[Request] = served.root.slow.started
    client = await in_thread(lambda: Client(served.port).send(SLOW))
    return Asked(await started, client)


class Caught:
    """How a Deferred ended."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.results: list[Any] = []
        deferred.addBoth(self.results.append)

    @property
    def error(self) -> Any:
        (result,) = self.results
        assert isinstance(result, Failure)
        return result.value


class Notes(list[str]):
    """What a coroutine went through."""

    async def waits(self, deferred: Deferred[Any]) -> Any:
        self.append("begun")
        try:
            return await deferred
        except CancelledError as error:
            self.append(f"cancelled by {type(error.__cause__).__name__}")
            raise
        finally:
            self.append("ended")


# cancel_on_hangup


@pytest_twisted.ensureDeferred
async def test_deferred(serve: Serve) -> None:
    """The Deferred is cancelled, and whoever goes on with the new one is told why."""
    asked = await ask(serve)
    cancelled: list[object] = []
    work: Deferred[None] = Deferred(cancelled.append)
    ended = Caught(cancel_on_hangup(asked.request, work))
    assert not cancelled
    await asked.hang_up()
    assert cancelled == [work]
    assert type(ended.error) is CancelledError
    assert isinstance(ended.error.__cause__, ClientHangUp)


@pytest_twisted.ensureDeferred
async def test_coroutine(serve: Serve) -> None:
    """A coroutine sees why, where it waits."""
    asked = await ask(serve)
    notes = Notes()
    ended = Caught(cancel_on_hangup(asked.request, notes.waits(Deferred())))
    assert notes == ["begun"]
    await asked.hang_up()
    assert notes == ["begun", "cancelled by ClientHangUp", "ended"]
    assert isinstance(ended.error.__cause__, ClientHangUp)


@pytest_twisted.ensureDeferred
async def test_nested(serve: Serve) -> None:
    """So does what a coroutine waits for, however deep, inlineCallbacks as well."""
    asked = await ask(serve)
    notes = Notes()

    @inlineCallbacks
    def middle() -> Any:
        yield Deferred.fromCoroutine(notes.waits(Deferred()))

    async def outer() -> None:
        await cancel_on_hangup(asked.request, notes.waits(middle()))

    Caught(Deferred.fromCoroutine(outer()))
    await asked.hang_up()
    assert notes[2:] == ["cancelled by NoneType", "ended", "cancelled by ClientHangUp", "ended"]


@pytest.mark.parametrize(
    "work, result", [(succeed(1), 1), (fail(KeyError()), KeyError)], ids=["result", "error"]
)
@pytest_twisted.ensureDeferred
async def test_done_before(serve: Serve, work: Deferred[Any], result: Any) -> None:
    """Work that was done in time gives what it gives, and a hang-up changes nothing."""
    asked = await ask(serve)
    ended = Caught(cancel_on_hangup(asked.request, work))
    await asked.hang_up()
    if result == 1:
        assert ended.results == [1]
    else:
        assert isinstance(ended.error, result)


@pytest_twisted.ensureDeferred
async def test_ignores_cancelling(serve: Serve) -> None:
    """Work may answer the cancelling with a result."""
    asked = await ask(serve)
    work: Deferred[str] = Deferred(lambda deferred: deferred.callback("what there was"))
    ended = Caught(cancel_on_hangup(asked.request, work))
    await asked.hang_up()
    assert ended.results == ["what there was"]


@pytest_twisted.ensureDeferred
async def test_goes_on_after_cancelling(serve: Serve) -> None:
    """A coroutine may go on after it was cancelled; its result is still given."""
    asked = await ask(serve)
    cleaning: Deferred[str] = Deferred()

    async def work() -> str:
        try:
            await Deferred()
        except CancelledError:
            return await cleaning
        return "not cancelled"

    ended = Caught(cancel_on_hangup(asked.request, work()))
    await asked.hang_up()
    assert ended.results == []
    cleaning.callback("cleaned")
    assert ended.results == ["cleaned"]


@pytest_twisted.ensureDeferred
async def test_other_error(serve: Serve) -> None:
    """Another error that the cancelling leads to stays what it is."""
    asked = await ask(serve)
    work: Deferred[None] = Deferred(lambda deferred: deferred.errback(KeyError("key")))
    ended = Caught(cancel_on_hangup(asked.request, work))
    await asked.hang_up()
    assert isinstance(ended.error, KeyError)


@pytest_twisted.ensureDeferred
async def test_gone_before(serve: Serve) -> None:
    """Where the client has left already, a Deferred is cancelled at once."""
    asked = await ask(serve)
    await asked.hang_up()
    cancelled: list[object] = []
    work: Deferred[None] = Deferred(cancelled.append)
    ended = Caught(cancel_on_hangup(asked.request, work))
    assert cancelled == [work]
    assert isinstance(ended.error.__cause__, ClientHangUp)


@pytest_twisted.ensureDeferred
async def test_gone_before_a_coroutine(serve: Serve) -> None:
    """Where the client has left already, a coroutine is not begun."""
    asked = await ask(serve)
    await asked.hang_up()
    notes = Notes()
    ended = Caught(cancel_on_hangup(asked.request, notes.waits(Deferred())))
    assert notes == []
    assert isinstance(ended.error.__cause__, ClientHangUp)


@pytest_twisted.ensureDeferred
async def test_after_finish(serve: Serve) -> None:
    """Once the response is finished, the client may go and the work goes on."""
    asked = await ask(serve)
    cancelled: list[object] = []
    work: Deferred[str] = Deferred(cancelled.append)
    before = Caught(cancel_on_hangup(asked.request, work))
    await asked.finish()
    late: Deferred[str] = Deferred(cancelled.append)
    after = Caught(cancel_on_hangup(asked.request, late))
    await settled()
    assert not cancelled
    work.callback("done")
    late.callback("done, too")
    assert (before.results, after.results) == (["done"], ["done, too"])


@pytest_twisted.ensureDeferred
async def test_cancelled_by_its_waiter(serve: Serve) -> None:
    """To cancel the new Deferred cancels the work; the client is not to blame."""
    asked = await ask(serve)
    notes = Notes()
    waiter = cancel_on_hangup(asked.request, notes.waits(Deferred()))
    ended = Caught(waiter)
    waiter.cancel()
    assert notes == ["begun", "cancelled by NoneType", "ended"]
    assert ended.error.__cause__ is None
    await asked.hang_up()


@pytest_twisted.ensureDeferred
async def test_cancelled_twice(serve: Serve) -> None:
    """Whoever cancels as well does not disturb what the work does to clean up."""
    asked = await ask(serve)
    cleaning: Deferred[None] = Deferred()
    notes = Notes()

    async def work() -> None:
        try:
            await Deferred()
        finally:
            await notes.waits(cleaning)

    waiter = cancel_on_hangup(asked.request, work())
    ended = Caught(waiter)
    await asked.hang_up()
    assert ended.results == []
    waiter.cancel()
    assert isinstance(ended.error.__cause__, ClientHangUp)
    assert notes == ["begun"]
    cleaning.callback(None)
    assert notes == ["begun", "ended"]


@pytest_twisted.ensureDeferred
async def test_fails_when_nobody_waits(serve: Serve, expected_errors: LoggedErrors) -> None:
    """An error in the cleaning up is logged where nobody else could see it."""
    asked = await ask(serve)
    cleaning: Deferred[None] = Deferred()

    async def work() -> None:
        try:
            await Deferred()
        finally:
            await cleaning

    waiter = cancel_on_hangup(asked.request, work())
    Caught(waiter)
    await asked.hang_up()
    waiter.cancel()
    cleaning.errback(KeyError("key"))
    (event,) = expected_errors.flush()
    assert event["log_failure"].check(KeyError)


@pytest_twisted.ensureDeferred
async def test_nobody_handles_it(serve: Serve) -> None:
    """A cancelled Deferred that nobody looks at is no news for the log."""
    asked = await ask(serve)
    cancel_on_hangup(asked.request, Deferred())
    cancel_on_hangup(asked.request, Deferred()).addCallback(print)
    cancel_on_hangup(asked.request, Notes().waits(Deferred()))
    await asked.hang_up()
    gc.collect()  # nothing logged: the test's fixture looks


@pytest_twisted.ensureDeferred
async def test_nobody_handles_an_error(serve: Serve, expected_errors: LoggedErrors) -> None:
    """An error is logged, as that of any Deferred."""
    asked = await ask(serve)
    cancel_on_hangup(asked.request, fail(KeyError("key")))
    gc.collect()
    assert len(expected_errors.flush(KeyError)) == 1
    expected_errors.flush()  # Twisted's headline above it
    await asked.hang_up()


@pytest_twisted.ensureDeferred
async def test_in_parallel(serve: Serve) -> None:
    """What gatherResults makes of the error is undone."""
    asked = await ask(serve)
    notes = Notes()

    async def work() -> None:
        both = [Deferred.fromCoroutine(notes.waits(Deferred())), Deferred()]
        try:
            await gatherResults(both, consumeErrors=True)
        except FirstError as error:
            notes.append(type(error.subFailure.value.__cause__).__name__)  # type: ignore[union-attr]
            raise

    ended = Caught(cancel_on_hangup(asked.request, work()))
    await asked.hang_up()
    assert notes[-1] == "ClientHangUp"
    assert type(ended.error) is CancelledError
    assert isinstance(ended.error.__cause__, ClientHangUp)


@pytest_twisted.ensureDeferred
async def test_upstream(serve: Serve) -> None:
    """A request to another server is aborted, and what the HTTP client makes of it undone."""
    from twisted.internet import reactor

    upstream = serve()
    gone = upstream.root.slow.gone
    asked = await ask(serve)
    notes = Notes()

    async def work() -> None:
        try:
            await Agent(reactor).request(b"GET", b"http://127.0.0.1:%d/slow" % upstream.port)
        except ResponseNeverReceived as error:
            notes.append(type(error.reasons[0].value.__cause__).__name__)
            raise

    ended = Caught(cancel_on_hangup(asked.request, work()))
    await upstream.root.slow.started
    await asked.hang_up()
    await until(lambda: gone)
    assert notes == ["ClientHangUp"]
    assert isinstance(ended.error.__cause__, ClientHangUp)
    assert len(gone) == 1


@pytest_twisted.ensureDeferred
async def test_endless_response(serve: Serve) -> None:
    """A response that waits for one thing after the other costs no more with each."""
    asked = await ask(serve)
    waiting = len(asked.request.notifications)
    for _ in range(100):
        await cancel_on_hangup(asked.request, succeed(None))
    assert len(asked.request.notifications) == waiting
    await asked.hang_up()


@pytest_twisted.ensureDeferred
async def test_many_for_one_request(serve: Serve) -> None:
    """All that is done for a request is cancelled, also where one waits for the other."""
    asked = await ask(serve)
    notes = Notes()

    async def work() -> None:
        await cancel_on_hangup(
            asked.request, cancel_on_hangup(asked.request, notes.waits(Deferred()))
        )

    all_ended = [Caught(cancel_on_hangup(asked.request, work())) for _ in range(3)]
    await asked.hang_up()
    assert [type(ended.error) for ended in all_ended] == [CancelledError] * 3
    assert notes.count("cancelled by ClientHangUp") == 3


@pytest_twisted.ensureDeferred
async def test_http2_stream(serve: Serve) -> None:
    """Over HTTP/2, a reset of the stream is enough."""
    served = serve(tls=server_context())
    started = served.root.slow.started
    client: H2Client = await in_thread(lambda: H2Client(served.port))
    await in_thread(lambda: client.request(b"/slow"))
    request = await started
    ended = Caught(cancel_on_hangup(request, Deferred()))
    await in_thread(lambda: client.send(RstStreamFrame(1)))
    await until(lambda: ended.results)
    assert isinstance(ended.error.__cause__, ClientHangUp)
    await in_thread(client.close)


# shield


@pytest_twisted.ensureDeferred
async def test_shield(serve: Serve) -> None:
    """What is shielded is done to the end, though who waited for it was cancelled."""
    asked = await ask(serve)
    step: Deferred[None] = Deferred()
    inner, outer = Notes(), Notes()
    waiter = cancel_on_hangup(
        asked.request,
        outer.waits(shield(inner.waits(step))),  # a coroutine
    )
    ended = Caught(waiter)
    await asked.hang_up()
    assert outer[1:] == ["cancelled by ClientHangUp", "ended"]
    assert isinstance(ended.error.__cause__, ClientHangUp)
    assert inner == ["begun"]
    step.callback(None)
    assert inner == ["begun", "ended"]


def test_shield_passes_on() -> None:
    """Without a cancelling it gives what the work gives."""
    assert Caught(shield(succeed(1))).results == [1]
    assert isinstance(Caught(shield(fail(KeyError()))).error, KeyError)


def test_shield_deferred() -> None:
    """To cancel does not reach a Deferred, whose late result is lost."""
    cancelled: list[object] = []
    work: Deferred[str] = Deferred(cancelled.append)
    waiter = shield(work)
    ended = Caught(waiter)
    waiter.cancel()
    assert isinstance(ended.error, CancelledError)
    assert not cancelled
    work.callback("done")
    assert len(ended.results) == 1


def test_shield_late_error(expected_errors: LoggedErrors) -> None:
    """An error after that is logged, once, since nobody else can see it."""
    work: Deferred[None] = Deferred()
    waiter = shield(work)
    Caught(waiter)
    waiter.cancel()
    work.errback(KeyError("key"))
    gc.collect()
    (event,) = expected_errors.flush()
    assert event["log_failure"].check(KeyError)


# cancellable


@pytest_twisted.ensureDeferred
async def test_cancellable_returns(serve: Serve) -> None:
    """The decorator ties Deferreds and coroutines to the request, and nothing else."""
    asked = await ask(serve)

    @cancellable
    def deferred(request: Any) -> Deferred[None]:
        return Deferred()

    @cancellable
    async def coroutine(*, request: Any) -> None:
        await Deferred()

    @cancellable
    def at_once(request: Any) -> int:
        return NOT_DONE_YET

    ends = [Caught(deferred(asked.request)), Caught(coroutine(request=asked.request))]
    assert at_once(asked.request) == NOT_DONE_YET
    await asked.hang_up()
    assert [type(ended.error.__cause__) for ended in ends] == [ClientHangUp] * 2


def test_cancellable_without_request() -> None:
    """Something that takes no request is no place for the decorator."""

    @cancellable
    async def function(number: int) -> None: ...

    with pytest.raises(TypeError, match="none of the arguments is a request"):
        function(1)


def test_cancellable_keeps_the_name() -> None:
    """Klein names routes after their functions."""

    @cancellable
    async def function(request: Any) -> None:
        """Its docstring."""

    assert (function.__name__, function.__doc__) == ("function", "Its docstring.")


# klein


def klein_resource(routes: dict[str, Callable[[Any], Any]]) -> Resource:
    app = pytest.importorskip("klein").Klein()
    for path, function in routes.items():
        app.route(path)(function)
    resource: Resource = app.resource()
    return resource


async def leave_klein(
    serve: Serve, function: Callable[[Any], Any], when: Callable[[], object] | None = None
) -> None:
    """Let a client leave while the route *function* is at work, or *when* it is time."""
    site = serve(Paths(klein=klein_resource({"/": function})))
    await site.leave(b"GET /klein/ HTTP/1.1\r\nHost: a\r\n\r\n", when)
    assert site.codes == ["ECONNRESET"]


@pytest_twisted.ensureDeferred
async def test_klein_route(serve: Serve) -> None:
    """A route learns why, may clean up in peace, and klein logs nothing."""
    notes = Notes()
    cleaning: Deferred[None] = Deferred()

    @cancellable
    async def route(request: Any) -> None:
        try:
            await notes.waits(Deferred())
        finally:
            await cleaning
            notes.append("cleaned")

    await leave_klein(serve, route)
    assert notes == ["begun", "cancelled by ClientHangUp", "ended"]
    cleaning.callback(None)
    assert notes[-1] == "cleaned"


@pytest_twisted.ensureDeferred
async def test_klein_upstream(serve: Serve) -> None:
    """The error of a cancelled request to another server is not logged either."""
    from twisted.internet import reactor

    upstream = serve()

    @cancellable
    async def route(request: Any) -> None:
        await Agent(reactor).request(b"GET", b"http://127.0.0.1:%d/slow" % upstream.port)

    slow = upstream.root.slow
    await leave_klein(serve, route, lambda: slow.requests)
    await until(lambda: slow.gone)
    assert len(slow.gone) == 1


@pytest_twisted.ensureDeferred
async def test_klein_shield(serve: Serve) -> None:
    """Klein cancels every route when its client leaves; `shield` keeps it from that."""
    notes = Notes()
    step: Deferred[None] = Deferred()
    await leave_klein(serve, lambda request: shield(notes.waits(step)))
    assert notes == ["begun"]
    step.callback(None)
    assert notes == ["begun", "ended"]
