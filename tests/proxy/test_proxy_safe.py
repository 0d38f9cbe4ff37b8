"""Whatever a client sends, what the proxy sends on is well-formed, and the same requests.

Every byte that reaches the server is kept and read again by strict parsers: ours, and Node's
where ``NODE`` names one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import pytest
import pytest_twisted
from oracle import fuzz, node, ours, pages
from oracle.node import Message
from support.certificates import server_context
from support.http2_client import H2Client
from support.recording import Recorder, value
from support.wire import Client, Serve, in_thread, settled, until
from twisted.web.server import Site

from twisted_hangup.limits import NODE_METHODS, Lenience, Limits
from twisted_hangup.parser.grammar import HOST
from twisted_hangup.proxy import ProxyResource

MUTANTS: Final = 2000

#: More than this a parser that has given up may not read.
LONG: Final = 20_000

#: A FIN in front of the answer is no hang-up, so that each stream can say that it is all.
HALF_OPEN: Final = Limits(allow_half_open=True)


class Counted(ProxyResource):
    """A proxy that counts the requests that it was asked to pass on, and those that are over."""

    begun = over = 0

    def render(self, request: Any) -> int:
        self.begun += 1
        request.notifyFinish().addBoth(self._over)
        return super().render(request)

    def _over(self, _: object) -> None:
        self.over += 1


class Behind:
    """A proxy and the recorder behind it."""

    def __init__(self, serve: Serve, stock: bool = False, **arguments: Any) -> None:
        self.recorder = Recorder()
        self.proxy = Counted(self.recorder.server.url)
        site = Site(self.proxy) if stock else self.proxy
        if stock:
            # A connection each: some methods that it lets pass are unknown to the judges.
            self.proxy.pool._most_idle = 0
        else:
            arguments.setdefault("parsePOSTFormSubmission", False)
        self.served = serve(site, **arguments)

    async def replay(self, reads: Sequence[bytes]) -> list[Message]:
        """Send *reads* over a connection of their own; the requests that came out behind."""
        before = len(self.recorder.requests)
        await in_thread(lambda: send(self.served.port, reads))
        return self.recorder.requests[before:]

    async def quiet(self) -> None:
        """Let the reactor run until all is answered that has been sent to the proxy."""
        before = -1
        while before < self.proxy.begun:
            before = self.proxy.begun
            await until(lambda: self.proxy.over == self.proxy.begun)
            await settled(50)

    def judge(self) -> None:
        """All that arrived is well-formed."""
        refused = self.recorder.refused(node.find_node())
        assert not refused, "\n".join(refused)


@pytest.fixture
def behind(serve: Serve) -> Iterator[Callable[..., Behind]]:
    made: list[Behind] = []

    def make(**arguments: Any) -> Behind:
        made.append(Behind(serve, **arguments))
        return made[-1]

    yield make
    for one in made:
        pytest_twisted.blockon(one.proxy.pool.close())
        one.recorder.server.close()


def send(port: int, reads: Sequence[bytes]) -> bytes:
    client = Client(port)
    received = b""
    # A refusal may come, and the end of the connection, before all is sent.
    with suppress(ConnectionError):
        client.send(*reads).end()
    with suppress(ConnectionError):
        received = client.read_all()
    client.close()
    return received


#: Expectations that the front meets, as the cases and mutants write them.
MET: Final = {b"100-continue", b"100-Continue", b"100-CONTINUE"}


def expected(reads: Sequence[bytes]) -> tuple[list[Message], bool]:
    """What should arrive of *reads*, and whether that is all that may."""
    verdict = ours.judge(reads, Limits())
    asked: list[Message] = []
    for message in verdict.messages:
        if message.method == b"CONNECT" or not MET.issuperset(values(message, b"expect")):
            break  # answered 501 or 417, and closed
        hosts = [host_of(message), *values(message, b"host")[1:]]
        goes_on = message.target != b"*" and len(hosts) == 1 and HOST.fullmatch(hosts[0])
        if (message.complete or message.upgrade) and goes_on:
            asked.append(message)
        if message.version == b"1.0":
            break  # Twisted answers no other behind it
    return asked, not any(message.upgrade for message in verdict.messages)


def values(message: Message, name: bytes) -> list[bytes]:
    return [value for own, value in message.fields if own.lower() == name]


_ABSOLUTE: Final = re.compile(rb"[A-Za-z]+://(?:[^/?@]*@)?([^/?]*)(.*)")


def host_of(message: Message) -> bytes:
    absolute = _ABSOLUTE.match(message.target)
    return absolute[1] if absolute else (values(message, b"host") or [b""])[0]


def outline(message: Message, authority: bytes) -> tuple[bytes, ...]:
    """What has to be the same on both sides."""
    target = message.target
    if absolute := _ABSOLUTE.match(target):
        target = absolute[2]
        if not target.startswith(b"/"):
            target = b"*" if message.method == b"OPTIONS" and not target else b"/" + target
    return message.method, target, host_of(message) or authority, message.body


def difference(reads: Sequence[bytes], arrived: list[Message], authority: bytes) -> str:
    """What is wrong with what *arrived* of *reads*, or nothing."""
    asked, all_told = expected(reads)
    wanted = [outline(message, authority) for message in asked]
    got = [outline(message, authority) for message in arrived]
    if not all_told:  # of a request for an upgrade our judge has read no body
        got = got[: len(wanted)]
        wanted, got = ([*one[:-1], *(last[:3] for last in one[-1:])] for one in (wanted, got))
    if wanted != got:
        return f"{list(reads)!r}\n  asked   {wanted}\n  arrived {got}"
    for message in arrived:
        framing = [value(message, b"content-length"), value(message, b"transfer-encoding")]
        if framing[1] is not None or (message.body and not framing[0]):
            return f"{list(reads)!r}: framed by {framing}"
    return ""


async def replay_all(behind: Behind, streams: Sequence[Sequence[bytes]]) -> None:
    authority = b"127.0.0.1:%d" % behind.recorder.server.port
    told = [difference(reads, await behind.replay(reads), authority) for reads in streams]
    assert not any(told), "\n".join(filter(None, told))
    assert behind.recorder.requests
    behind.judge()


@pytest_twisted.ensureDeferred
async def test_every_case(behind: Callable[..., Behind]) -> None:
    """Of each known case the server gets the requests that were accepted, and no other byte."""
    streams = [[case.stream] for case in pages.load() if case.stream]
    await replay_all(behind(limits=HALF_OPEN), streams)


@pytest_twisted.ensureDeferred
async def test_mutants(behind: Callable[..., Behind]) -> None:
    """The same goes for cases that were changed at random."""
    streams = [reads for reads in fuzz.mutants(MUTANTS, seed=1) if reads]
    await replay_all(behind(limits=HALF_OPEN), streams)


def test_there_are_two_judges() -> None:
    """Without a node the tests of this file mean less, and say so here."""
    if node.find_node() is None:
        pytest.skip(f"judged by our parser alone: no node {node.OLDEST} or newer, set NODE")


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", *lines, b"", body])


EVIL: Final = b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked"

#: What has been used to smuggle requests, and how many of them may arrive.
SHAPES: Final = {
    "CL.TE": (post(b"Content-Length: 30", CHUNKED, body=b"0\r\n\r\n" + EVIL), 0),
    "TE.CL": (post(CHUNKED, b"Content-Length: 4", body=b"5c\r\n" + EVIL + b"0\r\n\r\n"), 0),
    "TE.TE": (post(CHUNKED, b"Transfer-encoding: cow", body=b"0\r\n\r\n" + EVIL), 0),
    "TE in disguise": (post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), 0),
    "TE with a tab": (post(b"Transfer-Encoding:\tchunked", body=b"0\r\n\r\n"), 1),
    "TE with a vertical tab": (post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 0),
    "TE behind LF": (post(b"X: y\nTransfer-Encoding: chunked", body=b"0\r\n\r\n"), 0),
    "TE folded": (post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"), 0),
    "TE with an underscore": (
        post(b"Transfer_Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
        1,
    ),
    "TE of HTTP/1.0": (post(CHUNKED, body=b"0\r\n\r\n").replace(b"1.1", b"1.0", 1), 0),
    "CL.0": (post(b"Content-Length: 30", b"Connection: Content-Length", body=EVIL), 1),
    "CL.CL": (post(b"Content-Length: 0", b"Content-Length: 30", body=EVIL), 0),
    "CL list": (post(b"Content-Length: 3, 3", body=b"abc"), 0),
    "CL sign": (post(b"Content-Length: +3", body=b"abc"), 0),
    "CL overflow": (post(b"Content-Length: 18446744073709551619", body=b"abc"), 0),
    "CL of GET": (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n" + EVIL, 1),
    "Host is removed": (post(b"Connection: Host, close", b"Content-Length: 0"), 1),
    "two hosts": (post(b"Host: b", b"Content-Length: 0"), 0),
    "two hosts of HTTP/1.0": (post(b"Host: b").replace(b"1.1", b"1.0", 1), 0),
    "no host of HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 0),
    "userinfo": (b"GET http://b@c/ HTTP/1.1\r\nHost: a\r\n\r\n", 1),
    "userinfo twice": (b"GET http://b@c@d/ HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    "no authority": (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    "other scheme": (b"GET gopher://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 1),
    "chunk size with spaces": (post(CHUNKED, body=b"0 \r\n\r\n"), 0),
    "chunk size 0x": (post(CHUNKED, body=b"0x1\r\na\r\n0\r\n\r\n"), 0),
    "chunk ends with LF": (post(CHUNKED, body=b"1\na\r\n0\r\n\r\n"), 0),
    "chunk extension with LF": (post(CHUNKED, body=b"1;a\nb\r\na\r\n0\r\n\r\n"), 0),
    "trailer that frames": (
        post(CHUNKED, body=b"1\r\na\r\n0\r\nContent-Length: 31\r\n\r\n" + EVIL),
        0,
    ),
    "trailer that routes": (post(CHUNKED, body=b"1\r\na\r\n0\r\nHost: b\r\n\r\n" + EVIL), 2),
    "chunk that is a request": (post(CHUNKED, body=b"1f\r\n" + EVIL + b"\r\n0\r\n\r\n"), 1),
    "obs-text": (b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\x85\xa0\r\n\r\n", 1),
    "obs-text in a name": (b"GET / HTTP/1.1\r\nHost: a\r\nX\xa0: y\r\n\r\n", 0),
    "empty value": (b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \t \r\n\r\n", 1),
    "CONNECT": (b"CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n" + EVIL, 0),
    "h2c": (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        1,
    ),
    "a huge Max-Forwards": (
        b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: %b\r\n\r\n" % (b"9" * 9000),
        1,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest_twisted.ensureDeferred
async def test_smuggling(behind: Callable[..., Behind], shape: str) -> None:
    """Nothing that has two readings arrives; what arrives has the framing that we give it."""
    stream, arrive = SHAPES[shape]
    there = behind(limits=HALF_OPEN)
    arrived = await there.replay([stream])
    assert len(arrived) == arrive
    told = difference([stream], arrived, b"127.0.0.1:%d" % there.recorder.server.port)
    assert not told, told
    for message in arrived:
        assert not message.upgrade
        assert value(message, b"transfer_encoding") is None
        assert value(message, b"http2-settings") is None
    there.judge()


@pytest_twisted.ensureDeferred
async def test_stock_site(behind: Callable[..., Behind]) -> None:
    """Behind twisted.web's own parser, which is laxer, the proxy still sends nothing broken."""
    there = behind(stock=True)
    streams = [[case.stream] for case in pages.load() if 0 < len(case.stream) < LONG]
    streams += [[stream] for stream, _ in SHAPES.values()]

    def send_all() -> list[Client]:
        clients = [Client(there.served.port) for _ in streams]
        for client, reads in zip(clients, streams, strict=True):
            with suppress(ConnectionError):
                client.send(*reads)
        return clients

    clients = await in_thread(send_all)
    await there.quiet()  # a FIN is a hang-up for that parser
    for client in clients:
        client.close()
    assert len(there.recorder.requests) > len(streams) / 3
    sent = there.recorder.streams
    sent[:] = [stream for stream in sent if bytes(stream).split(b" ")[0] in NODE_METHODS]
    there.judge()


AUTHORITY: Final = (b":authority", b"a")
H2_HEAD: Final = [(b":method", b"GET"), (b":scheme", b"https"), AUTHORITY, (b":path", b"/")]


def h2(*more: tuple[bytes, bytes], **pseudo: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a request, with other pseudo-header fields or without (``b""``)."""
    given = [(name, pseudo.get(name[1:].decode(), value)) for name, value in H2_HEAD]
    return [field for field in given if field[1]] + list(more)


#: What HTTP/2 can carry and HTTP/1.1 cannot, and whether anything arrives.
DOWNGRADES: Final = {
    "nothing special": (h2((b"x", b"y"), (b"te", b"trailers")), True),
    "CRLF in a value": (h2((b"x", b"y\r\nTransfer-Encoding: chunked")), False),
    "LF in a value": (h2((b"x", b"y\nX-Evil: 1")), False),
    "NUL in a value": (h2((b"x", b"y\0")), False),
    "CRLF in a name": (h2((b"x: y\r\nz", b"1")), False),
    "colon in a name": (h2((b"x:", b"1")), False),
    "space in a name": (h2((b"transfer-encoding ", b"chunked")), False),
    "upper case": (h2((b"Transfer-Encoding", b"chunked")), False),
    "transfer-encoding": (h2((b"transfer-encoding", b"chunked")), False),
    "connection": (h2((b"connection", b"x"), (b"x", b"1")), False),
    "upgrade": (h2((b"upgrade", b"websocket")), False),
    "a length too long": (h2((b"content-length", b"5"), method=b"POST"), False),
    "two lengths": (h2((b"content-length", b"0"), (b"content-length", b"5")), False),
    "a length with a sign": (h2((b"content-length", b"+0")), False),
    "space in the path": (h2(path=b"/ HTTP/1.1"), False),
    "request in the path": (h2(path=b"/ HTTP/1.1\r\nHost: b\r\n\r\nGET /evil"), False),
    "fragment in the path": (h2(path=b"/a#b"), False),
    "absolute path": (h2(path=b"http://b/"), False),
    "obs-text in the path": (h2(path=b"/\xff"), False),
    "space in the method": (h2(method=b"GET /evil"), False),
    "request in the method": (h2(method=b"GET / HTTP/1.1\r\nHost: b\r\n\r\nGET"), False),
    "userinfo in the authority": (h2(authority=b"u@a"), False),
    "path in the authority": (h2(authority=b"a/b"), False),
    "CRLF in the authority": (h2(authority=b"a\r\nX: y"), False),
    "another host": (h2((b"host", b"b")), False),
    "the same host": (h2((b"host", b"a")), True),
    "two hosts": (h2((b"host", b"a"), (b"host", b"b"), authority=b""), False),
    "an underscore": (h2((b"transfer_encoding", b"chunked"), (b"content_length", b"5")), True),
    "obs-text in a value": (h2((b"x", b"\xff\xa0")), True),
    "split cookies": (h2((b"cookie", b"a=1"), (b"cookie", b"b=2")), True),
    "CRLF in the scheme": (h2(scheme=b"https\r\nx: y"), False),
}


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
@pytest_twisted.ensureDeferred
async def test_downgrade(serve: Serve, behind: Callable[..., Behind], stock: bool) -> None:
    """What HTTP/2 carries in a field or pseudo-field cannot become more than that behind."""
    there = behind(tls=server_context(), stock=stock)

    def run(fields: list[tuple[bytes, bytes]]) -> H2Client:
        client = H2Client(there.served.port)
        frame = client.headers(fields)
        client.send(frame)
        if not stock:  # a stream that Twisted refuses has no answer
            with suppress(ConnectionError):
                client.answer(frame.stream_id)
        return client

    wrong, arrived = [], there.recorder.requests
    for name, (fields, arrives) in DOWNGRADES.items():
        before = len(arrived)
        client = await in_thread(partial(run, fields))
        if stock:
            await there.quiet()
        elif len(arrived) - before != arrives:
            wrong.append(name)
        client.close()
    assert wrong == []
    for message in arrived:
        assert message.target in (b"/", b"/a#b") and not message.body
        framing = {b"content_length", b"transfer_encoding", b"transfer-encoding", b"x-evil"}
        assert not framing & {field.lower() for field, _ in message.fields}
        assert value(message, b"content-length") in (None, b"0")
    assert arrived
    there.judge()


LENIENT: Final = {
    "control bytes": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n", 0),
    "folded": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 1),
    "LF": (b"GET / HTTP/1.1\nHost: a\nX: a\n\n", 1),
    "spaces behind a chunk size": (post(CHUNKED, body=b"1 \r\na\r\n0\r\n\r\n"), 1),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 1),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 0),
    "an invalid Host": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 0),
}


@pytest.mark.parametrize("shape", LENIENT)
@pytest_twisted.ensureDeferred
async def test_lenient_front(behind: Callable[..., Behind], shape: str) -> None:
    """What an operator lets in by choice is mended on its way out, or does not go out."""
    stream, arrive = LENIENT[shape]
    every = Lenience(bare_lf=True, control_bytes=True, obs_fold=True, spaces_after_chunk_size=True)
    there = behind(limits=Limits(require_host=False, lenience=every, allow_half_open=True))
    assert len(await there.replay([stream])) == arrive
    there.judge()
