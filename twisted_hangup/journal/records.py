"""An error as a record: the same in the error log, on the status page and in ``explain``.

The names are an interface: they are never renamed.  Each record has all of them except
``upstream``.

- ``code``: `ClientError.code`.
- ``reason``: `ClientError.reason`.
- ``status``: status that was sent; until then that of the default answer; or null.
- ``phase``: `ClientError.phase`.
- ``bytes_parsed``: Node's offset in the *whole* packet, or null.
- ``offset``: the same place counted from the start of the message, or null.
- ``raw_packet``: the packet around the error, base64, or null.
- ``raw_packet_offset``: index in the whole packet of the first byte of ``raw_packet``, or null;
  subtract it from ``bytes_parsed`` to find the place in ``raw_packet``.
- ``peer``: ``host:port``, ``[host]:port`` for IPv6, ``unix``, or null; the host alone if a proxy
  has named no port.
- ``method``, ``target``: of the request, as far as they arrived, or null.
- ``field``: name of the header or trailer field that is wrong, or null.
- ``looks_like``: what the bytes look like, a name in `twisted_hangup.report.lookalikes`, or null.
- ``upstream``: only for ``ERR_UPSTREAM_*``: the URL of the server that failed.

Nothing leaves this module unmasked or unescaped.  Secrets are hidden as
`twisted_hangup.report.masking` describes.  In text, bytes outside 0x20-0x7e are written as
``\\x01`` and backslashes are doubled; text longer than 1,024 characters is cut in the middle
(``...``).
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

from ..errors import RecordedError, UpstreamError
from ..report.lookalikes import lookalike_of
from ..report.masking import MaskingPolicy
from ..report.report import Excerpt, field_of, request_so_far
from ..report.text import peer_text, shortened, visible

_TEXT_COLUMNS: Final = 1024


def error_record(
    error: RecordedError, policy: MaskingPolicy, packet: Excerpt | None
) -> dict[str, Any]:
    """The record of *error*, for JSON.

    Args:
        error: The error of a client, or of a server behind a proxy.
        policy: Which secrets are hidden.
        packet: The part of its packet that is shown: see `masked_packet`.
    """
    request = request_so_far(error, policy)
    field, lookalike = field_of(error, policy), lookalike_of(error)
    record = {
        "code": visible(error.code),
        "reason": visible(error.reason),
        "status": error.shown_status,
        "phase": error.phase,
        "bytes_parsed": error.bytes_parsed,
        "offset": error.offset,
        "raw_packet": packet and b64encode(packet.data).decode("ascii"),
        "raw_packet_offset": packet and packet.offset,
        "peer": None if error.peer is None else peer_text(error.peer),
        "method": request and record_text(request.method),
        "target": record_text(request.target) if request and request.target else None,
        "field": None if field is None else record_text(field),
        "looks_like": lookalike and lookalike.name,
    }
    if isinstance(error, UpstreamError):
        record["upstream"] = visible(error.upstream)
    return record


def record_text(data: bytes) -> str:
    """*data* as text for a record."""
    return shortened(data, _TEXT_COLUMNS, tail=_TEXT_COLUMNS // 2)
