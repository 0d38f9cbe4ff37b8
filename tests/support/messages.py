"""Strategies for what requests and responses have in common."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

TOKEN: Final = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def ascii_text(alphabet: str, least: int = 0, most: int = 12) -> st.SearchStrategy[bytes]:
    return st.text(alphabet, min_size=least, max_size=most).map(str.encode)


def values() -> st.SearchStrategy[bytes]:
    """Field values: visible, obs-text, and SP and HTAB inside (RFC 9110, section 5.5)."""
    inside = bytes([*b"\t", *range(0x20, 0x7F), *range(0x80, 0x100)]).decode("latin-1")
    return st.text(inside, max_size=20).map(lambda text: text.encode("latin-1").strip(b" \t"))


def fields() -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    """Fields that frame nothing and say nothing about the connection."""
    names = ascii_text(TOKEN).map(lambda rest: b"X" + rest)
    return st.lists(st.tuples(names, values()), max_size=4)


BEFORE_VALUE: Final = st.sampled_from([b"", b" ", b"\t", b" \t  "])


AFTER_VALUE: Final = st.sampled_from([b"", b" "])  # llhttp takes no HTAB after "chunked"


EXTENSIONS: Final = st.sampled_from([b"", b";a", b";a=b", b';a="\\"b;\\\\"', b";a;b=c"])
