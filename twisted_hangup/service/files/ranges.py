"""The bytes of a file that a Range header asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, TypeAlias

#: First and last byte; both are in the file.
ByteRange: TypeAlias = tuple[int, int]

#: As many as Apache answers (MaxRanges); each costs a part of some hundred bytes.
MOST_RANGES: Final = 200

# RFC 9110, section 14.1.1
#   ranges-specifier = range-unit "=" range-set
#   int-range        = first-pos "-" [ last-pos ]
#   suffix-range     = "-" suffix-length
_SPECIFIER: Final = re.compile(rb"bytes=(.*)", re.IGNORECASE | re.DOTALL)
_RANGE: Final = re.compile(rb"([0-9]*)-([0-9]*)")

#: Digits without leading zeros: more are after the end of every file, and quadratic to read.
_MOST_DIGITS: Final = 19


def byte_ranges(values: Sequence[bytes], size: int) -> list[ByteRange] | None:
    """Which bytes of a file of *size* bytes to send for the *values* of the Range header.

    A suffix longer than the file is the whole file.

    Returns:
        The ranges, in the order in which they were asked for.  None of them if the file has none
        (416).  None for the whole file (200): there is no Range, or an unknown one, the file is
        empty, or the ranges together exceed the file, overlap more than once, or are too many
        (section 14.2).
    """
    if len(values) != 1 or not size:
        return None
    specifier = _SPECIFIER.fullmatch(values[0].strip(b" \t"))
    if specifier is None:
        return None
    elements = [element for part in specifier[1].split(b",") if (element := part.strip(b" \t"))]
    if not 0 < len(elements) <= MOST_RANGES:
        return None
    ranges = []
    for element in elements:
        match = _RANGE.fullmatch(element)
        if match is None or element == b"-":
            return None
        first, last = match.groups()
        start, end = _number(first), _number(last)
        if first and last and start > end:
            return None
        if not first:
            start, end = max(0, size - end), size
        elif not last:
            end = size
        if start < size:
            ranges.append((start, min(end, size - 1)))
    if len(ranges) > 1 and (
        sum(end - start + 1 for start, end in ranges) > size or _overlapping(ranges) > 2
    ):
        return None
    return ranges


def _number(digits: bytes) -> int:
    digits = digits.lstrip(b"0")
    return 10**_MOST_DIGITS if len(digits) > _MOST_DIGITS else int(digits or b"0")


def _overlapping(ranges: list[ByteRange]) -> int:
    """How many of *ranges* share a byte with another one."""
    ranges = sorted(ranges)
    ends = list(accumulate((end for _, end in ranges), max))
    return sum(
        (at > 0 and start <= ends[at - 1]) or (at + 1 < len(ranges) and ranges[at + 1][0] <= end)
        for at, (start, end) in enumerate(ranges)
    )
