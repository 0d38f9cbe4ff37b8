"""Where a reader finds the entry of a code: on the web, or else on the command line."""

from __future__ import annotations

import re
from typing import Final

from .lookalikes import LOOKALIKES
from .remedies import entry_of

#: The address of the documentation, with a slash at the end; None as long as no host is known
#: (docs/releasing.md).  The page of the codes is ``codes.html`` there.
DOCS_URL: str | None = None

#: What prints an entry, wherever the package is installed.
COMMAND: Final = "python -m twisted_hangup code"

#: A name that a shell leaves as it is, short enough for a line of a report.  A forged line of a
#: log may hold others, and a reader copies the command.
_TYPEABLE: Final = re.compile(r"[A-Za-z0-9_-]{1,50}")


def anchor_of(name: str) -> str | None:
    """The anchor of the entry for a code, or for a name in `LOOKALIKES`; None without an entry."""
    entry = name if name in LOOKALIKES else entry_of(name)
    return None if entry is None else entry.rstrip("*").lower()


def url_of(name: str | None) -> str | None:
    """The URL of the entry for *name*; None without an entry, or where no host is known."""
    anchor = None if name is None else anchor_of(name)
    return None if DOCS_URL is None or anchor is None else f"{DOCS_URL}codes.html#{anchor}"


def link_of(name: str) -> str:
    """What leads a person to the entry for *name*: its URL, else the command that prints it."""
    shown = name if _TYPEABLE.fullmatch(name) else (entry_of(name) or "").rstrip("*")
    return url_of(name) or f"{COMMAND} {shown}"
