"""What is explained on the command line, as objects for programs and as text for a person.

Whatever the bytes are, and whoever has written the log, only printable ASCII leaves, and
colours where a terminal wants some.
"""

from __future__ import annotations

import json
import textwrap
from base64 import b64decode
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import ParseError
from ..events import NEED_DATA, EndOfMessage, RequestHead
from ..journal.error_log import RAW_PACKET_BYTES
from ..journal.records import error_record
from ..parser.request import RequestParser
from ..report.masking import MaskingPolicy, culprit_index, mask_target
from ..report.remedies import REMEDIES, entry_of, link_of
from ..report.report import WIDTH, Excerpt, byte_name, masked_packet
from ..report.rules import rule_of
from ..report.text import visible
from .hexdump import Paint, picture


class Unreadable(Exception):
    """What was given cannot be read.  The message is one line."""


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
        self.record(error_record(error, policy, packet))

    def record(self, record: dict[str, Any]) -> None:
        told = {"event": "error", **record}
        if "suppressed" not in record:
            rule = rule_of(record["code"], str(record.get("reason")))
            told.update(rule=rule and rule.text, source=rule and rule.source)
        self._write(told | _remedy(record["code"]))

    def code(self, code: str) -> None:
        if entry_of(code) is None:
            raise _unknown(code)
        self._write({"code": code, **_remedy(code)})

    def nothing(self, length: int) -> None:
        pass

    def _write(self, told: dict[str, Any]) -> None:
        print(json.dumps(told), flush=True)


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
            what = "CONNECT" if refused == 501 else "what Expect asks for"
            self._say(f"  answered {refused}: this server does not do {what}", bad=True)

    def end(self, body_bytes: int, end: EndOfMessage, keep_alive: bool) -> None:
        if body_bytes:
            self._say(f"  body: {_bytes(body_bytes)}")
        for name, _ in end.trailers:
            self._say(f"  trailer: {visible(name)}")
        self._say(
            "  complete" if keep_alive else "  complete; the connection closes, the rest is ignored"
        )

    def error(self, error: ParseError, policy: MaskingPolicy) -> None:
        first, *lines = error.report(masked=not policy.unmasked).splitlines()
        self._say(first, bad=True)
        for line in lines[:-1]:  # the last one is the link, which stands behind the remedy
            self._say(line)
        at = None
        if error.raw_packet is not None and error.broke_at is not None:
            at = culprit_index(error.raw_packet, error.bytes_parsed or 0, error.broke_at)
        self._packet(masked_packet(error, RAW_PACKET_BYTES, policy), at)
        self._remedy(error.code)

    def record(self, record: dict[str, Any]) -> None:
        """Show a line of the error log, which nobody says has not been tampered with."""
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
        if rule := rule_of(record["code"], str(reason)):
            source = f" {rule.source}." if rule.source else ""
            self._paragraph("Rule:  ", f"{rule.text}.{source}")
        self._remedy(record["code"])
        self._say("")

    def code(self, code: str) -> None:
        if entry_of(code) is None:
            raise _unknown(code)
        self._say(code, strong=True)
        self._remedy(code)

    def nothing(self, length: int) -> None:
        self._say(f"no request in {_bytes(length)}; nothing is answered")

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

    def _remedy(self, code: str) -> None:
        remedy = _remedy(code)
        if remedy["cause"]:
            self._paragraph("Cause: ", remedy["cause"])
            self._paragraph("Cure:  ", remedy["cure"])
            self._say(remedy["docs"])

    def _paragraph(self, title: str, text: str) -> None:
        first, *rest = textwrap.wrap(text, WIDTH - len(title))
        self._say(self._paint.strong(title) + first)
        for line in rest:
            self._say(" " * len(title) + line)

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
    """What a line of the error log has of the packet.

    Raises:
        Unreadable: It is not what an error log has there.
    """
    if record.get("raw_packet") is None:
        return None
    try:
        data = b64decode(record["raw_packet"], validate=True)
        offset = int(record.get("raw_packet_offset") or 0)
    except (ValueError, TypeError):
        raise Unreadable("raw_packet is not base64, or its offset no number") from None
    return Excerpt(data, max(0, offset))


def _caret(record: dict[str, Any], packet: Excerpt | None) -> tuple[int | None, bool]:
    """Index in the whole packet of the byte to blame, and whether it surely is that one.

    Like llhttp's, a logged offset stands one byte too far for a few errors.  If the packet
    breaks in the same way when it is read again, although it is masked, the place is exact.
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


def _remedy(code: str) -> dict[str, Any]:
    entry = entry_of(code)
    if entry is None:
        return {"cause": None, "cure": None, "docs": None}
    return {**REMEDIES[entry]._asdict(), "docs": link_of(code)}


def _unknown(code: str) -> Unreadable:
    return Unreadable(f"no code is called {visible(code)}")


def _plain(value: object) -> str:
    """*value* in printable ASCII; what the log has escaped already stays as it is."""
    return "".join(
        letter if " " <= letter <= "~" else visible(letter.encode("utf-8", "surrogatepass"))
        for letter in str(value)
    )


def _bytes(count: int) -> str:
    return f"{count:,} byte{'' if count == 1 else 's'}"
