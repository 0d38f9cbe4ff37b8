"""The end of a head, for the exact reader: its fields judged together, and what follows.

RFC 9112, sections 3.2 and 6.
"""

from __future__ import annotations

from typing import Final

from ..events import Field, RequestHead
from . import body
from . import refusals as why
from .framing import (
    CHUNKED,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    asks_for_upgrade,
    persists,
    refused_host,
)
from .refusals import Refusal, Why
from .scan import Scan

#: A length that does not fit in 63 bits is read as a negative one by somebody.
_TOO_LONG: Final = 2**63


def end_of_head(scan: Scan, at: int) -> None:
    """Judge the head that ends at index *at*, and let its body follow.

    Raises:
        Refusal: The head as a whole is not to be accepted.
    """
    head = scan.head
    assert head is not None
    head.keep_alive = persists(head.version, scan.flags)
    head.upgrade = asks_for_upgrade(scan.flags) or head.method == b"CONNECT"
    if scan.flags & TRANSFER_ENCODING:
        _judge_codings(scan, head, at)
        head.chunked = True
    if scan.flags & CONTENT_LENGTH:
        head.content_length = scan.number
        if scan.number >= _TOO_LONG:
            raise _blame(why.CL_OVERFLOW, at, scan.length_line)
    refused = refused_host(head.version, _values(head.fields, b"host"), scan.limits)
    if refused is not None:
        raise _blame(refused, at, scan.host_line)
    if 0 < scan.limits.body_bytes < (head.content_length or 0):
        raise _blame(why.BODY_TOO_LARGE, at, scan.length_line)
    scan.event = head
    body.begin(scan, head)


def _judge_codings(scan: Scan, head: RequestHead, at: int) -> None:
    codings = _values(head.fields, b"transfer-encoding")
    if not (scan.flags & CHUNKED or head.upgrade):
        refused = why.TE_NOT_CHUNKED
    elif head.version == b"1.0":
        refused = why.TE_IN_HTTP_1_0
    elif len(codings) > 1 or codings[0].lower() != b"chunked" or not scan.flags & CHUNKED:
        refused = why.TE_NOT_ONLY_CHUNKED
    else:
        return
    raise _blame(refused, at, scan.coding_line)


def _blame(refused: Why, at: int, line: bytes) -> Refusal:
    """Point behind the head, and show *line* if there is one."""
    return Refusal(refused, at, None, line, line.partition(b":")[0] or None)


def _values(fields: list[Field], name: bytes) -> list[bytes]:
    return [value for given, value in fields if given.lower() == name]
