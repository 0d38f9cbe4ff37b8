"""The end of a head, for the exact reader: it judges the fields together, and starts the body.

RFC 9112, sections 3.2, 6 and 9.3.  What a response means depends on its request: after HEAD it has
no body, whatever it announces, and after a 2xx to CONNECT no HTTP follows.
"""

from __future__ import annotations

from typing import Final

from ..events import Field, RequestHead, ResponseHead
from . import body
from . import refusals as why
from .framing import (
    CHUNKED,
    CONTENT_LENGTH,
    LENGTH_OVERFLOW,
    TRANSFER_ENCODING,
    asks_for_upgrade,
    persists,
    refused_host,
)
from .refusals import Refusal, Why
from .scan import RequestScan, ResponseScan

_SWITCHING: Final = 101
_NO_CONTENT: Final = 204
_NOT_MODIFIED: Final = 304


def end_of_request_head(scan: RequestScan, at: int) -> None:
    """Judge the head that ends at index *at*, and read its body next.

    Raises:
        Refusal: The head as a whole is not accepted.
    """
    head = scan.head
    assert head is not None
    head.keep_alive = persists(head.version, scan.flags)
    head.upgrade = asks_for_upgrade(scan.flags) or head.method == b"CONNECT"
    if scan.flags & TRANSFER_ENCODING:
        fault = _refused_codings(head, scan.flags)
        if fault is not None:
            raise _blame(fault, at, scan.coding_line)
        head.chunked = True
    if scan.flags & CONTENT_LENGTH:
        head.content_length = scan.number
        if scan.number >= LENGTH_OVERFLOW:
            raise _blame(why.CL_OVERFLOW, at, scan.length_line)
    fault = refused_host(head.version, _values(head.fields, b"host"), scan.limits)
    if fault is not None:
        raise _blame(fault, at, scan.host_line)
    if 0 < scan.limits.body_bytes < (head.content_length or 0):
        raise _blame(why.BODY_TOO_LARGE, at, scan.length_line)
    scan.event = head
    body.begin(scan, head)


def _refused_codings(head: RequestHead, flags: int) -> Why | None:
    if not (flags & CHUNKED or head.upgrade):
        return why.TE_NOT_CHUNKED
    if head.version == b"1.0":
        return why.TE_IN_HTTP_1_0
    return None if _only_chunked(head.fields, flags) else why.TE_NOT_ONLY_CHUNKED


def end_of_response_head(scan: ResponseScan, at: int) -> None:
    """Judge the head that ends at index *at*, and read its chunks next, if it has any.

    Raises:
        Refusal: The head as a whole is not accepted.
    """
    head = scan.head
    assert head is not None
    head.keep_alive = persists(head.version, scan.flags)
    head.upgrade = asks_for_upgrade(scan.flags)
    if scan.flags & TRANSFER_ENCODING:
        if head.version == b"1.0":
            raise _blame(why.TE_IN_HTTP_1_0_RESPONSE, at, scan.coding_line)
        if not _only_chunked(head.fields, scan.flags):
            raise _blame(why.TE_NOT_ONLY_CHUNKED, at, scan.coding_line)
        head.chunked = True
    if scan.flags & CONTENT_LENGTH:
        if scan.number >= LENGTH_OVERFLOW:
            raise _blame(why.CL_OVERFLOW, at, scan.length_line)
        head.content_length = scan.number
    fault = settle(head, scan.method, scan.asked_upgrade)
    if fault is not None:
        lines: dict[Why, bytes] = {
            why.TE_WITHOUT_BODY: scan.coding_line,
            why.CL_WITHOUT_BODY: scan.length_line,
        }
        raise _blame(fault, at, lines.get(fault, b""))
    scan.event = head
    if head.chunked and head.has_body:
        body.begin(scan, head)
    else:
        scan.finished = True


def settle(head: ResponseHead, method: bytes, asked_upgrade: bool) -> Why | None:
    """Set in *head* whether a body follows, another protocol, or another response.

    Args:
        head: The head, with fields that are valid one by one.
        method: The method of the request that it answers.
        asked_upgrade: Whether that request asked for another protocol.

    Returns:
        What is wrong with it, or None.  If something is, *head* is not complete.
    """
    status, named = head.status, head.upgrade
    head.upgrade = False
    if method == b"CONNECT" and 200 <= status < 300:
        # Length and coding have no meaning here (RFC 9110, section 9.3.6).
        head.upgrade = True
        head.keep_alive = False
    elif status < 200 or status == _NO_CONTENT:
        if head.chunked and status != _NO_CONTENT:
            return why.TE_WITHOUT_BODY
        if head.content_length:
            return why.CL_WITHOUT_BODY
        if status == _SWITCHING:
            if not asked_upgrade:
                return why.UPGRADE_UNASKED
            if not named:
                return why.UPGRADE_UNNAMED
            head.upgrade = True
            head.keep_alive = False
    elif method != b"HEAD" and status != _NOT_MODIFIED:
        if head.chunked:
            head.has_body = True
        elif head.content_length is None:
            head.has_body = True
            head.keep_alive = False
        else:
            head.has_body = head.content_length > 0
    return None


def _only_chunked(fields: list[Field], flags: int) -> bool:
    """Whether there is one Transfer-Encoding field, with ``chunked`` alone in it."""
    codings = _values(fields, b"transfer-encoding")
    return bool(flags & CHUNKED) and [coding.lower() for coding in codings] == [b"chunked"]


def _blame(fault: Why, at: int, line: bytes) -> Refusal:
    """Point to the place after the head, and show *line* if there is one."""
    return Refusal(fault, at, None, line, line.partition(b":")[0] or None)


def _values(fields: list[Field], name: bytes) -> list[bytes]:
    return [value for given, value in fields if given.lower() == name]
