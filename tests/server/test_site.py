"""Sites: subclasses, sites of one's own, and how they end."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import pytest_twisted
from support.wire import (
    BAD,
    DEFAULT,
    GOOD,
    SLOW,
    Client,
    HandClock,
    Paths,
    Serve,
    codes,
    in_thread,
    statuses,
    talk,
    until,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http import HTTPChannel, HTTPFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from twisted_hangup import (
    ClientErrbacks,
    ClientError,
    ClientFailure,
    ClientSocket,
    ForwardedClients,
    HangupChannel,
    HangupSite,
    Limits,
    SiteErrors,
    Timeouts,
    forward_client_errors,
)
from twisted_hangup.journal.console import ConsoleLog
from twisted_hangup.metrics import Metrics
from twisted_hangup.status import StatusSite
from twisted_hangup.testing import feed


def code_of(failure: Failure) -> str:
    error = failure.value
    assert isinstance(error, ClientError)
    return error.code


class Answering(HangupChannel):
    """A channel of an application's own."""

    def client_error(self, failure: ClientFailure, socket: ClientSocket) -> Any:
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
    clock = HandClock()
    site = Site(Paths(), timeout=20, reactor=clock)
    errors = forward_client_errors(site)
    assert isinstance(errors, SiteErrors) and isinstance(errors.errbacks, ClientErrbacks)
    seen: list[Failure] = []

    @errors.add
    def note(failure: Failure, socket: ClientSocket) -> Failure:
        seen.append(failure)
        return failure

    served = serve(site)
    assert await talk(served.port, BAD) == DEFAULT
    assert [code_of(failure) for failure in seen] == ["HPE_INVALID_HEADER_TOKEN"]
    client = await in_thread(lambda: Client(served.port).send(GOOD))
    assert statuses(await in_thread(lambda: client.read_until(b"fast"))) == [200]
    await until(lambda: errors.open_connections == 1)  # the other one has gone
    clock.wait(19)
    assert not any(channel.over for channel in errors.context.open())
    clock.wait(2)
    assert await in_thread(client.read_all) == b""
    client.close()
    await until(lambda: errors.open_connections == 0)


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


def test_site_that_forwards_already() -> None:
    """To ask twice is a mistake, and so is to ask of a HangupSite; that is what it says."""
    site = Site(Resource())
    forward_client_errors(site)
    for forwarding in (site, HangupSite(Resource())):
        with pytest.raises(ValueError, match="forwards its client errors already"):
            forward_client_errors(forwarding)


class Factory(HTTPFactory):
    """As Daphne's: no Site, and it calls Twisted's buildProtocol."""

    def buildProtocol(self, addr: Any) -> Any:
        if addr is None:
            return None
        protocol: Any = HTTPFactory.buildProtocol(self, addr)
        protocol.requestFactory = FetchedWithoutSite
        return protocol


def greet(request: http.Request) -> None:
    request.setHeader(b"content-length", b"5")
    request.write(b"hello")
    request.finish()


class FetchedWithoutSite(http.Request):
    process = greet


class Fetched(Request):
    process = greet


class OwnChannel(HTTPChannel):
    """As Synapse's: made by its site, and known to it from beginning to end."""

    def __init__(self, site: Any) -> None:
        super().__init__()
        self.factory = self.site = site

    def requestFactory(self, channel: Any, queued: bool) -> Request:  # type: ignore[override]
        return Fetched(self)

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.living.append(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.site.living.remove(self)


class Adopted(OwnChannel, HangupChannel):
    pass


class OwnSite(Site):
    def __init__(self) -> None:
        super().__init__(Resource(), reactor=Clock())
        self.living: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        return OwnChannel(self)


class AdoptingSite(OwnSite):
    errors: SiteErrors

    def buildProtocol(self, addr: Any) -> Any:
        return self.errors.adopt(Adopted(self))


def test_site_that_builds_its_own_channels_is_warned_of() -> None:
    """What is not forwarded is told once, when the first connection shows it."""
    site = OwnSite()
    build_protocol = site.buildProtocol
    forward_client_errors(site)
    with pytest.warns(UserWarning, match=r"OwnSite.buildProtocol .* super\(\).* adopt\(\)"):
        site.buildProtocol(None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        site.buildProtocol(None)
    assert site.buildProtocol == build_protocol


@pytest.mark.filterwarnings("error")
def test_site_that_calls_super_is_not_warned_of() -> None:
    """A buildProtocol of its own is no reason for a warning, nor is a client it turns away."""
    errors = forward_client_errors(Factory(reactor=Clock()))
    assert errors.site.buildProtocol(None) is None
    client = feed(errors, GOOD)
    assert statuses(client.received) == [200]
    assert client.received.endswith(b"hello")
    assert codes(feed(errors, BAD)) == ["HPE_INVALID_HEADER_TOKEN"]


@pytest.mark.filterwarnings("error")
def test_site_that_adopts_its_channels() -> None:
    """Its channels do what they did, and their client errors are the site's."""
    site = AdoptingSite()
    site.errors = forward_client_errors(site, limits=Limits(head_fields=2))
    heard: list[str] = []

    @site.errors.add
    def hear(failure: Failure, socket: ClientSocket) -> Failure:
        heard.append(code_of(failure))
        return failure

    good, bad = feed(site, GOOD), feed(site, BAD)
    assert good.received.endswith(b"hello")
    assert (bad.received, heard) == (DEFAULT, ["HPE_INVALID_HEADER_TOKEN"])
    assert len(site.living) == site.errors.open_connections == 2
    gone = site.errors.drain()
    bad.fin()
    good.fin()
    assert (site.living, site.errors.open_connections, gone.called) == ([], 0, True)


def test_adopted_channel_without_a_request_factory_has_the_sites() -> None:
    """As a channel that Twisted builds for the site."""

    class Plain(Site):
        requestFactory = Fetched
        errors: SiteErrors

        def buildProtocol(self, addr: Any) -> Any:
            return self.errors.adopt(HangupChannel())

    site = Plain(Resource(), reactor=Clock())
    site.errors = forward_client_errors(site)
    assert feed(site, GOOD).received.endswith(b"hello")


def test_channel_of_twisteds_cannot_be_adopted() -> None:
    """It would not know what to do with a client error."""
    channel: Any = OwnChannel(OwnSite())
    with pytest.raises(TypeError, match="must be a HangupChannel"):
        forward_client_errors(OwnSite()).adopt(channel)


def test_site_of_ones_own_is_watched() -> None:
    """Logs, status page and metrics take the errors of a site where they take a HangupSite."""
    site = Site(Paths(), reactor=Clock())
    errors = forward_client_errors(site, limits=Limits(head_fields=9), timeouts=Timeouts())
    assert (errors.limits.head_fields, errors.timeouts) == (9, Timeouts())
    events: list[LogEvent] = []
    observer: Any = events.append
    errors.journal.watch(ConsoleLog(Clock(), logger=Logger(observer=observer)))
    metrics = Metrics(errors)
    status = StatusSite(errors, Clock(), token=None, metrics=metrics.resource())
    assert statuses(feed(errors, GOOD).received) == [200]
    feed(errors, BAD)
    (event,) = events
    assert event["code"] == "HPE_INVALID_HEADER_TOKEN"
    ask = b"GET /%s HTTP/1.1\r\nHost: 192.0.2.1\r\n"
    ask += b"Authorization: Bearer " + status.token.encode() + b"\r\n\r\n"
    shown = feed(status, ask % b"snapshot").received
    assert b'"by_code": {"HPE_INVALID_HEADER_TOKEN": 1}' in shown
    assert b'"connections": 2' in shown
    scraped = feed(status, ask % b"metrics").received
    assert b'hangup_requests_total{method="GET",status="200"} 1.0' in scraped
    assert (
        b'hangup_client_errors_total{code="HPE_INVALID_HEADER_TOKEN",phase="head"} 1.0' in scraped
    )


def test_site_of_ones_own_behind_a_proxy() -> None:
    """Whom a proxy names that is trusted is the peer of an error, as of a HangupSite's."""
    trusted = ForwardedClients(["192.0.2.0/24"])
    errors = forward_client_errors(Site(Resource(), reactor=Clock()), forwarded=trusted)
    head = (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n"
    )
    feed(errors, head, fin=True)
    (error,) = errors.journal.recent
    assert error.peer.host == "198.51.100.1"


@pytest.mark.parametrize("watch", [Metrics, lambda site: StatusSite(site, Clock())])
def test_site_that_does_not_forward_is_refused(watch: Any) -> None:
    """A plain Site has nothing to watch; the message says what is to be given."""
    with pytest.raises(TypeError, match="forward_client_errors"):
        watch(Site(Resource()))


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
    await until(lambda: served.site.context.phases()["response"])
    served.site.hang_up_all()
    await served.site.drain()
    with pytest.raises(ConnectionResetError):
        await in_thread(client.read_all)
    client.close()
    assert served.errors == []
