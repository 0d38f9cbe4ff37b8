"""Requests that come several in one read: parsed one after the other, answered in one send."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.conversations import Note, PatientClock, Step, hold
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from twisted_hangup import HangupSite
from twisted_hangup.parser.inbox import RequestInbox
from twisted_hangup.server.channel import HangupChannel
from twisted_hangup.testing import MemoryClient
from twisted_hangup.transport.sockets import JointWrites, TellingSocket


def get(path: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: a", *fields]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


class Answers(Resource):
    """Answers in the way that the path names."""

    isLeaf = True

    def render(self, request: Any) -> bytes | int:
        path: bytes = request.path
        if path == b"/later":
            request.site.reactor.callLater(0.1, request.finish)
            return NOT_DONE_YET
        if path == b"/large":
            return b"x" * 70_000
        if path == b"/closes":
            request.channel.loseConnection()
        if path == b"/transport":
            request.transport.loseConnection()
        if path == b"/raises":
            raise ValueError("of the application")
        return path


def site() -> HangupSite:
    return HangupSite(Answers(), reactor=PatientClock())


# One send.


def sends(*reads: bytes) -> list[str]:
    """What happens in turn: each end of a turn, and each send."""
    happened: list[str] = []

    def noting(word: str, call: object) -> object:
        def note(*args: object) -> object:
            happened.append(word)
            return call(*args)  # type: ignore[operator]

        return note

    client = MemoryClient(site())
    with (
        mock.patch.object(JointWrites, "_send_all", noting("turn", JointWrites._send_all)),
        mock.patch.object(
            TellingSocket, "writeSomeData", noting("send", TellingSocket.writeSomeData)
        ),
    ):
        for read in reads:
            client.feed(read)
    return happened


def test_several_answers_leave_in_one_send() -> None:
    """They are sent and forgotten before the turn is over; one alone waits for the others."""
    assert sends(get("/") * 16, get("/") * 16) == ["send", "turn"] * 2
    assert sends(get("/"), get("/")) == ["turn", "send"] * 2


def test_very_many_leave_in_a_few_sends() -> None:
    """No more than 64 finished requests are kept until they are sent."""
    assert sends(get("/") * 200) == [*["send"] * 4, "turn"]


@pytest.mark.parametrize("fields", [[], ["Content-Length: 1"]])
def test_other_heads_leave_in_one_send_too(fields: list[str]) -> None:
    """However they were read."""
    other = get("/", "X: 1", *fields) + (b"x" if fields else b"")
    assert sends(get("/") + other + get("/") + other) == ["send", "turn"]


def test_heads_alike_are_read_without_events() -> None:
    """Only the first one of a connection has events."""
    client = MemoryClient(site())
    asked = RequestInbox.next_event
    with mock.patch.object(RequestInbox, "next_event", autospec=True, side_effect=asked) as events:
        client.feed(get("/"))
        events.reset_mock()
        client.feed(get("/a") * 8 + get("/b") * 8)
        assert not events.called
    assert client.received.count(b"200 OK") == 17


def test_a_connection_for_each_request() -> None:
    """The header of the client before is known, also if it closes the connection."""
    served, last = site(), get("/", "Connection: close")
    MemoryClient(served).feed(last)
    with mock.patch.object(RequestInbox, "next_event") as events:
        client = MemoryClient(served).feed(last + get("/"))
    assert not events.called
    assert client.received.count(b"200 OK") == 1 and client.ended == "fin"


def test_each_is_logged_when_it_is_sent() -> None:
    """While the client does not read, no more are answered than it has room for."""
    lines: list[tuple[bytes, int, int]] = []

    class Logs(HangupSite):
        def log(self, request: Any) -> None:
            lines.append((request.path, request.code, request.sentLength))

    client = MemoryClient(Logs(Answers(), reactor=PatientClock()))
    client.feed(get("/four") * 3)
    assert lines == [(b"/four", 200, 5)] * 3
    client.reading = False
    client.feed(get("/four") * 2 + get("/large") * 4)
    assert not lines[3:]
    client.reset()
    assert [path for path, _, _ in lines[3:]] == [b"/four", b"/four", b"/large"]
    assert [code for _, code, _ in lines[3:]] == [499] * 3


# As without it.

MESSAGES = [
    *(get("/"), get("/"), get("/"), get("/a?b=c"), get("/", method="HEAD"), get("/later")),
    *(get("/large"), get("/closes"), get("/transport"), get("/raises"), get("/", "X: 1")),
    *(get("/", "Connection: close"), get("/", version="1.0"), get("/", "Expect: 100-continue")),
    *(get("/", "Content-Length: 1", method="POST") + b"x", get("/", "X : 1"), b"\r\n", b"G"),
]


def held(known: bytes, steps: list[Step]) -> list[Note]:
    """What happens after another client has sent *known*."""
    served = site()
    hold(served, [known])
    return hold(served, steps)


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(
    st.sampled_from([get("/"), get("/", "Connection: close"), get("/", version="1.0")]),
    st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=7),
    st.lists(st.integers(1, 400), max_size=3),
    st.lists(st.sampled_from([0.05, 0.2, "stall", "read"]), max_size=2),
)
def test_the_same_as_by_events(
    known: bytes, messages: list[bytes], cuts: list[int], pauses: list[Step]
) -> None:
    """However a stream is cut: the same is sent, logged and closed as by events alone."""
    wire = b"".join(messages)
    ends = [0, *sorted({cut for cut in cuts if cut < len(wire)}), len(wire)]
    steps: list[Step] = []
    for (start, end), pause in zip(pairwise(ends), [*pauses, *[0.2] * 4], strict=False):
        steps += [wire[start:end], pause]
    fast = held(known, steps)
    with (
        mock.patch.object(RequestInbox, "whole", return_value=None),
        mock.patch.object(HangupChannel, "takes_whole_requests", False),
    ):
        assert fast == held(known, steps)
