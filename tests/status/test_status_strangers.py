"""Whoever may not see the status page takes neither its places nor its token."""

from __future__ import annotations

import pytest
import pytest_twisted
from support.status_pages import Answer, Pair, Serve, ask
from support.wire import Client, HandClock, in_thread, until
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import capturedLogs, formatEvent

from twisted_hangup.status.access import GUESS_SECONDS, GUESSED_SECONDS
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


async def looked_at_late(pair: Pair, clock: HandClock, asking: Deferred[Answer]) -> Answer:
    """The answer to a request whose token is looked at in its time, and not before."""
    await until(lambda: pair.site._status._guessing)
    clock.advance(GUESS_SECONDS - 0.01)
    assert pair.site._status._guessing
    clock.advance(0.02)
    assert not pair.site._status._guessing
    return await asking


@pytest_twisted.ensureDeferred
async def test_guesses_take_time(serve: Serve) -> None:
    """After a wrong token each is looked at a while later, the right one too; then none is."""
    clock = HandClock()
    pair = Pair(serve, token=TOKEN, clock=clock)

    with capturedLogs() as events:
        assert (await pair.ask("snapshot", RIGHT)).status == 200
        assert (await pair.ask("snapshot", WRONG)).status == 401
        for field, expected in ((WRONG, 401), (RIGHT, 200)):
            asking = ensureDeferred(pair.ask("snapshot", field))
            assert (await looked_at_late(pair, clock, asking)).status == expected
        assert (await pair.ask("snapshot")).status == 401  # without any
        clock.advance(GUESSED_SECONDS)
        assert (await pair.ask("snapshot", RIGHT)).status == 200
    lines = [str(formatEvent(event)) for event in events]
    warnings = [line for line in lines if line.startswith("A wrong token for the status page")]
    assert len(warnings) == 1 and "127.0.0.1:" in warnings[0]
    assert not any("wrong-one" in line for line in lines)


@pytest.mark.parametrize("right", [False, True])
@pytest_twisted.ensureDeferred
async def test_sign_ins_take_time(serve: Serve, right: bool) -> None:
    """A token in a form is one as well."""
    clock = HandClock()
    pair = Pair(serve, token=TOKEN, clock=clock)
    await pair.ask("snapshot", WRONG)
    body = f"token={TOKEN if right else 'another'}"
    asking = ensureDeferred(ask(pair.status.port, "sign-in", method="POST", body=body))
    answer = await looked_at_late(pair, clock, asking)
    assert answer.status == (303 if right else 401)
    assert int(answer.fields["Content-Length"]) == len(answer.body)


@pytest_twisted.ensureDeferred
async def test_guesser_that_leaves(serve: Serve) -> None:
    """Nothing is left of it, and nothing is logged."""
    pair = Pair(serve, token=TOKEN, clock=HandClock())
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
