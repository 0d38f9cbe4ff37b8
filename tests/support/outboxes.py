"""What tests of the outbox share: databases, and an agent that answers as it is told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface import implementer

from twisted_hangup.outbox import Outbox

from .postgres_server import NoPostgres, PostgresServer

URL: Final = "http://there.test/hook"
_NUMBERS: Final = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests; without one, those that need it are skipped."""
    try:
        server = PostgresServer("fsync=off")
    except NoPostgres as reason:
        pytest.skip(f"no PostgreSQL: {reason}")
    yield server
    server.close()


@pytest.fixture
def postgres_dsn(postgres: PostgresServer) -> str:
    """An empty place of its own on the server."""
    schema = f"test{next(_NUMBERS)}"
    with import_module("psycopg").connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    return f"{postgres.dsn}&options={quote(f'-csearch_path={schema}')}"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The name of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return str(tmp_path / "outbox.sqlite")
    name: str = request.getfixturevalue("postgres_dsn")
    return name


class Response:
    """What `FakeAgent` answers: a head, and a body that has ended."""

    def __init__(self, code: int, headers: dict[str, list[str]] | None = None) -> None:
        self.code = code
        self.phrase = b"Whatever"
        self.headers = Headers(headers or {})

    def deliverBody(self, protocol: Any) -> None:
        protocol.dataReceived(b"seen")
        protocol.connectionLost(Failure(ResponseDone()))


class Sent:
    """A request that an agent was asked for."""

    def __init__(self, method: bytes, url: bytes, headers: Headers, body: bytes) -> None:
        self.method, self.url, self.headers, self.body = method, url, headers, body
        (self.key,) = [value.decode() for value in headers.getRawHeaders(b"Idempotency-Key", [])]


@implementer(IAgent)
class FakeAgent:
    """Does what `answer` says: a status code, a `Response`, a Failure or a Deferred of them.

    Attributes:
        sent: What it was asked for, in order.
        answer: Called with each.
    """

    def __init__(self, answer: Callable[[Sent], Any] = lambda sent: 200) -> None:
        self.sent: list[Sent] = []
        self.answer = answer

    def request(
        self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None
    ) -> Deferred[Any]:
        written: list[bytes] = []
        if bodyProducer is not None:
            bodyProducer.startProducing(_Consumer(written))
        sent = Sent(method, uri, headers, b"".join(written))
        self.sent.append(sent)
        return maybeDeferred(self.answer, sent).addCallback(
            lambda answer: Response(answer) if isinstance(answer, int) else answer
        )

    @property
    def bodies(self) -> list[bytes]:
        """What was sent, in order."""
        return [sent.body for sent in self.sent]


class _Consumer:
    def __init__(self, written: list[bytes]) -> None:
        self.write = written.append


Start = Callable[..., Outbox]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start an `Outbox` with these arguments; it is stopped when the test is over."""
    started: list[Outbox] = []

    def run(*arguments: Any, **options: Any) -> Outbox:
        outbox = Outbox(*arguments, **options)
        outbox.startService()
        started.append(outbox)
        return outbox

    yield run
    for outbox in started:
        if outbox.running:
            pytest_twisted.blockon(outbox.stopService())
