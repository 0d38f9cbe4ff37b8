"""``python -m twisted_hangup explain``: what would the server say to these bytes?

They are judged with the limits that a server has when nothing else is said.  Lines of an
``--error-log`` are explained, too.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any, BinaryIO, Final

from ..errors import ParseError
from ..events import NEED_DATA, BodyData, EndOfMessage, RequestHead
from ..limits import KIB, MIB
from ..parser.request import RequestParser
from ..report.masking import DEFAULT_POLICY, UNMASKED, MaskingPolicy
from ..report.text import visible
from ..server.headers import HeadersCache
from .explanation import AsJson, AsText, Unreadable, excerpt
from .hexdump import Paint

#: How much a server reads at a time.
_READ_BYTES: Final = 64 * KIB

#: A line of the error log is shorter, whatever a client has sent.
_LONGEST_LOG_LINE: Final = MIB

_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})*")

#: What may stand between the digits of --hex.
_BETWEEN_HEX: Final = re.compile(r"0x|\\x|[\s:,]", re.I)


def add_explain_command(commands: Any) -> None:
    """Add ``explain`` to argparse's subcommands; it sets ``run``, called with the options."""
    parser = commands.add_parser(
        "explain",
        help="tell what the server would say to some bytes",
        description="Tell what the server would say to the bytes in FILE, or in standard input. "
        "Lines of an --error-log are explained, too. The exit status is 0 where the server "
        "would serve all of it, 1 where it would not, and 2 where the input cannot be read.",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="- is standard input")
    parser.add_argument("--hex", action="store_true", help="the input is hexadecimal digits")
    parser.add_argument("--json", action="store_true", help="write an object per line")
    parser.add_argument("--unmasked", action="store_true", help="hide no credentials")
    parser.add_argument("--code", help="explain this code, such as HPE_STRICT, and read nothing")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """Explain what *options* name; the exit status."""
    show = AsJson() if options.json else AsText(Paint.for_terminal(sys.stdout))
    policy = UNMASKED if options.unmasked else DEFAULT_POLICY
    try:
        if options.code is not None:
            show.code(options.code)
            return 0
        if options.file == "-":
            return _explain(sys.stdin.buffer, options.hex, policy, show)
        with open(options.file, "rb") as file:
            return _explain(file, options.hex, policy, show)
    except (OSError, Unreadable) as problem:
        if isinstance(problem, BrokenPipeError):
            raise
        said = problem.strerror if isinstance(problem, OSError) else str(problem)
        name = "" if options.code is not None else f"{visible(options.file)}: "
        print(f"explain: {name}{said}", file=sys.stderr)
        return 2


def _explain(file: BinaryIO, is_hex: bool, policy: MaskingPolicy, show: AsJson | AsText) -> int:
    if is_hex:
        data = _from_hex(file.read())
    else:
        # Line by line, so that `tail -f errors.log | ... explain` shows each as it comes.
        data = file.readline(_LONGEST_LOG_LINE)
        if (record := _log_record(data)) is not None:
            show.record(record)
            for line in file:
                if line.strip():
                    show.record(_log_record(line) or _no_record())
            return 1
        data += file.read()
    return _judge(data, policy, show)


def _judge(data: bytes, policy: MaskingPolicy, show: AsJson | AsText) -> int:
    """Show what a server would make of *data* and then the end of input."""
    parser, headers = RequestParser(), HeadersCache()
    head, body_bytes, served = None, 0, 0
    try:
        for start in range(0, len(data), _READ_BYTES):
            parser.receive(data[start : start + _READ_BYTES])
            while (event := parser.next_event()) is not NEED_DATA:
                if isinstance(event, RequestHead):
                    head, body_bytes = event, 0
                    headers.headers(head.fields)
                    refused = _refused(head, headers)
                    show.request(head, policy, refused)
                    if refused:
                        return 1
                elif isinstance(event, BodyData):
                    body_bytes += len(event.data)
                elif isinstance(event, EndOfMessage):
                    assert head is not None
                    served += 1
                    show.end(body_bytes, event, head.keep_alive)
        parser.finish()
    except ParseError as error:
        show.error(error, policy)
        return 1
    if not served:
        show.nothing(len(data))
    return 0


def _refused(head: RequestHead, headers: HeadersCache) -> int | None:
    """The status that a well-formed request gets which no resource may see."""
    if head.method == b"CONNECT":
        return 501
    return 417 if not headers.expectation_known and head.version == b"1.1" else None


def _from_hex(text: bytes) -> bytes:
    digits = _BETWEEN_HEX.sub("", text.decode("latin-1"))
    if not _HEX.fullmatch(digits):
        raise Unreadable("not an even number of hexadecimal digits")
    return bytes.fromhex(digits)


def _log_record(line: bytes) -> dict[str, Any] | None:
    """*line* as a record of the error log, or None if it is something else.

    Raises:
        Unreadable: It is one, and its packet cannot be read.
    """
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("code"), str):
        return None
    if not isinstance(record.get("time"), str):
        return None
    excerpt(record)
    return record


def _no_record() -> dict[str, Any]:
    raise Unreadable("a line in the middle is none of an error log")
