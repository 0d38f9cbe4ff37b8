"""What the tests of the parser share: streams, and all that comes out of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pytest

from twisted_hangup.errors import ParseError
from twisted_hangup.events import NEED_DATA, Event, RequestHead
from twisted_hangup.limits import Limits
from twisted_hangup.parser import RequestParser

HOST: Final = b"Host: a\r\n"
CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def events(reads: Iterable[bytes], limits: Limits | None = None) -> list[Event]:
    """All that comes out of *reads*."""
    parser = RequestParser(limits or Limits())
    out: list[Event] = []
    for data in reads:
        parser.receive(data)
        while (event := parser.next_event()) is not NEED_DATA:
            out.append(event)
    return out


def head_of(data: bytes, limits: Limits | None = None) -> RequestHead:
    """The head that comes out of *data* first."""
    head = events([data], limits)[0]
    assert isinstance(head, RequestHead)
    return head


def refusal(reads: Iterable[bytes], limits: Limits | None = None) -> ParseError:
    """The error that *reads* end in."""
    with pytest.raises(ParseError) as caught:
        events(reads, limits)
    return caught.value


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def behind_head(*lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"GET / HTTP/" + version + b"\r\n" + b"".join(line + b"\r\n" for line in (*lines, b""))
