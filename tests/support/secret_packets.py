"""Messages with a secret in them, torn in and around it, and all that is shown of their errors.

    python -m tests.support.secret_packets --count 1000000 --seed 1

makes as many, and prints the first ones whose secret shows: more than four of its bytes in a
row, in the report, the JSON of error log and status page, or the line on the console.  Exit
status 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent

from twisted_hangup.errors import RecordedError
from twisted_hangup.events import NEED_DATA
from twisted_hangup.journal.console import ConsoleLog
from twisted_hangup.journal.error_log import RAW_PACKET_BYTES
from twisted_hangup.journal.journal import Entry
from twisted_hangup.journal.records import error_record
from twisted_hangup.parser import RequestParser, ResponseParser
from twisted_hangup.report import MaskingPolicy, masked_packet
from twisted_hangup.status.snapshots import entry_record

POLICY: Final = MaskingPolicy(frozenset({b"X-Api-Key"}))

#: As many bytes of a secret may be seen in a row.
MOST_SHOWN: Final = 4

#: What secrets are of; no word of a report has five of these in a row.
_LETTERS: Final = b"123456789QXZJKVqxzjkv"
_MARKS: Final = b"+/=-._~:;"

_CUTS: Final = [b"\r", b"\n", b" ", b"\t", b"\x00", b"\r\n", b"\r\n\r\n"]
_MOST_CUTS: Final = 4
#: How far from the secret a message is torn.
_AROUND: Final = 24

_SECRET: Final = b"\x1a"

_PLAIN_LINE: Final = b"GET /p HTTP/1.1\r\n"
_TARGETS: Final = [
    *(b"GET /p?token=\x1a HTTP/1.1\r\n", b"GET /a/b?c=d&e=\x1a&f=g HTTP/1.1\r\n"),
    *(b"GET http://u:\x1a@h/p HTTP/1.1\r\n", b"PUT http://\x1a@h:80/?q HTTP/1.1\r\n"),
    *(b"GET //u:\x1a@h/ HTTP/1.1\r\n", b"OPTIONS http://h/?\x1a HTTP/1.1\r\n"),
    *(b"CONNECT u:\x1a@h:443 HTTP/1.1\r\n", b"CONNECT /u:\x1a@h:443 HTTP/1.1\r\n"),
    *(b"GET /p#\x1a HTTP/1.1\r\n", b"DELETE /proxy/http://u:\x1a@h/ HTTP/1.0\r\n"),
]
_FIELDS: Final = [
    *(b"Authorization: Basic \x1a\r\n", b"authorization:Bearer \x1a\r\n"),
    *(b'Authorization: Digest username="u", uri="/p", response="\x1a"\r\n',),
    *(b"Authorization: \x1a\r\n", b"Proxy-Authorization: Basic \x1a\r\n"),
    *(b"Cookie: a=b; sid=\x1a\r\n", b"Cookie: sid=\x1a; a=b\r\n", b"X-Api-Key: \x1a\r\n"),
    *(b"COOKIE:\x1a\r\n", b"Set-Cookie: a=\x1a; Path=/; Secure\r\n"),
]
_PLAIN_FIELDS: Final = [
    *(b"Host: a\r\n", b"Accept: */*\r\n", b"User-Agent: x/1 (y; z)\r\n", b"X-Trace: ab:cd\r\n"),
    *(b"My-Own: 1\r\n", b"E:\r\n", b"Content-Type: text/plain\r\n"),
]
_BODIES: Final = [
    *(b"\r\n", b"\r\n", b"Content-Length: 5\r\n\r\nhello"),
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
]
_GARBAGE: Final = [b"", b"", b"", b"X: \x01\r\n\r\n", b'{"a": "b"}\r\n', b"SSH-2.0-x\r\n"]


class Torn(NamedTuple):
    """A message, read by read, and its secret."""

    reads: list[bytes]
    secret: bytes
    response: bool


def torn_messages(count: int, seed: int) -> Iterator[Torn]:
    """Give *count* of them, the same ones for the same *seed*."""
    chance = random.Random(seed)  # repeatable on purpose
    for _ in range(count):
        response = chance.random() < 0.1
        secret = _secret(chance)
        stream = _message(chance, response)
        at = stream.index(_SECRET)
        if b"@" in stream:
            secret = secret.replace(b"/", b"~")  # userinfo has none (RFC 3986, section 3.2.1)
        stream = stream.replace(_SECRET, secret)
        low, high = max(0, at - _AROUND), at + len(secret) + 6
        for _ in range(chance.randint(1, _MOST_CUTS)):
            place = chance.randint(low, min(high, len(stream)))
            stream = stream[:place] + chance.choice(_CUTS) + stream[place:]
        ends = sorted(chance.randint(0, len(stream)) for _ in range(chance.choice([0, 0, 1, 2])))
        starts = [0, *ends]
        reads = [stream[a:b] for a, b in zip(starts, [*ends, len(stream)], strict=True)]
        yield Torn([read for read in reads if read], secret, response)


def _secret(chance: random.Random) -> bytes:
    letters = [chance.choice(_LETTERS) for _ in range(chance.randint(5, 24))]
    for _ in range(chance.choice([0, 0, 1, 3])):
        letters[chance.randrange(len(letters))] = chance.choice(_MARKS)
    return bytes(letters)


def _message(chance: random.Random, response: bool) -> bytes:
    """A message with a place for a secret, and what may stand before and after it."""
    fields = [chance.choice(_PLAIN_FIELDS) for _ in range(chance.randint(0, 3))]
    body = chance.choice(_BODIES)
    start = b"HTTP/1.1 200 OK\r\n" if response else _PLAIN_LINE
    where = "field" if response else chance.choice(["target", "field", "field", "trailer"])
    if where == "target":
        start = chance.choice(_TARGETS)
    elif where == "field":
        fields.insert(chance.randint(0, len(fields)), chance.choice(_FIELDS))
    else:
        trailer = chance.choice(_FIELDS) + chance.choice(_PLAIN_FIELDS)
        body = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + trailer + b"\r\n"
    if not response and chance.random() < 0.9:
        fields.insert(0, b"Host: a\r\n")
    before = _PLAIN_LINE + b"Host: a\r\n\r\n" if not response and chance.random() < 0.2 else b""
    after = chance.choice(_GARBAGE)
    return before + start + b"".join(fields) + body + after


def error_of(torn: Torn) -> RecordedError | None:
    """What is wrong with it, if anything is."""
    parser: RequestParser | ResponseParser
    if torn.response:
        parser = ResponseParser()
        parser.expect(b"GET", upgrade=False)
    else:
        parser = RequestParser()
    try:
        for read in torn.reads:
            parser.receive(read)
            while parser.next_event() is not NEED_DATA:
                pass
        parser.finish()
    except RecordedError as error:
        return error
    return None


def outlets(error: RecordedError) -> dict[str, str]:
    """All that leaves the process of *error*, base64 undone, by where it is seen."""
    error.masking = POLICY
    record = error_record(error, POLICY, masked_packet(error, RAW_PACKET_BYTES, POLICY))
    entry = entry_record(Entry(1, 0.0, error, None, True), POLICY)
    lines: list[str] = []
    console = ConsoleLog(Clock(), policy=POLICY, logger=_Lines(lines))
    console(error)
    console.close()
    return {
        "report": error.report(),
        "error log": _plain(record),
        "status page": _plain(entry),
        "console": "\n".join(lines),
    }


class _Lines(Logger):
    """A logger that only writes its lines down."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def warn(self, format: str | None = None, **values: object) -> None:  # noqa: A002
        self._lines.append(formatEvent({"log_format": format, **values}) + str(values))

    debug = warn


def _plain(record: dict[str, Any]) -> str:
    packet = b64decode(record["raw_packet"] or "").decode("latin-1")
    return packet + "\n" + json.dumps({**record, "raw_packet": None})


def shown_of(secret: bytes, text: str) -> str | None:
    """The first part of *secret* that *text* shows, if it is too long."""
    letters, length = secret.decode("ascii"), MOST_SHOWN + 1
    parts = (letters[at : at + length] for at in range(len(letters) - length + 1))
    return next((part for part in parts if part in text), None)


def leaks(torn: Torn) -> dict[str, str]:
    """Where the secret of *torn* shows, and what is seen there."""
    error = error_of(torn)
    if error is None:
        return {}
    return {name: text for name, text in outlets(error).items() if shown_of(torn.secret, text)}


def main() -> int:
    """Run the command; return its exit status."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--count", type=int, default=1_000_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--shown", type=int, default=5, help="leaks that are printed")
    asked = options.parse_args()
    seen: Counter[str] = Counter()
    for torn in torn_messages(asked.count, asked.seed):
        shown = leaks(torn)
        seen.update(shown.keys())
        if shown:
            seen["leaks"] += 1
            if seen["leaks"] <= asked.shown:
                print(torn, *(f"--- {name}\n{text}" for name, text in shown.items()), sep="\n")
    print(
        f"{asked.count:,} packets, {seen['leaks']:,} show more than {MOST_SHOWN} bytes", dict(seen)
    )
    return 1 if seen["leaks"] else 0


if __name__ == "__main__":
    sys.exit(main())
