"""Whatever a client sends, what the proxy sends on is well-formed, and the same requests.

Every byte that reaches the server is kept and read again by strict parsers: ours, and Node's
where ``NODE`` names one.  Every test runs twice: bodies are held, and they are passed on while
they come, however small.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from ssl import SSLError
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import pytest_twisted
from oracle import fuzz, node, ours, pages
from oracle.node import Message
from support.certificates import server_context
from support.http2_client import H2Client
from support.processes import free_port, listens
from support.recording import Recorder, value
from support.wire import Client, Serve, in_thread, settled, until, wait_for
from twisted.web.server import Site

from twisted_hangup.limits import NODE_METHODS, Lenience, Limits
from twisted_hangup.parser.grammar import HOST
from twisted_hangup.proxy import ProxyResource
from twisted_hangup.server import bodies

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
    """A proxy and the recorder behind it.

    Args:
        streams: Whether bodies go on while they come.
        nginx: Whether there is an nginx between the two.
    """

    def __init__(
        self,
        serve: Serve,
        streams: bool,
        nginx: bool = False,
        stock: bool = False,
        **arguments: Any,
    ) -> None:
        self.streams, self.tls = streams, "tls" in arguments
        self.recorder = Recorder()
        self._stop = ExitStack()
        url = self.recorder.server.url
        if nginx:
            url = self._stop.enter_context(nginx_before(url))
        self.proxy = Counted(url, buffer_requests=not streams)
        site = Site(self.proxy) if stock else self.proxy
        if stock:
            # A connection each: some methods that it lets pass are unknown to the judges.
            self.proxy.pool._most_idle = 0
        else:
            arguments.setdefault("parsePOSTFormSubmission", False)
        self.served = serve(site, **arguments)

    async def replay(self, reads: Sequence[bytes], waits: int = 0) -> list[Message]:
        """Send *reads* over a connection of their own; the requests that came out behind.

        The last may lack its end.

        Args:
            waits: After how many reads a request has to begin before the rest is sent.
        """
        recorder = self.recorder
        before = len(recorder.begun)

        def run() -> None:
            client = Client(self.served.port, tls=self.tls)
            # A refusal may come, and the end of the connection, before all is sent.
            with suppress(ConnectionError, SSLError):
                client.send(*reads[:waits])
                if waits:
                    wait_for(lambda: len(recorder.begun) > before)
                client.send(*reads[waits:])
                if not self.tls:
                    client.end()
            with suppress(ConnectionError, SSLError):
                client.read_all()
            client.close()

        await in_thread(run)
        await until(lambda: not recorder.reading)
        return recorder.begun[before:]

    async def quiet(self) -> None:
        """Let the reactor run until all is answered that has been sent to the proxy."""
        before = -1
        while before < self.proxy.begun:
            before = self.proxy.begun
            await until(lambda: self.proxy.over == self.proxy.begun)
            await settled(50)

    def judge(self) -> None:
        """All that arrived is well-formed."""
        refused = self.recorder.refused(node.find_node(), cut=self.streams)
        assert not refused, "\n".join(refused)

    def close(self) -> None:
        pytest_twisted.blockon(self.proxy.pool.close())
        self._stop.close()
        self.recorder.server.close()


@contextmanager
def nginx_before(url: str) -> Iterator[str]:
    """An nginx before *url* that passes bodies on while they come; its URL."""
    port = free_port()
    with TemporaryDirectory() as folder:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        settings = Path(folder, "nginx.conf")
        settings.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log crit;"
            "events {} http { access_log off; proxy_request_buffering off; proxy_http_version 1.1;"
            f"{''.join(f'{kind}_temp_path {folder};' for kind in kinds)}"
            "large_client_header_buffers 4 32k; client_max_body_size 0; proxy_next_upstream off;"
            "proxy_set_header Host $http_host;"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {url}; }} }} }}"
        )
        command = ["nginx", "-e", "stderr", "-c", str(settings)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
            try:
                wait_for(lambda: listens(port))
                yield f"http://127.0.0.1:{port}"
            finally:
                running.kill()  # SIGTERM is lost on it if it comes just before it waits for events


@pytest.fixture(params=["held", "streamed"])
def behind(
    serve: Serve, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Behind]]:
    all_made: list[Behind] = []
    streams = request.param == "streamed"
    if streams:
        monkeypatch.setattr(bodies, "LARGEST_HELD", 0)

    def make(**arguments: Any) -> Behind:
        all_made.append(Behind(serve, streams, **arguments))
        return all_made[-1]

    yield make
    for one in all_made:
        one.close()


#: Ends a connection, where no FIN does without an end of TLS.
LAST: Final = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


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


def difference(
    reads: Sequence[bytes], begun: list[Message], authority: bytes, streams: bool
) -> str:
    """What is wrong with what has *begun* to arrive of *reads*, or nothing."""
    asked, all_told = expected(reads)
    arrived = [message for message in begun if message.complete or message.upgrade]
    wanted = [outline(message, authority) for message in asked]
    got = [outline(message, authority) for message in arrived]
    if wrong := wrong_part(reads, begun, authority, streams):
        return wrong
    if not all_told:  # of a request for an upgrade our judge has read no body
        got = got[: len(wanted)]
        wanted, got = ([*one[:-1], *(last[:3] for last in one[-1:])] for one in (wanted, got))
    if wanted != got:
        return f"{list(reads)!r}\n  asked   {wanted}\n  arrived {got}"
    for message in begun:
        length, coding = value(message, b"content-length"), value(message, b"transfer-encoding")
        chunked = coding == b"chunked" and streams
        if (coding is not None and not chunked) or (length and coding):
            return f"{list(reads)!r}: framed by {length!r} and {coding!r}"
        if message.body and not (length or coding):
            return f"{list(reads)!r}: not framed"
    return ""


def wrong_part(
    reads: Sequence[bytes], begun: list[Message], authority: bytes, streams: bool
) -> str:
    """What is wrong with the request that has no end, or nothing.

    It is the beginning of the one that the client has not ended, or has broken.
    """
    parts = [message for message in begun if not (message.complete or message.upgrade)]
    if not parts:
        return ""
    if not streams or parts != begun[-1:]:
        return f"{list(reads)!r}: begun in vain: {parts}"
    *same, body = outline(parts[0], authority)
    sent = [
        outline(message, authority)
        for message in ours.judge(reads, Limits()).messages
        if not message.complete
    ]
    if not any([*one[:-1]] == same and one[-1].startswith(body) for one in sent):
        return f"{list(reads)!r}\n  sent {sent}\n  begun {parts}"
    return ""


async def replay_all(behind: Behind, streams: Sequence[Sequence[bytes]]) -> None:
    authority = behind.proxy.upstream.authority
    told = [
        difference(reads, await behind.replay(reads), authority, behind.streams)
        for reads in streams
    ]
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
    "HTTP/0.9": (b"GET /\r\n\r\n" + EVIL, 0),
    "HTTP/1.10": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 0),
    "a version that overflows": (b"GET / HTTP/4294967297.1\r\nHost: a\r\n\r\n", 0),
    "a method that is no token": (b'G=":<e>" / HTTP/1.1\r\nHost: a\r\n\r\n', 0),
    "a target that is none": (b"GET ! HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    "LF in the request line": (b"GET /\nHTTP/1.1\r\nHost: a\r\n\r\n", 0),
    "no colon": (post(b"Content-Length 3", body=b"abc"), 0),
    "name over two lines": (post(b"Transfer-", b"Encoding: chunked", body=b"0\r\n\r\n"), 0),
    "no name": (post(b": x", b"Content-Length: 3", body=b"abc"), 0),
    "neither name nor value": (post(b":", CHUNKED, body=b"0\r\n\r\n"), 0),
    "first name indented": (b"POST / HTTP/1.1\r\n\tHost: a\r\nContent-Length: 1\r\n\r\nX", 0),
    "CR before a name": (b"GET / HTTP/1.1\r\nHost: a\r\n\rZGET /evil: HTTP/1.1\r\n\r\n", 0),
    "TE with obs-text": (post(b"Transfer-Encoding: \xa0chunked\x85", body=b"0\r\n\r\n"), 0),
    "TE after a comma": (post(b"Transfer-Encoding: ,chunked", body=b"0\r\n\r\n"), 0),
    "TE unknown": (post(b"Transfer-Encoding: cow", body=b"1\r\na\r\n0\r\n\r\n"), 0),
    "TE identity": (post(b"Transfer-Encoding: identity", b"Content-Length: 3", body=b"abc"), 0),
    "TE twice": (post(CHUNKED, CHUNKED, body=b"1\r\na\r\n0\r\n\r\n"), 0),
    "CL empty": (post(b"Content-Length: ", b"Content-Length: 31", body=EVIL), 0),
    "CL with obs-text": (post(b"Content-Length\x85: 31", body=EVIL), 0),
    "CL hexadecimal": (post(b"Content-Length: 0x3", body=b"abc"), 0),
    "CL underscore": (post(b"Content-Length: 3_1", body=EVIL), 0),
    "CL minus": (post(b"Content-Length: -1", body=EVIL), 0),
    "CL with a zero": (post(b"Content-Length: 031", body=EVIL), 1),
    "CL with a tail": (post(b"Content-Length: 3x", body=b"abc"), 0),
    "NUL in Host": (b"GET / HTTP/1.1\r\nHost: a\0.b\r\n\r\n", 0),
    "Expect and pipelined": (
        post(b"Expect: 100-continue", b"Content-Length: 3", body=b"abc" + EVIL),
        2,
    ),
    "a huge Max-Forwards": (
        b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: %b\r\n\r\n" % (b"9" * 9000),
        1,
    ),
}


#: More than is held.
LARGE: Final = b"x" * (bodies.LARGEST_HELD + 1)
ALL: Final = b"0\r\n\r\n"

#: Of these more has to come.
UNENDED: Final = (b"", b"1f\r\nGET", b"100000003\r\nabc\r\n" + ALL, b"0\r\n", b"0\r\nX: y")

#: What comes after a first chunk that was passed on, and whether the request is then whole.
LATE: Final = {
    "the end": (ALL, True),
    "another chunk": (b"3\r\nabc\r\n" + ALL, True),
    "leading zeros": (b"00000003\r\nabc\r\n0000\r\n\r\n", True),
    "an extension": (b'3;a=b;c="d;\\""\r\nabc\r\n0;e\r\n\r\n', True),
    "trailers": (b"0\r\nX: y\r\nHost: b\r\nAuthorization: z\r\n\r\n", True),
    "a trailer that looks like a request": (b"0\r\nX:POST / HTTP/1.1\r\n\r\n", True),
    "a request in a chunk": (b"1f\r\n" + EVIL + b"\r\n" + ALL, True),
    "an end in a chunk": (b"5\r\n0\r\n\r\n\r\n" + ALL, True),
    **{f"FIN after {tail!r}": (tail, False) for tail in UNENDED},
    "0x": (b"0x3\r\nabc\r\n" + ALL, False),
    "an underscore": (b"0_2e\r\n\r\n" + EVIL + ALL, False),
    "a plus": (b"+3\r\nabc\r\n" + ALL, False),
    "a minus": (b"-3\r\nabc\r\n" + ALL, False),
    "a space before": (b" 3\r\nabc\r\n" + ALL, False),
    "a space after": (b"3 \r\nabc\r\n" + ALL, False),
    "a tab after": (b"0\t\r\n\r\n", False),
    "a vertical tab": (b"\x0b3\r\nabc\r\n" + ALL, False),
    "a NUL": (b"3\0\r\nabc\r\n" + ALL, False),
    "no size": (b"\r\n\r\n" + ALL, False),
    "no digit": (b"xyz\r\n" + EVIL, False),
    "an extension without a size": (b";a\r\nabc\r\n" + ALL, False),
    "64 bits too many": (b"10000000000000003\r\nabc\r\n" + ALL, False),
    "more digits than anybody reads": (b"0" * 10_000 + b"3\r\nabc\r\n" + ALL, False),
    "LF after the size": (b"3\nabc\r\n" + ALL, False),
    "CR after the size": (b"3\rabc\r\n" + ALL, False),
    "CR CR": (b"2\r\r;a\r\n02\r\n41\r\n" + ALL + EVIL, False),
    "CR in an extension": (b"1;a\rb\r\nX\r\n" + ALL, False),
    "LF in an extension": (b"1;a\nX\r\n" + ALL, False),
    "NUL in an extension": (b"1;a\0\r\nX\r\n" + ALL, False),
    "LF after the data": (b"3\r\nabc\n" + ALL, False),
    "an empty line before the end": (b"\r\n" + ALL, False),
    "signs before 0x": (b"-0x0\r\n\r\n", False),
    "nothing after the data": (b"3\r\nabc" + ALL, False),
    "data that is too long": (b"3\r\nabcd\r\n" + ALL, False),
    "data that is too short": (b"5\r\nabc\r\n" + ALL + EVIL, False),
    "an end with LF": (b"0\n\r\n", False),
    "an end with LF LF": (b"0\r\n\n" + EVIL, False),
    "an end with two bytes": (b"0\r\nXX" + EVIL, False),
    "a trailer that frames": (b"0\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    "a trailer that has a length": (b"0\r\nContent-Length: 31\r\n\r\n" + EVIL, False),
    "a folded trailer": (b"0\r\nX: y\r\n z\r\n\r\n", False),
    "a trailer with LF": (b"0\r\nX: y\nZ: 1\r\n\r\n", False),
    "a trailer that is a request": (b"0\r\nGET /evil HTTP/1.1\r\n\r\n", False),
}


#: Where a client's bytes come in, and what takes what the proxy sends on.
WAYS: Final = pytest.mark.parametrize("way", ["tcp", "tls", "nginx"])


def on_way(behind: Callable[..., Behind], way: str) -> Behind:
    if way == "tls":
        return behind(tls=server_context())
    if way == "nginx" and shutil.which("nginx") is None:
        pytest.skip("no nginx (Debian: apt-get install nginx-light)")
    return behind(limits=HALF_OPEN, nginx=way == "nginx")


async def arrived(there: Behind, *reads: bytes, waits: int = 0) -> list[Message]:
    """What begins to arrive of *reads*, in which there is nothing wrong."""
    sent = [*reads, LAST] if there.tls else [*reads]
    begun = await there.replay(sent, waits)
    wrong = difference(sent, begun, there.proxy.upstream.authority, there.streams)
    assert not wrong, wrong
    for message in begun:
        assert not message.upgrade
        assert value(message, b"transfer_encoding") is None
        assert value(message, b"http2-settings") is None
    there.judge()
    return [message for message in begun if message.target != b"/last"]


@WAYS
@pytest.mark.parametrize("shape", SHAPES)
@pytest_twisted.ensureDeferred
async def test_smuggling(behind: Callable[..., Behind], shape: str, way: str) -> None:
    """Nothing that has two readings arrives; what arrives has the framing that we give it."""
    stream, arrive = SHAPES[shape]
    begun = await arrived(on_way(behind, way), stream)
    assert sum(message.complete for message in begun) == arrive


@WAYS
@pytest_twisted.ensureDeferred
async def test_late_smuggling(behind: Callable[..., Behind], way: str) -> None:
    """A body that breaks after a part of it was passed on has no end at the server."""
    there = on_way(behind, way)
    for name, (tail, whole) in LATE.items():
        if there.tls and tail in UNENDED:
            continue  # no FIN ends it
        head = post(CHUNKED, body=b"%x\r\n" % len(LARGE))
        waits = 2 if there.streams else 0
        begun = await arrived(there, head, LARGE, b"\r\n" + tail, waits=waits)
        if there.streams or whole:
            assert [message.complete for message in begun] == [whole], name
        else:
            assert begun == [], name


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
    "no name": (h2((b"", b"x")), False),
    "white space around a value": (h2((b"x", b"\ty ")), False),
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


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest_twisted.ensureDeferred
async def test_length_over_http2(behind: Callable[..., Behind], more: int) -> None:
    """A body of another length than was announced has no end at the server; nor has it trailers."""
    there = behind(tls=server_context())
    recorder = there.recorder
    announced = (b"content-length", b"%d" % (len(LARGE) + 10))

    def run() -> bool:
        upload = H2Client(there.served.port)
        head = upload.headers(h2(announced, method=b"POST"), end=False)
        upload.send(head)
        for start in range(0, len(LARGE), 16_000):
            upload.until(lambda: upload.room(head.stream_id) >= 16_000)
            upload.data(head.stream_id, LARGE[start : start + 16_000], end=False)
        if there.streams:
            wait_for(lambda: recorder.begun)
        upload.data(head.stream_id, b"y" * (10 + more), end=False)
        upload.send(upload.headers([(b"x", b"y")], stream=head.stream_id))
        status = upload.answer(head.stream_id).status
        upload.close()
        return status == 200

    assert await in_thread(run) == (more == 0)
    await until(lambda: not recorder.reading)
    if there.streams or not more:
        (message,) = recorder.begun
        assert message.complete == (more == 0) and not message.trailers
        assert (LARGE + b"y" * 10).startswith(message.body)
    else:
        assert recorder.begun == []
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
    assert sum(message.complete for message in await there.replay([stream])) == arrive
    there.judge()
