"""Bytes as a picture for a terminal: hexadecimal, text, and a caret under one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

#: Bytes in a row: the picture is then as wide as a report, 80 columns without the indent.
ROW: Final = 16

#: Rows shown above and below the one with the caret.
ROWS_BEFORE: Final = 8
ROWS_AFTER: Final = 3

_PRINTABLE: Final = range(0x20, 0x7F)

#: Column where the text of a row starts: offset, two groups of eight, and a bar.
_TEXT_COLUMN: Final = 10 + 3 * ROW + 1 + 1


class Paint:
    """Colours text, or leaves it as it is."""

    def __init__(self, colours: bool) -> None:
        self._colours = colours

    @classmethod
    def for_terminal(cls, output: Any, environment: Mapping[str, str] = os.environ) -> Paint:
        """Colour if *output* is a terminal with colours and ``NO_COLOR`` is not set.

        https://no-color.org: an empty ``NO_COLOR`` does not count.
        """
        plain = environment.get("NO_COLOR") or environment.get("TERM", "dumb") == "dumb"
        return cls(output.isatty() and not plain)

    def bad(self, text: str) -> str:
        """The byte that is to blame."""
        return self._sgr("1;31", text)

    def strong(self, text: str) -> str:
        """What to read first."""
        return self._sgr("1", text)

    def faint(self, text: str) -> str:
        """Offsets, and other text in the background."""
        return self._sgr("2", text)

    def _sgr(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours and text else text


def picture(data: bytes, caret: int | None, *, offset: int = 0, paint: Paint) -> Iterator[str]:
    """Show *data* in rows, as far as they are near the caret.

    Args:
        data: Any bytes; those that are not printable ASCII are shown as a dot.
        caret: Index in *data* of the byte to point at; None, or one past the end, for none.
        offset: Number of the first byte of *data*.
        paint: Colours.

    Yields:
        Lines of printable ASCII (besides colours), at most 80 columns wide.
    """
    if caret is not None and not 0 <= caret < len(data):
        caret = None
    pointed = (caret or 0) // ROW
    first = max(0, pointed - ROWS_BEFORE) * ROW
    end = min(len(data), (pointed + ROWS_AFTER + 1) * ROW)
    if first:
        yield paint.faint(f"  ({first:,} bytes before)")
    for at in range(first, end, ROW):
        row = data[at : min(at + ROW, end)]
        here = caret - at if caret is not None and 0 <= caret - at < ROW else None
        yield _row(row, offset + at, here, paint)
        if here is not None:
            yield _carets(here, paint)
    if end < len(data):
        yield paint.faint(f"  ({len(data) - end:,} bytes after)")


def _row(row: bytes, offset: int, here: int | None, paint: Paint) -> str:
    shown = ""
    for index in range(ROW):
        cell = f"{row[index]:02x}" if index < len(row) else "  "
        shown += (paint.bad(cell) if index == here else cell) + " "
        if index == ROW // 2 - 1:
            shown += " "
    text = ""
    for index, byte in enumerate(row):
        letter = chr(byte) if byte in _PRINTABLE else "."
        text += paint.bad(letter) if index == here else letter
    return f"{paint.faint(f'{offset:08x}')}  {shown} |{text}|"


def _carets(here: int, paint: Paint) -> str:
    column = 10 + 3 * here + (here >= ROW // 2)
    between = _TEXT_COLUMN + 1 + here - column - 2
    return f"{' ' * column}{paint.bad('^^')}{' ' * between}{paint.bad('^')}"
