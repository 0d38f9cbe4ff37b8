"""Appending to a log so that a full disk spoils no line but the one it cuts."""

from __future__ import annotations

import os
from typing import BinaryIO, Protocol


class Output(Protocol):
    """A binary file, opened for appending."""

    def write(self, data: bytes, /) -> int | None: ...
    def close(self) -> object: ...


def open_log(path: str | os.PathLike[str]) -> BinaryIO:
    """The file at *path*, unbuffered, so that a line is there when it is written.

    Raises:
        OSError: It cannot be appended to.
    """
    return open(path, "ab", buffering=0)


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
