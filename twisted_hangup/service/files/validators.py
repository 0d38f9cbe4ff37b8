"""Whether a client has the current file already (RFC 9110, section 13)."""

from __future__ import annotations

import re
from functools import lru_cache
from math import ceil
from os import stat_result
from typing import Any, Final, NamedTuple

from twisted.web.http import datetimeToString, stringToDatetime

# RFC 9110, section 8.8.3
#   entity-tag = [ weak ] opaque-tag
#   weak       = %s"W/"
#   opaque-tag = DQUOTE *etagc DQUOTE
_ENTITY_TAG: Final = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class Validators(NamedTuple):
    """What tells two states of a file apart.

    Attributes:
        tag: The strong entity tag.
        modified: When it was modified, in seconds; rounded up, as `File` does.
    """

    tag: bytes
    modified: int

    @classmethod
    def of(cls, status: stat_result) -> Validators:
        """Those of the file with this *status*."""
        return cls(b'"%x-%x"' % (status.st_mtime_ns, status.st_size), ceil(status.st_mtime))

    @property
    def date(self) -> bytes:
        """For ``Last-Modified``."""
        return _http_date(self.modified)

    def known_to(self, request: Any) -> bool:
        """Whether the client of *request* has this state, so that a 304 is enough.

        ``If-Modified-Since`` counts only without an ``If-None-Match`` (section 13.1.3).
        """
        tags = request.requestHeaders.getRawHeaders(b"If-None-Match")
        if tags:
            value = b",".join(tags).strip()
            return value == b"*" or any(tag == self.tag for _, tag in _ENTITY_TAG.findall(value))
        date = request.getHeader(b"If-Modified-Since")
        if not date:
            return False
        if date == self.date:  # as nearly all have it; to read it takes ten times as long
            return True
        try:
            return bool(stringToDatetime(date.partition(b";")[0]) >= self.modified)
        except ValueError:
            return False

    def allow_ranges(self, request: Any) -> bool:
        """Whether the client of *request* asks for ranges of this state (section 13.1.5)."""
        value = request.getHeader(b"If-Range")
        return value is None or value.strip() in (self.tag, self.date)


@lru_cache(maxsize=256)
def _http_date(seconds: int) -> bytes:
    date: bytes = datetimeToString(seconds)
    return date
