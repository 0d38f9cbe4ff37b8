r"""The cases of ``tests/cases``: pages of prose with bytes, and what has to come of them.

``tests/cases/README.md`` tells how a case is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from twisted_hangup.limits import Limits

from .node import Message, Verdict

PAGES: Final = Path(__file__).parent.parent / "cases"

_PART: Final = re.compile(
    r"^## (?P<title>.+)$"
    r"|^```(?P<block>http|options|events)\n(?P<text>(?:.*\n)*?)```$"
    r"|^deviation: (?P<deviation>.+)$",
    re.MULTILINE,
)
_REPEATED: Final = re.compile(r"\{([^{}]+)\*([0-9]+)\}")
_WORDS: Final = {"yes": True, "no": False}


@dataclass
class Case:
    """One stream, and what has to come of it.

    Attributes:
        name: Page and title, and a number after the first case under a title.
        stream: All that the client sends.
        options: `Limits` by name, and ``end_of_input``.
        events: What `told` has to give.
        deviation: Where Node decides otherwise: the name in docs/deviations.md.
    """

    name: str
    stream: bytes
    options: dict[str, int | bool]
    events: bytes
    deviation: str | None = None

    @cached_property
    def limits(self) -> Limits:
        known = {field.name for field in fields(Limits)}
        return Limits(**{name: at for name, at in self.options.items() if name in known})  # type: ignore[arg-type]

    @property
    def end_of_input(self) -> bool:
        """Whether the client ends its input after the stream; else it waits."""
        return bool(self.options.get("end_of_input"))


def wire(text: str) -> bytes:
    r"""The bytes that *text* stands for: ``\r \n \t \\ \x00``, and ``{a*17000}`` repeats."""
    long = _REPEATED.sub(lambda mark: mark[1] * int(mark[2]), text.replace("\n", ""))
    return long.encode("ascii").decode("unicode_escape").encode("latin-1")


@cache
def load() -> tuple[Case, ...]:
    """All cases, page by page."""
    pages = sorted(path for path in PAGES.glob("*.md") if path.stem != "README")
    return tuple(case for page in pages for case in _cases(page.stem, page.read_text()))


def _cases(page: str, text: str) -> Iterator[Case]:
    title, number = "", 0
    case: Case | None = None
    for part in _PART.finditer(text):
        block = part["block"]
        if part["title"] or block == "http":
            if case is not None:
                yield case
            case = None
        if part["title"]:
            title, number = part["title"], 0
        elif block == "http":
            number += 1
            name = f"{page}: {title}" + (f" ({number})" if number > 1 else "")
            case = Case(name, wire(part["text"]), {}, b"")
        else:
            assert case is not None, f"{page}: {title}: {part[0]!r} belongs to no http block"
            if block == "events":
                case.events = wire(part["text"].replace("\n", r"\n"))
            elif block == "options":
                case.options = dict(map(_option, part["text"].splitlines()))
            else:
                case.deviation = part["deviation"]
    if case is not None:
        yield case


def _option(line: str) -> tuple[str, int | bool]:
    name, value = re.split(r" *= *", line)
    return name, _WORDS[value] if value in _WORDS else int(value)


def told(verdict: Verdict) -> bytes:
    """The text of an events block: what came out, and the error that ended it."""
    lines = [line for message in verdict.messages for line in _message(message)]
    error = verdict.error
    if error is not None:
        at = "end" if error.offset is None else error.offset
        lines.append(f'error {error.code} "{error.reason}" at {at}'.encode())
    return b"".join(line + b"\n" for line in lines)


def _message(message: Message) -> Iterator[bytes]:
    line = b"request %b %b HTTP/%b" % (message.method, message.target, message.version)
    yield line + b" (upgrade)" * message.upgrade + b" (last)" * (not message.keep_alive)
    yield from (b"field " + _field(*pair) for pair in message.fields)
    if message.body:
        yield b"body " + message.body
    yield from (b"trailer " + _field(*pair) for pair in message.trailers or [])
    if message.complete:
        yield b"end"


def _field(name: bytes, value: bytes) -> bytes:
    return name + b": " + value if value else name + b":"
