"""What h2spec sends and how it judges (https://github.com/summerwind/h2spec, MIT), in our code.

Its cases need frames that no library writes, over a real socket; `h2spec_cases.py` has them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from hpack import Encoder
from hyperframe.frame import Frame

from .certificates import pem
from .http2_client import PREFACE, H2Client
from .processes import BIN, connect, free_port

#: RFC 9113, section 6
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITISED = 0x4, 0x8, 0x20
WHOLE = END_STREAM | END_HEADERS

#: Section 6.5.2
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6

LARGEST_WINDOW = 2**31 - 1
WORD = b"h2spec\0\0"

Field: TypeAlias = tuple[str, str]
METHOD, SCHEME, PATH = (":method", "GET"), (":scheme", "https"), (":path", "/")
AUTHORITY, POSTS = (":authority", "localhost"), (":method", "POST")

#: So long that five of these make a field block larger than a frame may be.
LONG = "x" * 4000


def block(*fields: Field) -> bytes:
    """A field block that takes nothing of the table that those before it have filled."""
    encoded: bytes = Encoder().encode(fields)
    return encoded


GET = block(METHOD, SCHEME, PATH, AUTHORITY)
POST = block(POSTS, SCHEME, PATH, AUTHORITY)
LONG_FIELD = block(("x-dummy0", LONG))


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    """Any frame, also one that is not allowed."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


def headers(fields: bytes = GET, flags: int = WHOLE, stream: int = 1) -> bytes:
    return frame(HEADERS, fields, flags, stream)


def continuation(fields: bytes = LONG_FIELD, flags: int = END_HEADERS, stream: int = 1) -> bytes:
    return frame(CONTINUATION, fields, flags, stream)


def data(content: bytes = b"test", flags: int = END_STREAM, stream: int = 1) -> bytes:
    return frame(DATA, content, flags, stream)


def urgency(on: int = 0, weight: int = 255, exclusive: bool = False) -> bytes:
    return (on | exclusive << 31).to_bytes(4, "big") + bytes([weight])


def priority(fields: bytes, stream: int = 1) -> bytes:
    return frame(PRIORITY, fields, stream=stream)


def reset(stream: int = 1, code: int = 8) -> bytes:
    return frame(RST_STREAM, code.to_bytes(4, "big"), stream=stream)


def settings(*values: tuple[int, int]) -> bytes:
    pairs = (key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values)
    return frame(SETTINGS, b"".join(pairs))


def ping(word: bytes = WORD, flags: int = 0) -> bytes:
    return frame(PING, word, flags)


def goaway(code: int) -> bytes:
    return frame(GOAWAY, bytes(4) + code.to_bytes(4, "big") + b"h2spec")


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, increment.to_bytes(4, "big"), stream=stream)


OPENING = PREFACE + settings((INITIAL_WINDOW_SIZE, 2**16 - 1))


class Peer(H2Client):
    """The client of one case, which opens no window by itself.

    Attributes:
        frames: All that has come and is not `taken`, the oldest first.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port, preface=False, windows=False)
        self.frames: list[Frame] = []

    def begin(self) -> None:
        """Send what has to come first, and wait until each side knows the other's settings."""
        self.raw(OPENING)
        self.take(SETTINGS)
        self.raw(frame(SETTINGS, flags=ACK))
        self.take(SETTINGS, ACK)

    def play(self, steps: Iterable[Step]) -> None:
        """Take one step after the other."""
        for step in steps:
            if callable(step):
                step(self)
                continue
            with suppress(OSError):  # closed already: what comes of that is the next step's
                self.raw(step)

    def take(self, kind: int, flags: int = 0, stream: int = 0) -> Any:
        """Wait for a frame of that *kind* on that *stream*, with those *flags*; forget others."""
        taken: list[Frame] = []

        def come() -> bool:
            while self.frames and not taken:
                first = self.frames.pop(0)
                if (first.type, first.stream_id) == (kind, stream) and bits(first) & flags == flags:
                    taken.append(first)
            return bool(taken)

        self.until(come)
        assert taken, f"no frame of type {kind} came on stream {stream}"
        return taken[0]

    def breaks(self, codes: tuple[int, ...], *, resets: bool = False) -> bool:
        """Whether the connection, or with *resets* a stream, has ended for one of these *codes*.

        A close without a word will do.  To h2spec a close will do after any word, too.
        """
        named: list[int | None] = [code for code, _ in self.goaways]
        if resets:
            named += [stream.reset for stream in self.streams.values()]
        return any(code in codes for code in named) or bool(self.closed and not self.goaways)

    def _received(self, frame: Frame) -> None:
        self.frames.append(frame)
        super()._received(frame)


def bits(frame: Frame) -> int:
    """The flags of *frame* as they were sent."""
    return sum(flag.bit for flag in frame.defined_flags if flag.name in frame.flags)


#: What a case does next: bytes to send, or something to wait for.
Step: TypeAlias = bytes | Callable[[Peer], object]


def connection_error(*codes: int) -> Step:
    """The connection breaks (RFC 9113, section 5.4.1)."""

    def judge(peer: Peer) -> None:
        peer.until(lambda: peer.breaks(codes))
        assert peer.breaks(codes), f"GOAWAY: {peer.goaways}"

    return judge


def stream_error(*codes: int) -> Step:
    """The stream breaks, or the connection does (section 5.4.2).

    Once the response has ended, what has not been said when a PING is answered is not said.
    """

    def judge(peer: Peer) -> None:
        def breaks() -> bool:
            return peer.breaks(codes, resets=True)

        peer.until(lambda: breaks() or peer.stream(1).ended)
        peer.play([ping()])
        peer.until(lambda: breaks() or peer.pings)
        assert breaks(), f"status {peer.stream(1).status}"

    return judge


def says(kind: int, code: int, stream: int = 0) -> Step:
    """A GOAWAY or RST_STREAM comes, with that *code*."""

    def judge(peer: Peer) -> None:
        assert peer.take(kind, stream=stream).error_code == code

    return judge


def first_settings(peer: Peer) -> None:
    """SETTINGS are the first that comes, and no acknowledgement."""
    peer.raw(OPENING).until(lambda: peer.frames)
    assert (peer.frames[0].type, bits(peer.frames[0])) == (SETTINGS, 0)


def response(peer: Peer) -> None:
    """The request is answered."""
    peer.take(HEADERS, stream=1)


def response_ends(peer: Peer) -> None:
    """The request is answered, and the stream is closed."""
    peer.answer(1)
    assert peer.stream(1).ended or peer.stream(1).reset == 0


def pong(peer: Peer) -> None:
    """The PING is answered, with its own bytes."""
    assert peer.take(PING, ACK).opaque_data == WORD


def pong_or_close(peer: Peer) -> None:
    """The PING is answered, or the connection is closed."""
    peer.until(lambda: peer.pings)
    assert peer.closed or peer.pings == [WORD]


def closes(peer: Peer) -> None:
    """The connection is closed."""
    assert peer.to_the_end().closed


def acknowledged(peer: Peer) -> None:
    """The settings are acknowledged."""
    peer.take(SETTINGS, ACK)


def octets(count: int) -> Step:
    """So many bytes of the response come, in one frame."""

    def judge(peer: Peer) -> None:
        content = peer.take(DATA, stream=1).data
        assert len(content) == count

    return judge


@contextmanager
def h2_server(folder: Path) -> Iterator[int]:
    """Serve *folder* over TLS, with an index that is longer than a case's windows; its port.

    Nothing of what clients do may end in a traceback.
    """
    keys, log, port = folder / "both.pem", folder / "log", free_port()
    keys.write_bytes(pem())
    (folder / "index.html").write_text("hello\n")
    endpoint = f"ssl:{port}:privateKey={keys}:certKey={keys}:interface=127.0.0.1"
    command = [str(BIN / "twistd"), "-n", "--pidfile=", "hangup", f"--port={endpoint}"]
    with (
        open(log, "wb") as out,
        subprocess.Popen([*command, f"--path={folder}"], stdout=out, stderr=out) as process,
    ):
        try:
            connect(port).close()
            yield port
        finally:
            process.kill()
    assert "Traceback" not in log.read_text()
