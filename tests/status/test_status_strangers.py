"""Whoever may not see the status page takes neither its places nor its token."""

from __future__ import annotations

import time
from typing import Any

import pytest
import pytest_twisted
from support.status_pages import Pair, Serve, ask
from support.wire import Client, in_thread, pause, until
from twisted.internet.address import IPv4Address
from twisted.logger import capturedLogs, formatEvent

from twisted_hangup.status import access
from twisted_hangup.status.site import MOST_STRANGERS

TOKEN = "a-token-of-the-operators"
RIGHT = f"Authorization: Bearer {TOKEN}"
WRONG = "Authorization: Bearer wrong-one-of-sixteen"

WIRES = {
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: loc",
    "half a body": b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
    "no token": b"GET /snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("wire", WIRES.values(), ids=[*WIRES])
@pytest_twisted.ensureDeferred
async def test_places_for_the_operator(serve: Serve, wire: bytes) -> None:
    """However many connections come without a token, and whatever they do."""
    pair = Pair(serve, token=TOKEN)
    operator = Client(pair.status.port)
    request = f"GET /snapshot HTTP/1.1\r\nHost: localhost\r\n{RIGHT}\r\n\r\n".encode()

    def look() -> bytes:
        return operator.send(request).read_until(b"\r\n\r\n")

    assert b" 200 " in await in_thread(look)
    clients = []
    for _ in range(100):
        clients.append(Client(pair.status.port))
        await in_thread(lambda: clients[-1].send(wire))
    await until(lambda: pair.site.open_connections <= MOST_STRANGERS + 1)
    assert (await pair.ask("snapshot", RIGHT)).status == 200
    assert await in_thread(lambda: operator.socket.recv(1 << 20))  # it is still there
    for client in [operator, *clients]:
        client.close()


@pytest_twisted.ensureDeferred
async def test_guesses_take_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a wrong token each is looked at a while later, the right one too; then none is."""
    monkeypatch.setattr(access, "GUESSED_SECONDS", 1.5)
    pair = Pair(serve, token=TOKEN)

    async def timed(*fields: str, **options: Any) -> tuple[int, float]:
        began = time.monotonic()
        answer = await pair.ask("snapshot", *fields, **options)
        return answer.status, time.monotonic() - began

    with capturedLogs() as events:
        assert (await timed(RIGHT))[1] < 0.5
        assert (await timed(WRONG))[0] == 401
        for fields, expected in ((WRONG, 401), (RIGHT, 200)):
            status, seconds = await timed(fields)
            assert status == expected and 0.9 < seconds < 1.5
        assert (await timed())[1] < 0.5  # without any
        await pause(1.6)
        assert (await timed(RIGHT))[1] < 0.5
    lines = [str(formatEvent(event)) for event in events]
    warnings = [line for line in lines if line.startswith("A wrong token for the status page")]
    assert len(warnings) == 1 and "127.0.0.1:" in warnings[0]
    assert not any("wrong-one" in line for line in lines)


@pytest.mark.parametrize("right", [False, True])
@pytest_twisted.ensureDeferred
async def test_sign_ins_take_time(serve: Serve, right: bool) -> None:
    """A token in a form is one as well."""
    pair = Pair(serve, token=TOKEN)
    await pair.ask("snapshot", WRONG)
    began = time.monotonic()
    body = f"token={TOKEN if right else 'another'}"
    answer = await ask(pair.status.port, "sign-in", method="POST", body=body)
    assert answer.status == (303 if right else 401)
    assert int(answer.fields["Content-Length"]) == len(answer.body)
    assert 0.9 < time.monotonic() - began < 1.5


@pytest_twisted.ensureDeferred
async def test_guesser_that_leaves(serve: Serve) -> None:
    """Nothing is left of it, and nothing is logged."""
    pair = Pair(serve, token=TOKEN)
    await pair.ask("snapshot", WRONG)
    client = Client(pair.status.port)
    client.send(f"GET /snapshot HTTP/1.1\r\nHost: localhost\r\n{WRONG}\r\n\r\n".encode())
    await until(lambda: pair.site._status._guessing)
    client.reset()
    await until(lambda: not pair.site._status._guessing)


@pytest_twisted.ensureDeferred
async def test_one_guess_at_a_time(serve: Serve) -> None:
    """Of each connection, which over HTTP/2 could have a hundred."""
    pair = Pair(serve, token=TOKEN)
    await pair.ask("snapshot", WRONG)
    client = Client(pair.status.port)
    pair.site._status._guessing.add(IPv4Address("TCP", *client.socket.getsockname()))
    request = f"GET /snapshot HTTP/1.1\r\nHost: localhost\r\n{RIGHT}\r\n\r\n".encode()
    head = await in_thread(lambda: client.send(request).read_until(b"\r\n\r\n"))
    assert b" 429 " in head and b"Retry-After: 1\r\n" in head
    client.close()
