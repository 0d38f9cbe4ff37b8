"""What a Range field asks for, and what is no answer to it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_hangup.service.files.ranges import MOST_RANGES, byte_ranges

#: Of the file that the values below are about.
SIZE = 13

SATISFIED = [
    (b"bytes=0-4", [(0, 4)]),
    (b"bytes=5-", [(5, 12)]),
    (b"bytes=5-500", [(5, 12)]),
    (b"bytes=-5", [(8, 12)]),
    (b"bytes=-500", [(0, 12)]),
    (b"bytes=-999999999999", [(0, 12)]),
    (b"bytes=-" + b"9" * 10_000, [(0, 12)]),
    (b"bytes=0-" + b"9" * 10_000, [(0, 12)]),
    (b"bytes=" + b"0" * 10_000 + b"3-4", [(3, 4)]),
    (b"BYTES=0-4", [(0, 4)]),
    (b" bytes= 0-1 ,,\t4-5 , ", [(0, 1), (4, 5)]),
    (b"bytes=4-5,0-1", [(4, 5), (0, 1)]),
    (b"bytes=0-5,4-7", [(0, 5), (4, 7)]),
    (b"bytes=0-1,99-", [(0, 1)]),
]

NOT_SATISFIED = [
    b"bytes=13-",
    b"bytes=99-100",
    b"bytes=-0",
    b"bytes=20-30,40-",
    b"bytes=" + b"9" * 99 + b"-",
]

IGNORED = [
    *(b"", b"bytes", b"bytes=", b"bytes=,", b"bytes= ", b"bytes=-", b"bytes=a-b", b"bytes=5-4"),
    *(
        b"bytes=0-1,x",
        b"bytes=\xb2-",
        b"bytes=0-\xb3",
        b"bytes=+1-2",
        b"bytes=1_0-",
        b"bytes=0-1-2",
    ),
    *(b"bytes=0 - 1", b"bytes 0-1", b"lines=0-1", b"bytes=0x1-2", b"bytes=--1", b"bytes=0-1\x00"),
    *(b"bytes=0-,0-", b"bytes=0-5,4-7,6-9", b"bytes=-500,-500", b"bytes=0-0,0-0,5-5,5-5"),
    b"bytes=" + b",".join([b"0-"] * 3000),
]


@pytest.mark.parametrize("value, ranges", SATISFIED, ids=lambda value: str(value)[:40])
def test_satisfied(value: bytes, ranges: list[tuple[int, int]]) -> None:
    """A range is cut to the file; a suffix may be longer than that (RFC 9110, section 14.1.2)."""
    assert byte_ranges([value], SIZE) == ranges


@pytest.mark.parametrize("value", NOT_SATISFIED, ids=lambda value: str(value)[:40])
def test_not_satisfied(value: bytes) -> None:
    """A file that has none of the bytes says so."""
    assert byte_ranges([value], SIZE) == []


@pytest.mark.parametrize("value", IGNORED, ids=lambda value: str(value)[:40])
def test_ignored(value: bytes) -> None:
    """What is no range, or asks for more than there is, gets the file once."""
    assert byte_ranges([value], SIZE) is None


def test_ranges_that_are_too_many() -> None:
    """Each costs a part, however few bytes it has."""
    pairs = [(at, at) for at in range(0, 2 * MOST_RANGES + 2, 2)]
    for number, ignored in ((MOST_RANGES, False), (MOST_RANGES + 1, True)):
        value = b"bytes=" + b",".join(b"%d-%d" % pair for pair in pairs[:number])
        assert (byte_ranges([value], 10_000) is None) == ignored


def test_neither_a_file_nor_one_field() -> None:
    """Of an empty file there is no part; two fields are none."""
    assert byte_ranges([b"bytes=0-1,2-3,-5"], 0) is None
    assert byte_ranges([b"bytes=-500"], 0) is None
    assert byte_ranges([b"bytes=0-1", b"bytes=2-3"], SIZE) is None
    assert byte_ranges([], SIZE) is None


@given(
    st.one_of(
        st.binary(max_size=40),
        st.lists(
            st.sampled_from([b"bytes=", b"0", b"7", b"12", b"13", b"-", b",", b" ", b"\xb2"])
        ).map(b"".join),
    ),
    st.integers(0, 20),
)
def test_no_more_than_the_file(value: bytes, size: int) -> None:
    """Whatever is asked for: in the file, and not more than it in all."""
    ranges = byte_ranges([value], size)
    for first, last in ranges or ():
        assert 0 <= first <= last < size
    assert sum(last - first + 1 for first, last in ranges or ()) <= size


def test_time() -> None:
    """A field as long as a head may be costs no time to speak of."""
    since = time.process_time()
    for element in (b",", b"0-0,", b"9", b"0", b"-", b"0 "):
        for end in (b"", b"-", b"x"):
            byte_ranges([b"bytes=" + element * (16_000 // len(element)) + end], SIZE)
    assert time.process_time() - since < 0.2
