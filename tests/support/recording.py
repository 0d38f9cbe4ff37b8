"""A server that keeps every byte it gets, and says what strict parsers make of them."""

from __future__ import annotations

from contextlib import suppress

from oracle import node, ours
from oracle.node import Message, Verdict

from twisted_hangup.errors import ParseError
from twisted_hangup.events import NEED_DATA, BodyData, EndOfMessage, RequestHead
from twisted_hangup.limits import Limits
from twisted_hangup.parser import RequestParser

from .upstreams import OK, Connection, RawServer

#: How much a server may get is bounded elsewhere; here only the grammar counts.
_STRICT = Limits(head_bytes=1 << 20, head_fields=0)
_OK_TO_HEAD = OK.removesuffix(b"ok")


class Recorder:
    """Answers what passes for a request, and keeps everything.

    Attributes:
        server: Where it listens.
        begun: All of them, in the order of their heads.
        requests: The complete ones, in the order in which they ended.
        streams: The bytes of each connection; a new one begins after a request for an
            upgrade, where parsers stop.
    """

    def __init__(self) -> None:
        self.begun: list[Message] = []
        self.requests: list[Message] = []
        self._readers: list[_Reader] = []
        self.streams: list[bytearray] = []
        self.server = RawServer(self._serve)

    @property
    def reading(self) -> bool:
        """Whether a request has begun and has not ended, nor has its connection."""
        return any(reader.midway for reader in self._readers)

    def refused(self, command: str | None, *, cut: bool = False) -> list[str]:
        """What of the streams is not a whole number of well-formed requests.

        Args:
            command: A node that judges, too; without one our parser does alone.
            cut: Whether the last request of a stream may lack its end.
        """
        streams = [[bytes(stream)] for stream in self.streams if stream]
        judges = {"ours": [ours.judge(reads, _STRICT) for reads in streams]}
        if command is not None:
            judges["node"] = node.judge(command, streams)
        wrong = [
            f"{name}: {verdict.error} in {reads[0]!r}"
            for name, verdicts in judges.items()
            for reads, verdict in zip(streams, verdicts, strict=True)
            if not _is_whole(verdict, cut)
        ]
        if command is not None and not wrong:
            for reads, mine, theirs in zip(streams, *judges.values(), strict=True):
                if mine[:2] != theirs[:2]:
                    wrong.append(f"read in two ways: {reads[0]!r}")
        return wrong

    def _serve(self, connection: Connection) -> None:
        reader = _Reader(self)
        self._readers.append(reader)
        try:
            while data := connection.socket.recv(65536):
                answer = reader.read(data)
                with suppress(OSError):
                    connection.send(answer)
        except ParseError:
            pass  # `refused` tells
        finally:
            reader.midway = False


def _is_whole(verdict: Verdict, cut: bool) -> bool:
    """Whether only whole requests came; if *cut*, the last one's end may be missing."""
    parts = [one for one in verdict.messages if not (one.complete or one.upgrade)]
    ended = verdict.error is None or (cut and verdict.error.offset is None)
    return ended and (not parts or (cut and parts == verdict.messages[-1:]))


class _Reader:
    """What has come on one connection.

    Attributes:
        midway: Whether it is inside a request.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.midway = False
        self._begin()

    def _begin(self) -> None:
        self._parser = RequestParser(_STRICT)
        self._stream = bytearray()
        self._recorder.streams.append(self._stream)

    def read(self, data: bytes) -> bytes:
        """Take *data* in; the answers to what it completes.

        Raises:
            ParseError: It is not HTTP.
        """
        self._stream += data
        self._parser.receive(data)
        answer = b""
        while (event := self._parser.next_event()) is not NEED_DATA:
            if isinstance(event, RequestHead):
                self._message = _message(event)
                self.midway = True  # before anybody can see the request
                self._recorder.begun.append(self._message)
                if event.upgrade:
                    answer += self._end()
                    rest = b"".join(self._parser.unread())
                    del self._stream[len(self._stream) - len(rest) :]
                    self._begin()
                    return answer + (self.read(rest) if rest else b"")
            elif isinstance(event, BodyData):
                self._message.body += event.data
            elif isinstance(event, EndOfMessage):
                answer += self._end()
        return answer

    def _end(self) -> bytes:
        self._message.complete = not self._message.upgrade
        self._recorder.requests.append(self._message)
        self.midway = False
        return _OK_TO_HEAD if self._message.method == b"HEAD" else OK


def _message(head: RequestHead) -> Message:
    return Message(
        head.method, head.target, head.version, head.fields, head.keep_alive, head.upgrade
    )


def value(message: Message, name: bytes) -> bytes | None:
    """The one value of the field *name*, or None."""
    values = [value for own, value in message.fields if own.lower() == name]
    assert len(values) < 2, values
    return values[0] if values else None
