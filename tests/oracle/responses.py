"""Hold our reading of responses against that of Node's client.

    python -m tests.oracle.responses --record              # write tests/cases/responses.json
    python -m tests.oracle.responses --check               # compare with it
    python -m tests.oracle.responses --fuzz 100000 --seed 1

Every difference has to be one of the deviations by name; any other is printed and makes the
exit status 1.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from twisted_hangup.errors import ResponseParseError
from twisted_hangup.events import NEED_DATA, BodyData, EndOfMessage, Field, ResponseHead
from twisted_hangup.limits import Limits
from twisted_hangup.parser.response import ResponseParser

from . import fuzz
from .node import PATIENCE_SECONDS, Error, find_node
from .response_cases import CASES

RECORDING: Final = Path(__file__).parent.parent / "cases" / "responses.json"

_JUDGE: Final = Path(__file__).with_name("response_judge.js")
_BATCH: Final = 2000
_SHOWN: Final = 10


@dataclass
class Message:
    """What came out of one response; its body and trailers as far as they came."""

    status: int
    reason: bytes
    version: bytes
    fields: list[Field]
    keep_alive: bool
    upgrade: bool
    body: bytes = b""
    trailers: list[Field] | None = None
    complete: bool = False


class Verdict(NamedTuple):
    """All that came of one response.

    Attributes:
        messages: Interim ones, then the response.
        error: What ended it; at the end of input it has no offset.
        end: Index after its last byte, if it was complete; ours is None where the parser
            has closed, and dropped what came after it.
    """

    messages: list[Message]
    error: Error | None
    end: int | None


class Stream(NamedTuple):
    """What comes back, read by read, and what was asked: a method, ``+`` for an Upgrade."""

    method: str
    reads: list[bytes]

    @property
    def whole(self) -> bytes:
        return b"".join(self.reads)


# --- the verdicts ------------------------------------------------------------------------


def ours(stream: Stream, limits: Limits | None = None) -> Verdict:
    """Our parser's verdict."""
    parser = ResponseParser(limits or Limits())
    parser.expect(stream.method.rstrip("+").encode(), upgrade=stream.method.endswith("+"))
    messages: list[Message] = []
    before = 0
    try:
        for data in stream.reads:
            parser.receive(data)
            before += len(data)
            while parser.expecting and (event := parser.next_event()) is not NEED_DATA:
                if isinstance(event, ResponseHead):
                    messages.append(_message(event))
                elif isinstance(event, BodyData):
                    messages[-1].body += event.data
                elif isinstance(event, EndOfMessage):
                    messages[-1].trailers = event.trailers
                    messages[-1].complete = True
            if not parser.expecting:
                end = None if parser.closed else before - parser.buffered
                return Verdict(messages, None, end)
        parser.finish()
    except ResponseParseError as error:
        packet = error.raw_packet
        offset = None if packet is None else before - len(packet) + (error.bytes_parsed or 0)
        return Verdict(messages, Error(error.code, error.reason, offset), None)
    messages[-1].complete = True
    return Verdict(messages, None, before)


def _message(head: ResponseHead) -> Message:
    return Message(
        head.status,
        head.reason,
        head.version,
        head.fields,
        head.keep_alive,
        head.upgrade,
        trailers=[],
        complete=head.interim,
    )


def node(command: str, streams: Sequence[Stream]) -> list[Verdict]:
    """The verdicts of *command*, a node binary."""
    verdicts: list[Verdict] = []
    for start in range(0, len(streams), _BATCH):
        lines = [
            json.dumps(
                {
                    "method": stream.method.rstrip("+"),
                    "reads": [b64encode(read).decode() for read in stream.reads],
                }
            )
            for stream in streams[start : start + _BATCH]
        ]
        done = subprocess.run(
            [command, "--expose-internals", "--no-warnings", str(_JUDGE)],
            input="\n".join(lines).encode() + b"\n",
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        verdicts += [read_verdict(json.loads(line)) for line in done.stdout.splitlines()]
    return verdicts


def read_verdict(told: dict[str, Any]) -> Verdict:
    """The verdict that response_judge.js wrote."""
    messages = [
        Message(
            message["status"],
            message["reason"].encode("latin-1"),
            message["version"].encode(),
            _pairs(message["fields"]),
            message["keepAlive"],
            message["upgrade"],
            message["body"].encode("latin-1"),
            # Node hands out many trailers before it has seen the last of them.
            _pairs(message["trailers"]) if message["complete"] else [],
            message["complete"],
        )
        for message in told["messages"]
    ]
    return Verdict(messages, Error(**told["error"]) if told["error"] else None, told["end"])


def _pairs(flat: list[str]) -> list[Field]:
    texts = [text.encode("latin-1") for text in flat]
    return list(zip(texts[::2], texts[1::2], strict=True))


# --- differences -------------------------------------------------------------------------

_TE: Final = "HPE_INVALID_TRANSFER_ENCODING"

#: What we refuse and Node lets pass: code and reason -> name.
REFUSALS: Final = {
    ("HPE_INVALID_VERSION", "Invalid HTTP version"): "http-version",
    ("HPE_INVALID_CONSTANT", "Expected HTTP/"): "rtsp-ice",
    ("HPE_INVALID_STATUS", "Status code below 100"): "status-below-100",
    ("HPE_INVALID_STATUS", "Invalid character in reason phrase"): "reason-characters",
    (_TE, "Invalid `Transfer-Encoding` header value"): "te-single-chunked",
    (_TE, "Transfer-Encoding other than a single `chunked`"): "te-single-chunked",
    (_TE, "Transfer-Encoding in an HTTP/1.0 response"): "te-http-1.0",
    (_TE, "Transfer-Encoding in a 1xx or 204 response"): "length-without-body",
    (
        "HPE_UNEXPECTED_CONTENT_LENGTH",
        "Content-Length in a 1xx or 204 response",
    ): "length-without-body",
    ("HPE_INVALID_CONTENT_LENGTH", "Content-Length overflow"): "content-length-63-bits",
    ("HPE_INVALID_CHUNK_SIZE", "Chunk size overflow"): "chunk-size-digits",
    ("ERR_HTTP_INVALID_UPGRADE", "101 to a request without Upgrade"): "upgrade-agreed",
    ("ERR_HTTP_INVALID_UPGRADE", "101 without Upgrade"): "upgrade-agreed",
    (
        "ERR_HTTP_TOO_MANY_EMPTY_LINES",
        "Too many empty lines before the status line",
    ): "leading-empty-lines",
}


#: What Node refuses, at a length that says the same again.
_LENGTHS: Final = {
    ("HPE_UNEXPECTED_CONTENT_LENGTH", "Duplicate Content-Length"),
    ("HPE_INVALID_CONTENT_LENGTH", "Invalid character in Content-Length"),
}


def _repeats_length(stream: Stream, our: Verdict, their: Verdict) -> bool:
    """Whether Node stops at a repeated length, or at the comma before it, and we go on."""
    error = their.error
    if error is None or error.offset is None or error[:2] not in _LENGTHS:
        return False
    comma = stream.whole[error.offset : error.offset + 1] == b","
    further = our.error is None or our.error.offset is None or our.error.offset > error.offset
    return further and (comma or error.code == "HPE_UNEXPECTED_CONTENT_LENGTH")


def name_of(stream: Stream, our: Verdict, their: Verdict) -> str | None:
    """Name the deviation that explains why the two differ; None where nothing does."""
    method = stream.method.rstrip("+")
    last = their.messages[-1] if their.messages else None
    stopped = their.error is not None and their.error.code == "HPE_CLOSED_CONNECTION"
    if stopped and our.messages[: len(their.messages)] == their.messages:
        return "interim-close"
    if method == "CONNECT" and last is not None and not 200 <= last.status < 300:
        same = _heads(our)[: len(their.messages)] == _heads(their)
        return "connect-2xx-only" if same or our.error else None
    if _repeats_length(stream, our, their):
        return "equal-lengths"
    if our.error is None:
        kept = [replace(message, keep_alive=True) for message in our.messages]
        lasting = [replace(message, keep_alive=True) for message in their.messages]
        lengthless = last is not None and not any(
            name.lower() == b"content-length" for name, _ in last.fields
        )
        alike = kept == lasting and our.end == their.end and their.error is None
        return "head-keeps-alive" if method == "HEAD" and lengthless and alike else None
    if our.error.offset is None:
        # Node's parser is content with no response at all; its client says "socket hang up".
        nothing = all(100 <= message.status < 200 for message in their.messages)
        return "no-response" if nothing and their.error is None else None
    name = REFUSALS.get(our.error[:2])
    if their.error and their.error.offset is not None:
        # After the byte, where Node may point at the byte itself, for another reason.
        same_byte = our.error.offset - (name == "te-single-chunked")
        if their.error.offset < same_byte:
            return None
    if our.messages and _heads(our) != _heads(their)[: len(our.messages)]:
        return None
    return name


def _heads(verdict: Verdict) -> list[tuple[int, bytes, list[Field]]]:
    return [(message.status, message.reason, message.fields) for message in verdict.messages]


def _comparable(verdict: Verdict) -> Verdict:
    """Without what has no meaning: whether HTTP's connection outlives HTTP."""
    messages = [
        replace(message, keep_alive=False, body=b"") if message.upgrade else message
        for message in verdict.messages
    ]
    return verdict._replace(messages=messages)


class Difference(NamedTuple):
    """One stream that two parsers judge differently."""

    stream: Stream
    ours: Verdict
    node: Verdict


def compare(command: str, streams: list[Stream]) -> tuple[Counter[str], list[Difference]]:
    """Let both judge *streams*.

    Returns:
        How often each deviation came up, and the differences that none explains.
    """
    named: Counter[str] = Counter()
    unexplained = []
    for stream, told in zip(streams, node(command, streams), strict=True):
        name = difference(stream, told)
        if name is None:
            unexplained.append(Difference(stream, ours(stream), told))
        elif name:
            named[name] += 1
    return named, unexplained


def difference(stream: Stream, told: Verdict) -> str | None:
    """Name what explains that we do not decide as Node did; ``""`` if we do, None if nothing."""
    our, their = _comparable(ours(stream)), _comparable(told)
    if our.end is None and our.error is None:
        their = their._replace(end=None)
    return "" if our == their else name_of(stream, our, their)


# --- mutants -----------------------------------------------------------------------------

_METHODS: Final = ["GET", "GET", "GET", "GET+", "HEAD", "CONNECT"]


def mutants(count: int, seed: int) -> Iterator[Stream]:
    """Give *count* responses, each cut into reads; the same ones for the same *seed*."""
    chance = random.Random(seed)  # repeatable on purpose
    sources = [case.stream for case in CASES if case.stream]
    for _ in range(count):
        case = chance.choice(CASES)
        stream = case.stream
        for _ in range(chance.choice([0, 1, 1, 1, 2, 2, 3, 5])):
            stream = fuzz.mutate(stream, chance, sources)
        method = case.method if chance.random() < 0.7 else chance.choice(_METHODS)
        yield Stream(method, cut(stream, chance))


def cut(stream: bytes, chance: random.Random) -> list[bytes]:
    """Cut *stream* somewhere."""
    if chance.random() < 0.1:
        return [stream[at : at + 1] for at in range(len(stream))]
    cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.choice([0, 0, 1, 2, 3])))
    edges = zip([0, *cuts], [*cuts, len(stream)], strict=True)
    return [stream[start:end] for start, end in edges if start < end]


# --- the recording -----------------------------------------------------------------------


def record(command: str) -> dict[str, Any]:
    """Let Node's client judge all cases; give what is to be kept."""
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    told = node(command, [Stream(case.method, [case.stream]) for case in CASES])
    cases = {case.why: _written(verdict) for case, verdict in zip(CASES, told, strict=True)}
    return {"version": version.stdout.strip(), "cases": cases}


def _written(verdict: Verdict) -> dict[str, Any]:
    """The same as response_judge.js wrote it."""
    return {
        "messages": [
            {
                "status": message.status,
                "reason": message.reason.decode("latin-1"),
                "version": message.version.decode(),
                "fields": _flat(message.fields),
                "keepAlive": message.keep_alive,
                "upgrade": message.upgrade,
                "body": message.body.decode("latin-1"),
                "trailers": _flat(message.trailers or []),
                "complete": message.complete,
            }
            for message in verdict.messages
        ],
        "error": verdict.error and verdict.error._asdict(),
        "end": verdict.end,
    }


def _flat(fields: list[Field]) -> list[str]:
    return [text.decode("latin-1") for field in fields for text in field]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    options = argparse.ArgumentParser(description="Hold our reading of responses against Node's.")
    what = options.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", action="store_true", help="ask about every case, and keep it")
    what.add_argument("--check", action="store_true", help="ask, and compare with what is kept")
    what.add_argument("--fuzz", type=int, metavar="COUNT", help="compare on so many mutants")
    options.add_argument("--seed", type=int, default=0, help="which ones")
    options.add_argument("--node", help="a node binary (default: $NODE, or the one on PATH)")
    chosen = options.parse_args(arguments)
    command = find_node(chosen.node)
    if command is None:
        _say("skipped: no node (name one with --node or $NODE)")
        return 0
    if chosen.fuzz:
        return _fuzz(command, chosen.fuzz, chosen.seed)
    said = record(command)
    if chosen.record:
        lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in said["cases"].items())
        RECORDING.write_text(
            f'{{"version": {json.dumps(said["version"])}, "cases": {{\n{lines}\n}}}}\n'
        )
        _say(f"{len(CASES)} cases recorded from Node {said['version']}")
        return 0
    kept = json.loads(RECORDING.read_text())["cases"]
    other = [
        name for name in {**kept, **said["cases"]} if kept.get(name) != said["cases"].get(name)
    ]
    _say(f"{len(CASES)} cases, {len(other)} differ: {other}")
    return 1 if other else 0


def _fuzz(command: str, count: int, seed: int) -> int:
    total: Counter[str] = Counter()
    unexplained: list[Difference] = []
    for done in range(0, count, _BATCH):
        streams = list(mutants(min(_BATCH, count - done), seed + done))
        named, questions = compare(command, streams)
        total += named
        unexplained += questions
        if len(unexplained) > _SHOWN:
            break
    for stream, our, their in unexplained[:_SHOWN]:
        _say(f"{stream.method} {stream.whole!r}\n  ours {our}\n  node {their}")
    for name, times in total.most_common():
        _say(f"{times:8} {name}")
    _say(f"{count} mutants, {len(unexplained)} unexplained differences")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
