"""What the head of a response says of its body and the connection, for both readers.

RFC 9112, sections 6 and 9.3.  A response is read in the light of its request: that to HEAD
has no body whatever it announces, and behind a 2xx to CONNECT no HTTP follows.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..events import ResponseHead
from . import body
from . import refusals as why
from .framing import (
    CHUNKED,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    asks_for_upgrade,
    persists,
)
from .refusals import Refusal, Why
from .response_scan import ResponseScan
from .scan import Scan

#: A length that does not fit in 63 bits is read as a negative one by somebody.
_TOO_LONG: Final = 2**63

_SWITCHING: Final = 101
_NO_CONTENT: Final = 204
_NOT_MODIFIED: Final = 304


class Blame(NamedTuple):
    """Why a whole head is refused, and the name of the field to show, in lower case."""

    why: Why
    field: bytes = b""


_CODING_OF_NOTHING: Final = Blame(why.TE_WITHOUT_BODY, b"transfer-encoding")
_LENGTH_OF_NOTHING: Final = Blame(why.CL_WITHOUT_BODY, b"content-length")
_UPGRADE_UNASKED: Final = Blame(why.UPGRADE_UNASKED)
_UPGRADE_UNNAMED: Final = Blame(why.UPGRADE_UNNAMED)


def settle(head: ResponseHead, method: bytes, asked_upgrade: bool) -> Blame | None:
    """Make out of *head* whether a body follows, another protocol, or another response.

    Args:
        head: With what its fields say of each, and nothing refused in them.
        method: That of the request it answers.
        asked_upgrade: Whether that one asked for another protocol.

    Returns:
        What is wrong with it; the head is not complete then.
    """
    status, named = head.status, head.upgrade
    head.upgrade = False
    if method == b"CONNECT" and 200 <= status < 300:
        # Length and coding mean nothing here (RFC 9110, section 9.3.6).
        head.upgrade = True
        head.keep_alive = False
    elif status < 200 or status == _NO_CONTENT:
        if head.chunked:
            return _CODING_OF_NOTHING
        if head.content_length:
            return _LENGTH_OF_NOTHING
        if status == _SWITCHING:
            if not asked_upgrade:
                return _UPGRADE_UNASKED
            if not named:
                return _UPGRADE_UNNAMED
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


def end_of_head(scan: Scan, at: int) -> None:
    """Judge the head that ends at index *at*, and let its chunks follow if it has any.

    Raises:
        Refusal: The head as a whole is not to be accepted.
    """
    assert isinstance(scan, ResponseScan)
    head = scan.head
    assert head is not None
    head.keep_alive = persists(head.version, scan.flags)
    head.upgrade = asks_for_upgrade(scan.flags)
    blame = _judge_framing(scan, head) or settle(head, scan.method, scan.asked_upgrade)
    if blame is not None:
        lines = {b"content-length": scan.length_line, b"transfer-encoding": scan.coding_line}
        raw = lines.get(blame.field, b"")
        raise Refusal(blame.why, at, None, raw, raw.partition(b":")[0] or None)
    scan.event = head
    if head.chunked and head.has_body:
        body.begin(scan, head)
    else:
        scan.finished = True


def _judge_framing(scan: ResponseScan, head: ResponseHead) -> Blame | None:
    """Judge the fields that frame a body, and take what they say into *head*."""
    if scan.flags & TRANSFER_ENCODING:
        codings = [value for name, value in head.fields if name.lower() == b"transfer-encoding"]
        if head.version == b"1.0":
            return Blame(why.TE_IN_HTTP_1_0_RESPONSE, b"transfer-encoding")
        if not scan.flags & CHUNKED or [value.lower() for value in codings] != [b"chunked"]:
            return Blame(why.TE_NOT_ONLY_CHUNKED, b"transfer-encoding")
        head.chunked = True
    if scan.flags & CONTENT_LENGTH:
        if scan.number >= _TOO_LONG:
            return Blame(why.CL_OVERFLOW, b"content-length")
        head.content_length = scan.number
    return None
