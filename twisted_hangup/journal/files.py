"""Appending to a log so that a full disk spoils no line but the one it cuts."""

from __future__ import annotations

from typing import Protocol


class Output(Protocol):
    """A binary file, raw or buffered."""

    def write(self, data: bytes, /) -> int | None: ...


class WholeLines:
    """Writes lines in as many pieces as a file takes them."""

    def __init__(self) -> None:
        self._torn = False

    def write(self, file: Output, line: bytes) -> None:
        """Append *line*, which ends in its line end, to *file*.

        Raises:
            OSError: Not all of it could be written; the next line starts a new one.
        """
        # A full disk takes half a line; the next one must not be glued to it.
        rest = b"\n" + line if self._torn else line
        while rest:
            taken = file.write(rest)
            if not taken:
                raise BlockingIOError("the file takes no more now")
            rest = rest[taken:]
            self._torn = rest != b""
