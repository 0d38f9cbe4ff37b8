"""A journal as JSON, for the page.  Nothing leaves this module unmasked or unescaped.

docs/status.md lists the names; they are an interface and never renamed.  All text is printable
ASCII; a peer's bytes are in base64.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from ..errors import RecordedError
from ..journal.journal import Entry, Snapshot
from ..journal.merged import MergedEntry, MergedSnapshot, WorkerState
from ..journal.records import error_record, record_text
from ..report.links import anchor_of
from ..report.lookalikes import advice_of, lookalike_of
from ..report.masking import MaskingPolicy, culprit_index
from ..report.report import Excerpt, byte_name, masked_packet, report_error, request_line_of
from ..report.rules import rule_of
from ..report.text import timestamp, visible

#: Most bytes of a packet that are shown: 64 lines of a hex dump.
PACKET_BYTES: Final = 1024


class Snapshots:
    """Turns the entries of a journal into JSON, each once for all readers."""

    def __init__(
        self,
        policy: MaskingPolicy,
        now: Callable[[], float],
        connections: Callable[[], int],
        workers: Callable[[], Sequence[WorkerState]] | None = None,
    ) -> None:
        """
        Args:
            policy: Which secrets are hidden.
            now: Returns the time in seconds since 1970.
            connections: Returns how many connections are open.
            workers: Returns how the workers are, if there are any.
        """
        self._policy = policy
        self._now = now
        self._connections = connections
        self._workers = workers
        #: Number of an entry -> whether it was answered by then, and its JSON.
        self._entries: dict[int, tuple[bool, str]] = {}

    def json(
        self,
        snapshot: Snapshot | MergedSnapshot,
        *,
        only: Container[int] | None = None,
        rates_from: float = 0,
    ) -> str:
        """The snapshot as a JSON object on one line.

        Args:
            snapshot: A snapshot of the journal.
            only: The numbers of the entries to include; all by default.
            rates_from: The first second, since 1970, whose rates are included.
        """
        kept = {entry.number for entry in snapshot.entries}
        self._entries = {n: entry for n, entry in self._entries.items() if n in kept}
        totals: dict[str, Any] = {
            "complete": only is None,
            "since": timestamp(snapshot.since),
            "now": timestamp(self._now()),
            "connections": self._connections(),
            "quiet": snapshot.quiet,
            "by_code": _visible_keys(snapshot.by_code.items()),
            "by_phase": dict(snapshot.by_phase),
            "by_status": snapshot.by_status_name,
            "rates": [
                [second, _visible_keys(codes.items())]
                for second, codes in snapshot.rates
                if second >= rates_from
            ],
            "top_peers": [[visible(peer), count] for peer, count in snapshot.top_peers],
            "top_codes": [[visible(code), count] for code, count in snapshot.top_codes],
        }
        if self._workers is not None:
            totals["workers"] = [asdict(state) for state in self._workers()]
        entries = ", ".join(
            self._entry(entry) for entry in snapshot.entries if only is None or entry.number in only
        )
        return f'{json.dumps(totals)[:-1]}, "entries": [{entries}]}}'

    def _entry(self, entry: Entry | MergedEntry) -> str:
        if isinstance(entry, MergedEntry):
            return entry.text
        settled, text = self._entries.get(entry.number, (None, ""))
        if settled is not entry.settled:
            text = json.dumps(entry_record(entry, self._policy))
            self._entries[entry.number] = entry.settled, text
        return text


def entry_record(entry: Entry, policy: MaskingPolicy) -> dict[str, Any]:
    """What the page shows of one error, with secrets hidden."""
    error = entry.error
    packet = masked_packet(error, PACKET_BYTES, policy)
    rule = rule_of(error.code, error.reason, error.about)
    remedy = advice_of(error.code, error.reason, lookalike_of(error)).remedy
    culprit = packet and _culprit(error, packet)
    return {
        "number": entry.number,
        "time": timestamp(entry.time),
        "settled": entry.settled,
        "answered": entry.answered,
        "upstream": None,  # the record has it if there is one
        **error_record(error, policy, packet),
        "line": record_text(request_line_of(error, policy)),
        "raw_packet_length": None if error.raw_packet is None else len(error.raw_packet),
        "culprit": culprit,
        "culprit_name": byte_name(packet.data[culprit]) if packet and culprit is not None else None,
        "rule": rule and rule.text,
        "source": (rule and rule.source) or None,
        "entry": anchor_of(error.code),
        "cause": remedy and remedy.cause,
        "cure": remedy and remedy.cure,
        "report": report_error(error, policy=policy),
    }


def _culprit(error: RecordedError, packet: Excerpt) -> int | None:
    """Index in *packet* of the byte to blame."""
    where = error.broke_at
    # No byte is to blame if a whole line is wrong, or if the input ended.
    if where is None or where.caret >= len(where.line):
        return None
    at = culprit_index(error.raw_packet or b"", error.bytes_parsed or 0, where) - packet.offset
    return at if 0 <= at < len(packet.data) else None


def _visible_keys(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    return {visible(name): count for name, count in counts}
