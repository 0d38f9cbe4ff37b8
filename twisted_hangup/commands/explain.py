"""``python -m twisted_hangup explain``: what would the server answer to these bytes?

It judges them with a server's default limits.  It explains lines of an ``--error-log``, too.

Whatever the bytes are, and whoever wrote the log, the output is printable ASCII, with colours on a
terminal that wants them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from base64 import b64decode
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final

from ..errors import ParseError
from ..events import NEED_DATA, BodyData, EndOfMessage, RequestHead
from ..journal.error_log import RAW_PACKET_BYTES
from ..journal.records import error_record
from ..limits import KIB, MIB
from ..parser.framing import unserved_status
from ..parser.request import RequestParser
from ..report.links import link_of, url_of
from ..report.lookalikes import LOOKALIKES, Advice, advice_of, lookalike_of
from ..report.masking import DEFAULT_POLICY, UNMASKED, MaskingPolicy, culprit_index, mask_target
from ..report.remedies import entry_of
from ..report.report import Excerpt, byte_name, masked_packet
from ..report.rules import rule_of
from ..report.text import visible
from .code import paragraph, unknown
from .hexdump import Paint, picture
from .problem import CommandError

#: How much a server reads at a time.
_READ_BYTES: Final = 64 * KIB

#: A line of the error log is shorter, whatever a client has sent.
_LONGEST_LOG_LINE: Final = MIB

_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})*")

#: Allowed between the digits of --hex.
_BETWEEN_HEX: Final = re.compile(r"0x|\\x|[\s:,]", re.I)


def add_explain_command(commands: Any) -> None:
    """Add ``explain`` to argparse's subcommands; it sets ``run``, called with the options."""
    parser = commands.add_parser(
        "explain",
        help="show what the server would answer to some bytes",
        description="Show what the server would answer to the bytes in FILE or on standard input, "
        "and where they break. Explain lines of an --error-log, too. The exit status is 0 if the "
        "server would serve all of it, 1 if it would not, and 2 if the input cannot be read.",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="- is standard input")
    parser.add_argument("--hex", action="store_true", help="the input is hexadecimal digits")
    parser.add_argument("--json", action="store_true", help="write a JSON object per line")
    parser.add_argument("--unmasked", action="store_true", help="do not mask credentials")
    parser.add_argument("--code", help="explain a code, such as HPE_STRICT, and read no input")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """Explain what *options* name; the exit status.

    Raises:
        CommandError: The input cannot be read, or there is no such code.
    """
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
    except BrokenPipeError:
        raise
    except (OSError, Unreadable) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise CommandError(f"{visible(options.file)}: {reason}") from None


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
    parser = RequestParser()
    head, body_bytes, served = None, 0, 0
    try:
        for start in range(0, len(data), _READ_BYTES):
            parser.receive(data[start : start + _READ_BYTES])
            while (event := parser.next_event()) is not NEED_DATA:
                if isinstance(event, RequestHead):
                    head, body_bytes = event, 0
                    refused = unserved_status(head)
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
    raise Unreadable("a line in the middle is not one of an error log")


class Unreadable(Exception):
    """The input cannot be read.  The message is one line."""


class AsJson:
    """Writes an object per line."""

    def request(self, head: RequestHead, policy: MaskingPolicy, refused: int | None) -> None:
        self._write(
            {
                "event": "request",
                "method": visible(head.method),
                "target": visible(mask_target(head.target, policy)),
                "version": head.version.decode("ascii"),
                "fields": [[*map(visible, field)] for field in _fields(head.fields, policy)],
                "status": refused,
            }
        )

    def end(self, body_bytes: int, end: EndOfMessage, keep_alive: bool) -> None:
        names = [visible(name) for name, _ in end.trailers]
        self._write(
            {"event": "end", "body_bytes": body_bytes, "trailers": names, "keep_alive": keep_alive}
        )

    def error(self, error: ParseError, policy: MaskingPolicy) -> None:
        packet = masked_packet(error, RAW_PACKET_BYTES, policy)
        self._error(error_record(error, policy, packet), _advice_of(error))

    def record(self, record: dict[str, Any]) -> None:
        self._error(record, _logged_advice(record))

    def _error(self, record: dict[str, Any], advice: Advice) -> None:
        event = {"event": "error", **record}
        if "suppressed" not in record:
            rule = rule_of(record["code"], str(record.get("reason")))
            event.update(rule=rule and rule.text, source=rule and rule.source)
        self._write(event | _as_json(advice))

    def code(self, code: str) -> None:
        if entry_of(code) is None:
            raise unknown(code)
        self._write({"code": code, **_as_json(advice_of(code, "", None))})

    def nothing(self, length: int) -> None:
        pass

    def _write(self, event: dict[str, Any]) -> None:
        print(json.dumps(event), flush=True)


class AsText:
    """Writes for a person."""

    def __init__(self, paint: Paint) -> None:
        self._paint = paint

    def request(self, head: RequestHead, policy: MaskingPolicy, refused: int | None) -> None:
        target, version = mask_target(head.target, policy), head.version.decode("ascii")
        self._say(f"{visible(head.method)} {visible(target)} HTTP/{version}", strong=True)
        for name, value in _fields(head.fields, policy):
            self._say(f"  {visible(name)}: {visible(value)}")
        if refused:
            what = "serve CONNECT" if refused == 501 else "do what Expect asks for"
            self._say(f"  answered {refused}: this server does not {what}", bad=True)

    def end(self, body_bytes: int, end: EndOfMessage, keep_alive: bool) -> None:
        if body_bytes:
            self._say(f"  body: {_bytes(body_bytes)}")
        for name, _ in end.trailers:
            self._say(f"  trailer: {visible(name)}")
        self._say(
            "  complete"
            if keep_alive
            else "  complete; the server closes the connection and ignores the rest"
        )

    def error(self, error: ParseError, policy: MaskingPolicy) -> None:
        first, *lines = error.report(masked=not policy.unmasked).splitlines()
        self._say(first, bad=True)
        for line in lines[:-1]:  # the last line leads to the entry, and comes after the packet
            self._say(line)
        at = None
        if error.raw_packet is not None and error.broke_at is not None:
            at = culprit_index(error.raw_packet, error.bytes_parsed or 0, error.broke_at)
        self._packet(masked_packet(error, RAW_PACKET_BYTES, policy), at)
        if lookalike_of(error) is None:
            self._advise(_advice_of(error))
        else:  # cause and cure are in the report
            self._say(lines[-1])

    def record(self, record: dict[str, Any]) -> None:
        """Show a line of the error log.  It may be forged."""
        code, when = _plain(record["code"]), _plain(record["time"])
        if "suppressed" in record:
            self._say(f"{when}  and {_plain(record['suppressed'])} more {code} in that second\n")
            return
        status, reason = record.get("status"), record.get("reason")
        answered = "not answered" if status is None else f"answered {_plain(status)}"
        self._say(f"{code}: {_plain(reason)}  ({answered})", bad=True)
        peer = record.get("peer")
        self._say(f"  {when}{'' if peer is None else f' from {_plain(peer)}'}")
        if (target := record.get("target")) is not None:
            self._say(f"  {_plain(record.get('method'))} {_plain(target)}")
        if (upstream := record.get("upstream")) is not None:
            self._say(f"  the server behind the proxy: {_plain(upstream)}")
        place = f"phase {_plain(record.get('phase'))}"
        if (field := record.get("field")) is not None:
            place += f', field "{_plain(field)}"'
        if (offset := record.get("offset")) is not None:
            place += f", byte {_plain(offset)}"
        self._say(f"  {place}")
        packet = excerpt(record)
        self._packet(packet, *_caret(record, packet))
        if lookalike := LOOKALIKES.get(str(record.get("looks_like"))):
            self._paragraph("Looks like ", f"{lookalike.words}.")
        if rule := rule_of(record["code"], str(reason)):
            source = f" {rule.source}." if rule.source else ""
            self._paragraph("Rule:  ", f"{rule.text}.{source}")
        self._advise(_logged_advice(record))
        self._say("")

    def code(self, code: str) -> None:
        if entry_of(code) is None:
            raise unknown(code)
        self._say(code, strong=True)
        self._advise(advice_of(code, "", None))

    def nothing(self, length: int) -> None:
        self._say(f"no request in {_bytes(length)}; the server answers nothing")

    def _packet(self, packet: Excerpt | None, caret: int | None, exact: bool = True) -> None:
        """Show *packet*, and point at one of its bytes; *caret* counts in the whole packet."""
        if packet is None:
            return
        data, offset = packet
        at = None if caret is None else caret - offset
        self._say("")
        for line in picture(data, at, offset=offset, paint=self._paint):
            self._say(line)
        if at is not None and 0 <= at < len(data):
            where = "of this packet" if exact else "of this packet, or the one before it"
            self._say(f"  byte {caret:,} {where}: {byte_name(data[at])}")
        self._say("")

    def _advise(self, advice: Advice) -> None:
        if advice.remedy is not None and advice.name is not None:
            self._paragraph("Cause: ", advice.remedy.cause)
            self._paragraph("Cure:  ", advice.remedy.cure)
            self._say(link_of(advice.name))

    def _paragraph(self, title: str, text: str) -> None:
        for line in paragraph(title, text, self._paint):
            self._say(line)

    def _say(self, line: str, *, strong: bool = False, bad: bool = False) -> None:
        if strong:
            line = self._paint.strong(line)
        print(self._paint.bad(line) if bad else line, flush=True)


def _fields(
    fields: Iterable[tuple[bytes, bytes]], policy: MaskingPolicy
) -> Iterator[tuple[bytes, bytes]]:
    """*fields* with secret values hidden."""
    for name, value in fields:
        hidden = not policy.unmasked and policy.is_secret(name)
        yield name, b"*" * len(value) if hidden else value


def excerpt(record: dict[str, Any]) -> Excerpt | None:
    """The part of the packet that a line of the error log holds.

    Raises:
        Unreadable: An error log holds something else there.
    """
    if record.get("raw_packet") is None:
        return None
    try:
        data = b64decode(record["raw_packet"], validate=True)
        offset = int(record.get("raw_packet_offset") or 0)
    except (ValueError, TypeError):
        raise Unreadable("raw_packet is not base64, or its offset is not a number") from None
    return Excerpt(data, max(0, offset))


def _caret(record: dict[str, Any], packet: Excerpt | None) -> tuple[int | None, bool]:
    """Index in the whole packet of the byte to blame, and whether that is certain.

    For a few errors a logged offset is one byte too far, as in llhttp.  If the masked packet breaks
    in the same way when it is parsed again, the place is exact.
    """
    parsed = record.get("bytes_parsed")
    if not isinstance(parsed, int) or packet is None:
        return None, False
    parser = RequestParser()
    parser.receive(packet.data)
    try:
        while not packet.offset and parser.next_event() is not NEED_DATA:
            pass
    except ParseError as error:
        same = (error.code, error.bytes_parsed) == (record["code"], parsed)
        if same and error.broke_at is not None:
            return culprit_index(packet.data, parsed, error.broke_at), True
    return parsed, False


def _advice_of(error: ParseError) -> Advice:
    return advice_of(error.code, error.reason, lookalike_of(error))


def _logged_advice(record: dict[str, Any]) -> Advice:
    """Cause and cure of a line of the error log."""
    lookalike = LOOKALIKES.get(str(record.get("looks_like")))
    return advice_of(record["code"], str(record.get("reason")), lookalike)


def _as_json(advice: Advice) -> dict[str, Any]:
    cause, cure = advice.remedy or (None, None)
    return {"cause": cause, "cure": cure, "docs": url_of(advice.name)}


def _plain(value: object) -> str:
    """*value* in printable ASCII; what the log has escaped already stays as it is."""
    return "".join(
        letter if " " <= letter <= "~" else visible(letter.encode("utf-8", "surrogatepass"))
        for letter in str(value)
    )


def _bytes(count: int) -> str:
    return f"{count:,} byte{'' if count == 1 else 's'}"
