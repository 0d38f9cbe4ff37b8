"""What the tests of the parser share: streams, and all that comes out of them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from types import FunctionType
from typing import Any, Final

import pytest

from twisted_hangup.errors import ParseError
from twisted_hangup.events import NEED_DATA, Event, Part, RequestHead
from twisted_hangup.limits import Limits
from twisted_hangup.parser import RequestParser
from twisted_hangup.parser.scan import Methods
from twisted_hangup.parser.target import TargetPart

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


def get_with(*lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"GET / HTTP/" + version + b"\r\n" + b"".join(line + b"\r\n" for line in (*lines, b""))


#: What parsers have in common: limits, methods, the grammar, and the code.
_SHARED: Final = (Limits, Methods, Part, TargetPart, FunctionType)


def own_size(thing: Any) -> int:
    """Bytes of *thing* and of all that only it refers to."""
    seen: set[int] = set()
    waiting, total = [thing], 0
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, (type, *_SHARED)):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        waiting += gc.get_referents(item)
    return total
