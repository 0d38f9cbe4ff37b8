"""What is told of an error, as JSON.  Nothing leaves this module unmasked or unescaped.

docs/status.md has the names, which are an interface: they are never renamed.  All text is
printable ASCII, whatever a peer sent; its bytes leave as base64.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Container, Iterable
from datetime import datetime, timezone
from typing import Any, Final

from ..errors import RecordedError, UpstreamError
from ..journal.journal import Entry, Snapshot
from ..report import response_rules
from ..report import rules as _rules
from ..report.masking import MaskingPolicy, culprit_index, mask_target
from ..report.remedies import REMEDIES, entry_of
from ..report.report import byte_name, field_of, masked_packet, report_error, request_line_of
from ..report.text import peer_text, shortened, visible

#: Most bytes of a packet that are shown: 64 lines of a hex dump.
PACKET_BYTES: Final = 1024

_TEXT_COLUMNS: Final = 1024


class Records:
    """Turns what a journal keeps into JSON; each error once, for all who look."""

    def __init__(
        self, policy: MaskingPolicy, now: Callable[[], float], connections: Callable[[], int]
    ) -> None:
        """
        Args:
            policy: What is secret.
            now: Wall-clock time in seconds since 1970.
            connections: How many are open now.
        """
        self._policy = policy
        self._now = now
        self._connections = connections
        self._made: dict[int, tuple[bool, str]] = {}

    def snapshot(
        self,
        snapshot: Snapshot,
        *,
        only: Container[int] | None = None,
        rates_from: float = 0,
    ) -> str:
        """All there is to know, as a JSON object on one line.

        Args:
            snapshot: Of the journal.
            only: Numbers of the entries to tell; all by default.
            rates_from: The first second, since 1970, whose rates are told.
        """
        self._forget_all_but(snapshot.entries)
        totals = {
            "complete": only is None,
            "since": _timestamp(snapshot.since),
            "now": _timestamp(self._now()),
            "connections": self._connections(),
            "by_code": _visible_keys(snapshot.by_code.items()),
            "by_phase": dict(snapshot.by_phase),
            "by_status": {
                "none" if status is None else str(status): count
                for status, count in snapshot.by_status.items()
            },
            "rates": [
                [second, _visible_keys(codes.items())]
                for second, codes in snapshot.rates
                if second >= rates_from
            ],
            "top_peers": [[visible(peer), count] for peer, count in snapshot.top_peers],
            "top_codes": [[visible(code), count] for code, count in snapshot.top_codes],
        }
        told = (entry for entry in snapshot.entries if only is None or entry.number in only)
        entries = ", ".join(map(self._entry, told))
        return f'{json.dumps(totals)[:-1]}, "entries": [{entries}]}}'

    def _forget_all_but(self, entries: Iterable[Entry]) -> None:
        kept = {entry.number for entry in entries}
        for number in [number for number in self._made if number not in kept]:
            del self._made[number]

    def _entry(self, entry: Entry) -> str:
        made = self._made.get(entry.number)
        if made is None or made[0] != entry.settled:
            made = entry.settled, json.dumps(record_of(entry, self._policy))
            self._made[entry.number] = made
        return made[1]


def record_of(entry: Entry, policy: MaskingPolicy) -> dict[str, Any]:
    """One error, secrets hidden."""
    error = entry.error
    request, field = error.request, field_of(error, policy)
    rules = _rules if error.about == "request" else response_rules
    rule = rules.rule_of(error.code, error.reason)
    remedy = REMEDIES.get(entry_of(error.code) or "")
    return {
        "number": entry.number,
        "time": _timestamp(entry.time),
        "code": visible(error.code),
        "reason": visible(error.reason),
        "phase": error.phase,
        "status": error.status,
        "settled": entry.settled,
        "answered": entry.answered,
        "peer": None if error.peer is None else peer_text(error.peer),
        "upstream": visible(error.upstream) if isinstance(error, UpstreamError) else None,
        "method": request and _text(request.method),
        "target": request and _text(mask_target(request.target, policy)),
        "line": _text(request_line_of(error, policy)),
        "field": None if field is None else _text(field),
        "offset": error.offset,
        "bytes_parsed": error.bytes_parsed,
        **_packet_of(error, policy),
        "rule": rule and rule.text,
        "source": (rule and rule.source) or None,
        "cause": remedy and remedy.cause,
        "cure": remedy and remedy.cure,
        "report": report_error(error, policy=policy),
    }


def _packet_of(error: RecordedError, policy: MaskingPolicy) -> dict[str, Any]:
    """The packet around the error, and which of its bytes is to blame."""
    packet, excerpt = error.raw_packet, masked_packet(error, PACKET_BYTES, policy)
    told: dict[str, Any] = dict.fromkeys(("raw_packet", "raw_packet_offset", "raw_packet_length"))
    told |= {"culprit": None, "culprit_name": None}
    if packet is None or excerpt is None:
        return told
    told["raw_packet"] = b64encode(excerpt.data).decode("ascii")
    told["raw_packet_offset"] = excerpt.offset
    told["raw_packet_length"] = len(packet)
    where = error.broke_at
    # No byte is to blame where a whole line is wrong, or where the input ended.
    if where is not None and where.caret < len(where.line):
        at = culprit_index(packet, error.bytes_parsed or 0, where) - excerpt.offset
        if 0 <= at < len(excerpt.data):
            told |= {"culprit": at, "culprit_name": byte_name(excerpt.data[at])}
    return told


def _visible_keys(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    return {visible(name): count for name, count in counts}


def _text(data: bytes) -> str:
    return shortened(data, _TEXT_COLUMNS, tail=_TEXT_COLUMNS // 2)


def _timestamp(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
