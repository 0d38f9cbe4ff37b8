"""``python -m twisted_hangup code``: what a code means, and what to do about it."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Final

from ..parser.refusals import Rule
from ..report.entries import GROUPS, entry_named
from ..report.links import COMMAND, url_of
from ..report.lookalikes import LOOKALIKES
from ..report.remedies import REMEDIES, Remedy
from ..report.report import WIDTH
from ..report.text import visible
from .hexdump import Paint
from .problem import CommandError

#: The operating system's errno names, and Node's for a host name that DNS does not know.
_ERRNOS: Final = {
    **{name: os.strerror(number) for number, name in errno.errorcode.items()},
    "ENOTFOUND": "Name or service not known",
}

#: Names that have an entry.
_NAMES: Final = (*REMEDIES, *LOOKALIKES)

#: How much a slip is like the name that was meant, as `difflib` counts.  Errno names are short and
#: many.  Most names of some families are in no table of ours: there a slip is a letter or two.
_ALIKE: Final = 0.6
_ALIKE_ERRNO: Final = 0.8
_ALIKE_IN_FAMILY: Final = 0.9
_FAMILIES: Final = ("err_ssl_", "err_tls_", "err_http2_")


def add_code_command(commands: Any) -> None:
    """Add ``code`` to argparse's subcommands; it sets ``run``, called with the options."""
    parser = commands.add_parser(
        "code",
        help="say what a code means, and what to do about it",
        description="Say what each CODE means, what the client gets, the usual cause and the "
        "cure. Without a CODE, list them all. The exit status is 2 if there is no such code.",
    )
    parser.add_argument(
        "codes",
        metavar="CODE",
        nargs="*",
        help="a code, such as HPE_STRICT or ECONNRESET, or a name in looks_like, such as tls-hello",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    """Print what *options* name, or the list of all.

    Raises:
        CommandError: Some code is unknown.  The others have been printed.
    """
    paint = Paint.for_terminal(sys.stdout)
    texts, problems = [], []
    for code in options.codes:
        try:
            texts.append("\n".join(_explained(code, paint)))
        except CommandError as problem:
            problems.append(str(problem))
    if not options.codes:
        texts.append("\n".join(_listed(paint)))
    if texts:
        print("\n\n".join(texts))
    if problems:
        raise CommandError("; ".join(problems))


def _listed(paint: Paint) -> Iterator[str]:
    """A line for each name, under headings."""
    for heading, codes in GROUPS.items():
        yield paint.strong(f"{heading}:")
        for code, meaning in codes.items():
            yield f"{code:{max(map(len, REMEDIES))}}  {meaning}"
        yield ""
    yield paint.strong("What the bytes look like:")
    for name, lookalike in LOOKALIKES.items():
        yield f"{name:{max(map(len, LOOKALIKES))}}  {lookalike.words}"


def _explained(code: str, paint: Paint) -> Iterator[str]:
    if code in LOOKALIKES:
        yield paint.strong(f"{code}: it looks like {LOOKALIKES[code].words}")
        yield ""
        yield from _remedy(LOOKALIKES[code].remedy, paint)
    elif code in REMEDIES or f"{code}*" in REMEDIES:
        yield from _entry(code, paint)
    elif code in _ERRNOS:
        yield paint.strong(f"{code}: {_ERRNOS[code]}")
        yield from _wrapped(
            "This is the operating system's name for why a connection ended, or could not be made."
        )
    elif entry_named(code) and not _meant(code):
        yield from _entry(code, paint)
    else:
        raise unknown(code)
    if url := url_of(code):
        yield url


def unknown(code: str) -> CommandError:
    """The error for a *code* that does not exist, with the one that may be meant."""
    meant = _meant(code)
    hint = f": did you mean {meant}?" if meant else f"; {COMMAND} lists them all"
    return CommandError(f"no code is called {visible(code)}{hint}")


def _meant(code: str) -> str | None:
    """The name that *code* is probably a slip of, or None."""
    word = code.lower()
    alike = _ALIKE_IN_FAMILY if word.startswith(_FAMILIES) else _ALIKE
    for names, least in ((_ERRNOS, _ALIKE_ERRNO), (_NAMES, alike)):
        in_lower_case = {name.lower(): name for name in names}
        if close := get_close_matches(word, in_lower_case, 1, least):
            return in_lower_case[close[0]]
    return code.upper() if code != code.upper() and entry_named(code.upper()) else None


def _entry(code: str, paint: Paint) -> Iterator[str]:
    one = entry_named(code)
    assert one is not None
    yield paint.strong(f"{visible(code)}: {one.meaning}")
    yield from _wrapped(f"The client gets {one.answer}.")
    yield ""
    yield from _rule(one.rule, paint)
    yield from _remedy(one.remedy, paint)
    if one.example:
        yield ""
        yield paint.strong("Example:")
        for line in one.example:
            pointer = line.strip().startswith("^")
            yield f"  {paint.bad(line) if pointer else line}"
    for variant in one.variants:
        yield ""
        reasons = ", ".join(f'"{reason}"' for reason in variant.reasons)
        whose = " of a response" if variant.about == "response" else ""
        yield from map(paint.strong, _wrapped(f"Reason{whose}: {reasons}"))
        yield from _rule(variant.rule, paint)
        yield from _remedy(variant.remedy, paint)


def _rule(rule: Rule | None, paint: Paint) -> Iterator[str]:
    if rule is not None:
        source = f" {rule.source}." if rule.source else ""
        yield from paragraph("Rule:  ", f"{rule.text}.{source}", paint)


def _remedy(remedy: Remedy | None, paint: Paint) -> Iterator[str]:
    if remedy is not None:
        yield from paragraph("Cause: ", remedy.cause, paint)
        yield from paragraph("Cure:  ", remedy.cure, paint)


def paragraph(title: str, text: str, paint: Paint) -> Iterator[str]:
    """Lines of *text* beside *title*, none wider than `WIDTH` columns."""
    for number, line in enumerate(_wrapped(text, WIDTH - len(title))):
        yield (" " * len(title) if number else paint.strong(title)) + line


def _wrapped(text: str, width: int = WIDTH) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)
