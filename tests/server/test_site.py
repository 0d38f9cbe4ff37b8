"""Sites: subclasses, sites of one's own, and how they end."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from support.wire import (
    BAD,
    DEFAULT,
    GOOD,
    SLOW,
    Client,
    Paths,
    Serve,
    in_thread,
    settled,
    statuses,
    talk,
)
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from twisted_hangup import (
    ClientErrbacks,
    ClientError,
    ClientSocket,
    HangupChannel,
    HangupSite,
    forward_client_errors,
)


def code_of(failure: Failure) -> str:
    error = failure.value
    assert isinstance(error, ClientError)
    return error.code


class Answering(HangupChannel):
    """A channel of an application's own."""

    def client_error(self, failure: Failure, socket: ClientSocket) -> Any:
        if code_of(failure) == "HPE_INVALID_METHOD":
            return b"mine\n"
        return super().client_error(failure, socket)


class AnsweringSite(HangupSite):
    channel = Answering


@pytest.mark.parametrize(
    "make",
    [lambda root: HangupSite(root, channel=Answering), AnsweringSite],
    ids=["argument", "class attribute"],
)
@pytest_twisted.ensureDeferred
async def test_channel_of_ones_own(serve: Serve, make: Any) -> None:
    """client_error is called on the class that was named, and its super() is the chain."""
    served = serve(make(Paths()))
    served.site.on_client_error(lambda failure, socket: b"theirs\n")
    assert await talk(served.port, b"123 / HTTP/1.1\r\n") == b"mine\n"
    assert await talk(served.port, BAD) == b"theirs\n"


@pytest_twisted.ensureDeferred
async def test_site_of_ones_own(serve: Serve) -> None:
    """forward_client_errors gives a plain Site the same chain, and keeps its timeout."""
    site = Site(Paths(), timeout=0.3)
    errbacks = forward_client_errors(site)
    assert isinstance(errbacks, ClientErrbacks)
    seen: list[Failure] = []

    @errbacks.add
    def note(failure: Failure, socket: ClientSocket) -> Failure:
        seen.append(failure)
        return failure

    served = serve(site)
    assert await talk(served.port, BAD) == DEFAULT
    assert [code_of(failure) for failure in seen] == ["HPE_INVALID_HEADER_TOKEN"]
    assert statuses(await talk(served.port, GOOD)) == [200]


@pytest.mark.parametrize(
    "name, instead",
    [
        ("maxHeaders", r"head_fields"),
        ("totalHeadersSize", r"head_bytes"),
        ("abortTimeout", r"send_seconds=..., linger_seconds"),
    ],
)
def test_attributes_that_have_no_effect(name: str, instead: str) -> None:
    """What sets up Twisted's channel, in the class or one before it, names what does so here."""
    with pytest.warns(UserWarning, match=rf"^Mine\.{name} has no effect .*{instead}"):
        type("Mine", (HangupChannel,), {name: 3})
    with pytest.warns(UserWarning, match=rf"^Mixed\.{name} has no effect"):
        type("Mixed", (type("Before", (), {name: None}), HangupChannel), {})


def test_foreign_protocol_is_refused() -> None:
    """A site whose protocol is not Twisted's own is not tampered with."""
    site = Site(Resource())
    site.protocol = HTTPChannel  # type: ignore[assignment, method-assign]
    with pytest.raises(ValueError, match="not Twisted's own"):
        forward_client_errors(site)


def test_overridden_build_protocol_warns() -> None:
    """Where buildProtocol is overridden, its author is told to call super()."""

    class Mine(Site):
        def buildProtocol(self, addr: Any) -> Any:
            return super().buildProtocol(addr)

    with pytest.warns(UserWarning, match="super"):
        forward_client_errors(Mine(Resource()))


@pytest_twisted.ensureDeferred
async def test_drain(serve: Serve) -> None:
    """drain() finishes running requests, closes idle connections, and then fires."""
    served = serve()
    started = served.root.slow.started
    busy = talk(served.port, SLOW + GOOD)
    request = await started
    idle = await in_thread(lambda: Client(served.port).send(GOOD))
    await in_thread(lambda: idle.read_until(b"fast"))
    drained = served.site.drain()
    assert await in_thread(idle.read_all) == b""
    idle.close()
    assert not drained.called
    request.finish()
    assert statuses(await busy) == [200]
    await drained
    assert served.site.open_connections == 0


class Never(Resource):
    isLeaf = True

    def render(self, request: Request) -> int:
        return NOT_DONE_YET


@pytest_twisted.ensureDeferred
async def test_hang_up_all(serve: Serve) -> None:
    """hang_up_all() aborts what is left, and that is nobody's client error."""
    served = serve(Never())
    client = await in_thread(lambda: Client(served.port).send(GOOD))
    await settled()
    served.site.hang_up_all()
    await served.site.drain()
    with pytest.raises(ConnectionResetError):
        await in_thread(client.read_all)
    client.close()
    assert served.errors == []
