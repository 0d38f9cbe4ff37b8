"""Time: what a client has too little of, and what no clock of ours touches."""

from __future__ import annotations

import pytest
import pytest_twisted
from support.wire import GOOD, SLOW, Serve, pause, statuses, talk

from twisted_hangup import (
    Timeouts,
)


@pytest.mark.parametrize(
    "wire, phase",
    [
        (b"", "idle"),
        (b"GET / HT", "head"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", "body"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_too_slow(serve: Serve, wire: bytes, phase: str) -> None:
    """A message that is not complete in time is a RequestTimeout, answered 408."""
    served = serve(timeouts=Timeouts(head_seconds=0.3, request_seconds=0.3))
    assert statuses(await talk(served.port, wire)) == [408]
    (error,) = served.errors
    assert (error.code, error.phase) == ("ERR_HTTP_REQUEST_TIMEOUT", phase)


@pytest_twisted.ensureDeferred
async def test_idle_connection_is_closed_quietly(serve: Serve) -> None:
    """Past the keep-alive time an idle connection is closed, and that is no error."""
    served = serve(timeout=0.3)
    assert statuses(await talk(served.port, GOOD)) == [200]
    assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_slow_handler_is_never_cut(serve: Serve) -> None:
    """No deadline of ours touches a request while it is being answered."""
    times = Timeouts(head_seconds=0.2, request_seconds=0.2, keep_alive_seconds=0.2)
    served = serve(timeouts=times)
    started = served.root.slow.started
    received = talk(served.port, SLOW)
    request = await started
    await pause(1.5)
    request.finish()
    assert statuses(await received) == [200]
    assert served.errors == []
