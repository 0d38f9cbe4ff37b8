"""Forms: the fields that Twisted reads, in linear time, under limits, and only where wanted."""

from __future__ import annotations

import io
from base64 import encodebytes
from itertools import count, pairwise
from pathlib import Path
from time import thread_time
from typing import Any, Final, NamedTuple
from urllib.parse import quote_from_bytes

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from support.certificates import server_context
from support.cleanliness import LoggedErrors
from support.http2_client import H2Client
from support.http2_client import talk as h2_talk
from support.wire import GOOD, Client, Paths, Serve, codes, in_thread, statuses, talk
from twisted.internet.task import Clock, Cooperator, LoopingCall
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from twisted_hangup import (
    BodyTooLarge,
    ClientSocket,
    HangupSite,
    Limits,
    forward_client_errors,
)
from twisted_hangup.limits import KIB, MIB
from twisted_hangup.parser import refusals
from twisted_hangup.parser.refusals import Why
from twisted_hangup.server import forms
from twisted_hangup.server.forms import Fields, Form, FormRefused, Room
from twisted_hangup.service import Options, makeService
from twisted_hangup.status import StatusSite
from twisted_hangup.testing import feed

URLENCODED: Final = b"application/x-www-form-urlencoded"
MULTIPART: Final = b"multipart/form-data; boundary=x"


class Takes(Resource):
    """Keeps the arguments and the body of each request."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.args: list[Fields] = []
        self.bodies: list[bytes] = []

    def render(self, request: Request) -> bytes:
        content: Any = request.content
        self.args.append(dict(request.args or {}))
        self.bodies.append(content.read())
        return b"taken"


def post(content_type: bytes, body: bytes, target: bytes = b"/take") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        target,
        content_type,
        len(body),
        body,
    )


def part(value: bytes = b"v", *fields: bytes, name: bytes = b'name="n"') -> bytes:
    disposition = b"Content-Disposition: form-data; " + name
    return b"\r\n".join([b"--x", disposition, *fields, b"", value, b""])


END: Final = b"--x--\r\n"


def parsed(content_type: bytes, body: bytes, limits: Limits | None = None) -> Fields:
    """The fields of a form, all in one turn."""
    form = Form(io.BytesIO(body), len(body), content_type, limits or Limits())
    clock = Clock()
    done = form.read(Cooperator(scheduler=lambda step: clock.callLater(0, step)))
    assert done is not None
    results: list[Any] = []
    done.addBoth(results.append)
    while not results:
        clock.advance(0)
    form.close()
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return form.fields


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    """All the room there is for forms: connections of other tests may still hold some."""
    room = Room()
    monkeypatch.setattr(forms, "ROOM", room)
    return room


# What Twisted reads.

PLAIN_NAMES = st.text(st.sampled_from("abAB01 _-.[]()é"), min_size=1, max_size=8).map(
    lambda name: name.encode("ascii", "ignore").strip() or b"n"
)
VALUES = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--x", b" ", b"=", b"\0"]), max_size=12).map(
        b"".join
    ),
)


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=40)), max_size=12), st.data())
def test_urlencoded_as_twisted_reads_it(
    pairs: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    """Escaped or raw, with any separator: the same fields, however the body is cut."""
    separator = data.draw(st.sampled_from([b"&", b";"]))
    quote = data.draw(
        st.sampled_from([lambda raw: quote_from_bytes(raw, safe="").encode(), lambda raw: raw])
    )
    body = separator.join(quote(name) + b"=" + quote(value) for name, value in pairs)
    stock = http.parse_qs(body, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "_SLICE", data.draw(st.integers(1, 50)))
        if body:
            assert parsed(URLENCODED, body) == stock


@given(st.lists(st.sampled_from([b"%", b"4", b"1", b"f", b"+", b"=", b"&", b";", b"%41", b"x"])))
def test_odd_escapes_as_twisted_reads_them(pieces: list[bytes]) -> None:
    """What is no escape stays, wherever a slice ends."""
    body = b"".join(pieces) or b"="
    for size in (1, 2, 3, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forms, "_SLICE", size)
            assert parsed(URLENCODED, body) == http.parse_qs(body, 1)


@given(
    st.lists(st.tuples(PLAIN_NAMES, VALUES, st.sampled_from(["", "q", "b", "f"])), max_size=8),
    st.binary(max_size=20),
    st.integers(1, 60),
)
def test_multipart_as_twisted_reads_it(
    parts: list[tuple[bytes, bytes, str]], epilogue: bytes, size: int
) -> None:
    """Well-formed parts, encoded or with a file in them: the same fields, however it is cut."""
    boundary = b"----WebKitFormBoundaryAaB03x"
    lines = []
    for name, value, kind in parts:
        fields = [b'Content-Disposition: form-data; name="%b"' % name]
        if kind == "f":
            fields[0] += b'; filename="a b.txt"'
            fields.append(b"Content-Type: application/octet-stream")
        elif kind == "b":
            value = encodebytes(value).replace(b"\n", b"\r\n")
            fields.append(b"Content-Transfer-Encoding: base64")
        elif kind == "q":
            fields.append(b"Content-Transfer-Encoding: quoted-printable")
        lines += [b"--" + boundary, *fields, b"", value]
    body = b"\r\n".join([*lines, b"--" + boundary + b"--", epilogue])
    content_type = b"multipart/form-data; boundary=" + boundary
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "_SLICE", max(size, len(boundary) + 4))
        fields_read = parsed(content_type, body)
    if parts:  # Twisted refuses the form without any
        assert fields_read == http._getMultiPartArgs(body, content_type)


@pytest.mark.parametrize("content_type", [URLENCODED, MULTIPART])
def test_kept_of_twisted(content_type: bytes) -> None:
    """A field of the body replaces the query's; blank values stay; the body can be read again."""
    body = (
        b"a=1&a=2&b=&c"
        if content_type is URLENCODED
        else b"".join(
            [
                *(part(value, name=b"name=a") for value in (b"1", b"2")),
                part(b"", name=b'name="b"'),
                END,
            ]
        )
    )
    wire = post(content_type, body, b"/take?a=0&q=0")
    takes, stock = Takes(), Takes()
    site = Site(Paths(take=stock))
    protocol: Any = site.buildProtocol(None)
    protocol.makeConnection(StringTransport())
    protocol.dataReceived(wire)
    protocol._channel.setTimeout(None)
    assert statuses(feed(HangupSite(Paths(take=takes)), wire).received) == [200]
    assert takes.args == stock.args == [{b"a": [b"1", b"2"], b"q": [b"0"], b"b": [b""]}]
    assert takes.bodies == stock.bodies == [body]


#: Bodies after the boundary x, and what is read of them; None: refused.
FORMS: Final[dict[str, tuple[bytes, Fields | None]]] = {
    "no name": (part(name=b"a=b") + part() + END, {b"n": [b"v"]}),
    "empty name": (part(name=b'name=""') + END, {}),
    "no disposition": (b"--x\r\nA: b\r\n\r\nv\r\n" + END, {}),
    "no head": (b"--x\r\n\r\nv\r\n" + END, {}),
    "no parts": (END, {}),
    "file": (part(b"\0\xff", name=b'name=n; filename="f"'), None),
    "whole file": (part(b"\0\xff", name=b'name=n; filename="f"') + END, {b"n": [b"\0\xff"]}),
    "UTF-8 name": (part(name='name="é"'.encode()) + END, {"é".encode(): [b"v"]}),
    "name of other bytes": (part(name=b'name="\xe9"') + END, {b"\xe9": [b"v"]}),
    "escaped name": (part(name=b'name="a%22b%0D%0A"') + END, {b'a"b\r\n': [b"v"]}),
    "extended name": (part(name=b"name*=utf-8''n") + END, None),
    "extended file name": (part(name=b"name=n; filename*=utf-8''n") + END, {b"n": [b"v"]}),
    "other disposition": (part().replace(b"form-data", b"attachment") + END, {b"n": [b"v"]}),
    "two dispositions": (part(b"v", b"Content-Disposition: form-data; name=m") + END, None),
    "nested": (
        part(b"--y\r\n\r\na\r\n--y--", b"Content-Type: multipart/mixed; boundary=y") + END,
        {b"n": [b"--y\r\n\r\na\r\n--y--"]},
    ),
    "base64": (part(b"QQ\r\n==", b"content-transfer-encoding: BASE64 ") + END, {b"n": [b"A"]}),
    "base64 unpadded": (part(b"QUI", b"Content-Transfer-Encoding: base64") + END, {b"n": [b"AB"]}),
    "no base64": (part(b"QUFBQ", b"Content-Transfer-Encoding: base64") + END, {b"n": [b"QUFBQ"]}),
    "other encoding": (part(b"=41", b"Content-Transfer-Encoding: 8bit") + END, {b"n": [b"=41"]}),
    "epilogue": (part() + END + b"--x\r\nanything " * 9000, {b"n": [b"v"]}),
    "preamble": (b"preamble\r\n" + part() + END, {b"n": [b"v"]}),
    "folded": (part(b"v", b"A: b\r\n c") + END, None),
    "bare LF": ((part() + END).replace(b"\r\n", b"\n"), None),
    "cut short": (part(), None),
    "cut in the boundary": (part() + END[:4], None),
    "no colon": (part(b"v", b"A") + END, None),
    "wrong boundary": (b"--y\r\n", None),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    """What is read of forms that few clients send, and which are refused."""
    body, fields = FORMS[name]
    if fields is None:
        with pytest.raises(FormRefused, match="multipart"):
            parsed(MULTIPART, body)
    else:
        assert parsed(MULTIPART, body) == fields


@pytest.mark.parametrize("at", range(-8, 9))
def test_the_end_may_be_anywhere(at: int) -> None:
    """The last boundary and its CR LF may be cut by a slice."""
    size = forms._SLICE + at - len(part(b"") + END)
    assert parsed(MULTIPART, part(bytes(size)) + END) == {b"n": [bytes(size)]}


@pytest.mark.parametrize(
    "content_type, boundary",
    [
        (b'multipart/form-data; boundary="a b"', b"a b"),
        (b"Multipart/Form-Data; charset=utf-8; Boundary=----=_Part_1/2:3 ", b"----=_Part_1/2:3"),
        (b'multipart/form-data; a="; boundary=no"; boundary=yes', b"yes"),
        (b"multipart/form-data; boundary=" + b"b" * 70, b"b" * 70),
        (b"multipart/form-data; boundary=" + b"b" * 71, None),
        (b"multipart/form-data; boundary=", None),
        (b'multipart/form-data; boundary=""', None),
        (b"multipart/form-data", None),
    ],
)
def test_boundaries(content_type: bytes, boundary: bytes | None) -> None:
    """Quoted or not, the boundary is what the client has chosen."""
    body = (part() + END).replace(b"--x", b"--" + (boundary or b"x"))
    if boundary is None:
        with pytest.raises(FormRefused):
            parsed(content_type, body)
    else:
        assert parsed(content_type, body) == {b"n": [b"v"]}


# Limits.


class Limited(NamedTuple):
    """A limit, a form that it allows, one that it does not, and why."""

    limits: Limits
    content_type: bytes
    fits: bytes
    over: bytes
    why: Why


#: The head of `part`, in bytes; each field ``A: b`` has 6.
_HEAD_BYTES: Final = len(b'Content-Disposition: form-data; name="n"\r\n')
_FORM: Final = part() + END

LIMITED: Final = {
    "bytes": Limited(
        Limits(form_bytes=9), URLENCODED, b"a=1234567", b"a=12345678", refusals.FORM_TOO_LARGE
    ),
    "bytes of parts": Limited(
        Limits(form_bytes=len(_FORM)), MULTIPART, _FORM, _FORM + b" ", refusals.FORM_TOO_LARGE
    ),
    "fields": Limited(
        Limits(form_fields=3), URLENCODED, b"a=1&a=1;b=", b"a=1&a=1;b=&", refusals.FORM_FIELDS
    ),
    "fields that are none": Limited(
        Limits(form_fields=3), URLENCODED, b"&&", b"&&&", refusals.FORM_FIELDS
    ),
    "parts": Limited(
        Limits(form_fields=3), MULTIPART, part() * 3 + END, part() * 4 + END, refusals.FORM_FIELDS
    ),
    "parts without names": Limited(
        Limits(form_fields=3),
        MULTIPART,
        part() + part(name=b"a") * 2 + END,
        part() + part(name=b"a") * 3 + END,
        refusals.FORM_FIELDS,
    ),
    "a long field in a head": Limited(
        Limits(part_head_bytes=_HEAD_BYTES + 60),
        MULTIPART,
        part(b"v", b"A: " + b"b" * 55) + END,
        part(b"v", b"A: " + b"b" * 56) + END,
        refusals.PART_HEAD_TOO_LARGE,
    ),
    "a head of many bytes": Limited(
        Limits(part_head_bytes=_HEAD_BYTES + 60),
        MULTIPART,
        part(b"v", *[b"A: b"] * 10) + END,
        part(b"v", *[b"A: b"] * 11) + END,
        refusals.PART_HEAD_TOO_LARGE,
    ),
    "a head of many fields": Limited(
        Limits(),
        MULTIPART,
        part(b"v", *[b"A: b"] * 63) + END,
        part(b"v", *[b"A: b"] * 64) + END,
        refusals.PART_HEAD_TOO_LARGE,
    ),
    "a head without end": Limited(
        Limits(), MULTIPART, _FORM, b"--x\r\n" + b"A" * MIB, refusals.PART_HEAD_TOO_LARGE
    ),
}


@pytest.mark.parametrize("name", LIMITED)
def test_limits(name: str, room: Room) -> None:
    """What a limit allows is read, and one more is refused: 413, through the handlers."""
    limits, content_type, fits, over, why = LIMITED[name]
    takes = Takes()
    site = HangupSite(Paths(take=takes), limits=limits)
    seen: list[Any] = []

    @site.on_client_error
    def note(failure: Any, socket: ClientSocket) -> Any:
        seen.append(failure.value)
        return failure

    client = feed(site, post(content_type, fits), GOOD, post(content_type, over) + GOOD)
    assert statuses(client.received) == [200, 200, 413]
    assert len(takes.args) == 1 and room.bytes == 0
    (error,) = seen
    assert isinstance(error, BodyTooLarge)
    assert (error.reason, error.phase, error.field) == (why.reason, "body", b"Content-Type")
    assert error.request is not None and error.request.target == b"/take"


def test_no_limits() -> None:
    """0 is no limit, as for the body."""
    limits = Limits(form_bytes=0, form_fields=0)
    assert len(parsed(URLENCODED, b"a=1&" * 5000, limits)[b"a"]) == 5000
    assert len(parsed(MULTIPART, part() * 5000 + END, limits)[b"n"]) == 5000


def test_forms_of_the_process(room: Room) -> None:
    """What all forms together would exceed is a 503 for one request, told in one line."""
    room.bytes = Limits().form_bytes * forms.LARGEST_AT_ONCE - 100
    lines: list[str] = []

    def note(event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.warn:
            lines.append(formatEvent(event))

    observer: Any = note
    globalLogPublisher.addObserver(observer)
    site = HangupSite(Paths(take=Takes()))
    try:
        client = feed(site, post(URLENCODED, b"a=" + b"b" * 99))
    finally:
        globalLogPublisher.removeObserver(observer)
    assert statuses(client.received) == [503] and client.errors == []
    assert lines == ["No room for another form, which is answered 503"]
    assert statuses(feed(site, post(URLENCODED, b"a=" + b"b" * 98)).received) == [200]


def test_room_is_given_back(room: Room) -> None:
    """When the request is over, however it ends."""
    site = HangupSite(Paths())
    client = feed(site, post(URLENCODED, b"a=1", b"/slow"))
    assert room.bytes == 3
    client.reset()
    assert room.bytes == 0
    feed(site, post(URLENCODED, b"a=1", b"/fast"))
    feed(site, post(MULTIPART, b"nonsense", b"/fast"))
    assert room.bytes == 0
    form = Form(io.BytesIO(b"a=1"), 3, URLENCODED, Limits())
    form.read(Cooperator())
    assert room.bytes == 3
    del form
    assert room.bytes == 0


# Time.

#: Bodies that took Twisted's parser seconds, or hundreds of megabytes.
COSTLY: Final[dict[str, tuple[bytes, bytes]]] = {
    "semicolons in quotes": (
        MULTIPART,
        part(name=b'n="' + b";" * 40_000 + b'"') + END,
    ),
    "parameters": (MULTIPART, part(name=b"name=n" + b"; a=b" * 100_000) + END),
    "nested boundaries": (
        MULTIPART,
        b"".join(
            b"--%x\r\nContent-Type: multipart/mixed; boundary=%x\r\n\r\n" % (depth, depth + 1)
            for depth in range(900)
        ).replace(b"--0\r\n", b"--x\r\n", 1)
        + b"\r\n" * 20_000,
    ),
    "empty lines": (MULTIPART, part(b"\r\n" * (5 * MIB)) + END),
    "carriage returns": (MULTIPART, part(b"\r" * (10 * MIB)) + END),
    "empty parts": (MULTIPART, part() * 200_000 + END),
    "folds": (MULTIPART, part(b"v", b"A: b" + b"\r\n c" * 500_000) + END),
    "nothing but dashes": (b"multipart/form-data; boundary=" + b"-" * 70, b"-" * (10 * MIB)),
    "keys": (URLENCODED, b"&".join(b"%x=" % number for number in range(1_000_000))),
    "separators": (URLENCODED, b"&;" * (5 * MIB)),
    "escapes": (URLENCODED, b"a=" + b"%41" * (MIB // 3)),
    "no escapes": (URLENCODED, b"a=" + b"%" * MIB),
    "long name": (URLENCODED, b"%" * MIB + b"="),
    "content type": (b'multipart/form-data; a="' + b";" * 15_500 + b'"', b"x"),
    "content type of no form": (b'text/plain; a="' + b";" * 15_500 + b'"', b"x"),
    "content type of quotes": (b"multipart/form-data" + b'; a="' * 3000, b"x"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_costly_forms(name: str) -> None:
    """None takes half a second of CPU, and none many times its size in memory."""
    content_type, body = COSTLY[name]
    wire = post(content_type, body)
    client = feed(HangupSite(Paths(take=Takes())))
    began = thread_time()
    client.feed(wire)
    while not client.received:
        client.advance(0.001)
    assert thread_time() - began < 0.5  # the dearest takes a third of that


@pytest_twisted.ensureDeferred
async def test_large_forms_keep_nobody_waiting(serve: Serve) -> None:
    """While the largest forms are read, several at a time, others are answered."""
    takes = Takes()
    served = serve(Paths(take=takes))
    body = b"a=" + b"%" * (2 * MIB)
    uploads = [talk(served.port, post(URLENCODED, body), fin=False) for _ in range(3)]
    seen = [thread_time()]
    looking = LoopingCall(lambda: seen.append(thread_time()))
    looked = looking.start(0)

    def probe() -> None:
        client = Client(served.port)
        while len(takes.args) < 3:
            assert client.send(GOOD).read_until(b"fast").endswith(b"fast")
        client.close()

    await in_thread(probe)
    looking.stop()
    await looked
    assert takes.args == [{b"a": [b"%" * (2 * MIB)]}] * 3
    # Of CPU time, which is the same on a busy machine: a form takes a third of a second, a slice
    # a hundredth.
    assert max(after - before for before, after in pairwise(seen)) < 0.1
    for channel in served.site.context.open():
        channel.loseConnection()
    for upload in uploads:
        assert statuses(await upload) == [200]


def slow_form(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A form whose every slice is the last one of a turn."""
    monkeypatch.setattr(forms, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(forms, "_SLICE", 10)
    return b"a=" + b"b" * 100


def test_requests_after_a_form_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after a form that is still being read is answered after it."""
    body = slow_form(monkeypatch)
    takes = Takes()
    client = feed(HangupSite(Paths(take=takes)), post(URLENCODED, body) + GOOD)
    client.advance(1)
    assert statuses(client.received) == [200, 200]
    assert client.received.endswith(b"fast")
    assert takes.args == [{b"a": [b"b" * 100]}]


@pytest.mark.parametrize("leave", ["reset", "fin"])
def test_client_leaves_while_its_form_is_read(leave: str, room: Room) -> None:
    """Nothing is read any more, and no resource is asked."""
    takes = Takes()
    site = HangupSite(Paths(take=takes))
    client = feed(site)
    (channel,) = site.context.connections
    channel.dataReceived(post(URLENCODED, b"a=" + b"%" * MIB))  # many turns
    assert room.bytes
    getattr(client, leave)()
    assert [error.phase for error in client.errors] == ["response"]
    client.advance(1)
    assert takes.args == [] and room.bytes == 0
    assert site.open_connections == 0


def test_form_refused_in_a_later_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a client error as it would be at once."""
    body = slow_form(monkeypatch)
    client = feed(HangupSite(Paths(), limits=Limits(form_fields=1)), post(URLENCODED, body + b"&"))
    client.advance(1)
    assert statuses(client.received) == [413]
    assert codes(client) == ["ERR_HTTP_BODY_TOO_LARGE"]


class Raises(Request):
    """A request whose application fails before there is a resource."""

    def process(self) -> None:
        raise LookupError("a bug")


@pytest.mark.parametrize("slow", [False, True])
def test_request_that_raises_after_its_form(
    monkeypatch: pytest.MonkeyPatch, expected_errors: LoggedErrors, slow: bool
) -> None:
    """A bug of the application is a 500, and no client error."""
    body = slow_form(monkeypatch) if slow else b"a=1"
    client = feed(HangupSite(Paths(), requestFactory=Raises), post(URLENCODED, body))
    client.advance(1)
    assert statuses(client.received) == [500] and client.errors == []
    assert len(expected_errors.flush(LookupError)) == 1


@pytest_twisted.ensureDeferred
async def test_forms_over_http2(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP/2 forms are read, and refused on their stream."""
    slow_form(monkeypatch)
    takes = Takes()
    served = serve(Paths(take=takes), tls=server_context(), limits=Limits(form_fields=2))

    def run(client: H2Client) -> list[int | None]:
        return [
            client.data(
                stream := client.request(
                    b"/take", (b"content-type", URLENCODED), method=b"POST", end=False
                ),
                body,
            )
            .answer(stream)
            .status
            for body in (b"a=1&b=" + b"2" * 50, b"a=1&b=2&" + b"c" * 50)
        ]

    assert await h2_talk(served.port, run) == [200, 413]
    assert takes.args == [{b"a": [b"1"], b"b": [b"2" * 50]}]
    assert served.codes == ["ERR_HTTP_BODY_TOO_LARGE"]


# What reads no forms.


class OwnForms(Request):
    """Takes bodies apart itself, and does not ask Twisted's method."""

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self.method, self.uri, self.clientproto = command, path, version
        self.path, self.args = path, {}
        content: Any = self.content
        content.seek(0)
        self.process()


class Asks(Request):
    """Says itself that it wants no forms."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, parsePOSTFormSubmission=False)


@pytest.mark.parametrize(
    "options",
    [
        {"parsePOSTFormSubmission": False},
        {"requestFactory": OwnForms},
        {"requestFactory": Asks},
    ],
    ids=str,
)
def test_where_no_forms_are_wanted(options: dict[str, Any]) -> None:
    """No limit of forms holds there, and the body is left as it is."""
    takes = Takes()
    site = HangupSite(Paths(take=takes), limits=Limits(form_bytes=1), **options)
    client = feed(site, post(MULTIPART, b"nonsense"))
    assert statuses(client.received) == [200]
    assert takes.args == [{}] and takes.bodies == [b"nonsense"]


def test_methods_but_post() -> None:
    """As in Twisted, only POST has a form."""
    takes = Takes()
    wire = post(URLENCODED, b"a=1").replace(b"POST", b"PUT", 1)
    feed(HangupSite(Paths(take=takes), limits=Limits(form_bytes=1)), wire)
    assert takes.args == [{}] and takes.bodies == [b"a=1"]


def site_of(*words: str) -> Any:
    options = Options()
    options.parseOptions([*words, "--port", "tcp:0:interface=127.0.0.1"])
    service: Any = makeService(options)
    return service.site


def test_service_reads_forms_for_resources_alone(tmp_path: Path) -> None:
    """A directory, the welcome page, WSGI, a proxy and the status page have no use for them."""
    names = {
        "welcome": site_of(),
        "path": site_of("--path", str(tmp_path)),
        "proxy": site_of("--proxy", "http://127.0.0.1:9"),
        "wsgi": site_of("--wsgi", "wsgiref.simple_server.demo_app"),
        "resource": site_of("--resource", "twisted.web.resource.Resource"),
    }
    from twisted.internet import reactor

    names["status"] = StatusSite(names["resource"], reactor)
    wanted = {name for name, site in names.items() if site._parsePOSTFormSubmission}
    assert wanted == {"resource"}


def test_options() -> None:
    """The limits have options as the others have."""
    options = Options()
    options.parseOptions(
        ["--max-form-size", "1m", "--max-form-fields", "7", "--max-part-head-size", "1k"]
    )
    limits = options.limits
    assert (limits.form_bytes, limits.form_fields, limits.part_head_bytes) == (MIB, 7, KIB)


def test_site_of_ones_own() -> None:
    """Its forms are read the same way."""
    takes = Takes()
    site: Any = Site(Paths(take=takes), reactor=Clock())
    handlers = forward_client_errors(site, limits=Limits(form_fields=1))
    seen: list[Any] = []

    @handlers.add
    def note(failure: Any, socket: ClientSocket) -> Any:
        seen.append(failure.value)
        return failure

    for body in (b"a=1", b"a=1&b=2"):
        protocol: Any = site.buildProtocol(None)
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(post(URLENCODED, body))
    assert takes.args == [{b"a": [b"1"]}]
    assert [error.status for error in seen] == [413]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data"])
def test_small_forms_are_read_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form that is one slice takes no turn more, also where the machine takes its time."""
    moments = count(0.0, 1.0)
    monkeypatch.setattr(forms, "monotonic", lambda: next(moments))
    part = b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b--"
    body = b"a=1" if "url" in kind else part
    form = Form(io.BytesIO(body), len(body), f"{kind}; boundary=b".encode(), Limits())
    read = form.read(Cooperator(scheduler=lambda _: pytest.fail("it waits for a turn")))
    assert read is not None and read.called
    assert form.fields == {b"a": [b"1"]}
    form.close()
