"""Numbers that all workers and the first process see at any time: a table in shared memory.

Each worker process writes its own row; `Row.replaced` alone is for the first process to write.  A
number is stored in one piece, so that a reader sees the old one or the new one.  What a worker has
written stays when it is killed, until the first process clears the row.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import Final

#: A row is a cache line, so that writers do not slow each other down.
_ROW_CELLS: Final = 8
_CELL_BYTES: Final = 8

#: The cells of a row.
_BEAT: Final = 0
_HELD: Final = 1
_ACCEPTS: Final = 2
_REPLACED: Final = 3


class Row:
    """The numbers of one worker process; all are 0 at first."""

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells

    @property
    def beat(self) -> int:
        """When the worker's reactor ran last, in nanoseconds of the monotonic clock."""
        return int(self._cells[_BEAT])

    @beat.setter
    def beat(self, nanoseconds: int) -> None:
        self._cells[_BEAT] = nanoseconds

    @property
    def held(self) -> int:
        """How many connections the worker holds."""
        return int(self._cells[_HELD])

    @held.setter
    def held(self, connections: int) -> None:
        self._cells[_HELD] = connections

    @property
    def accepts(self) -> bool:
        """Whether the worker accepts connections: it serves, and does not drain."""
        return bool(self._cells[_ACCEPTS])

    @accepts.setter
    def accepts(self, accepts: bool) -> None:
        self._cells[_ACCEPTS] = accepts

    @property
    def replaced(self) -> bool:
        """Whether the worker is to end because another one serves in its place.

        The first process sets this before it asks the worker to end.
        """
        return bool(self._cells[_REPLACED])

    @replaced.setter
    def replaced(self, replaced: bool) -> None:
        self._cells[_REPLACED] = replaced

    def clear(self) -> None:
        """Set all numbers to 0, for the next process."""
        for cell in range(_ROW_CELLS):
            self._cells[cell] = 0


class Table:
    """The rows of all worker processes.

    Attributes:
        descriptor: The file descriptor to hand to the workers.
    """

    def __init__(self, descriptor: int) -> None:
        """*descriptor* is that of another `Table`, perhaps in another process."""
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self._cells = memoryview(self._memory).cast("q")

    @classmethod
    def of(cls, rows: int) -> Table:
        """A new table with so many rows."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("hangup-workers")
        else:  # macOS
            descriptor, path = tempfile.mkstemp()
            os.unlink(path)
        os.truncate(descriptor, rows * _ROW_CELLS * _CELL_BYTES)
        return cls(descriptor)

    @property
    def held(self) -> list[int]:
        """How many connections the worker of each row holds."""
        return self._cells[_HELD::_ROW_CELLS].tolist()

    @property
    def accepts(self) -> list[int]:
        """For each row 1 if its worker accepts connections, or 0."""
        return self._cells[_ACCEPTS::_ROW_CELLS].tolist()

    def __len__(self) -> int:
        return len(self._cells) // _ROW_CELLS

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Row(self._cells[index * _ROW_CELLS : (index + 1) * _ROW_CELLS])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))
