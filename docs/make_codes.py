"""docs/codes.md, made of the tables that the server itself speaks from.

python docs/make_codes.py > docs/codes.md
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from twisted_hangup.parser.refusals import Rule
from twisted_hangup.report.entries import GROUPS, Entry, entry_named
from twisted_hangup.report.links import anchor_of
from twisted_hangup.report.lookalikes import LOOKALIKES, Lookalike
from twisted_hangup.report.remedies import Remedy

_HEAD: Final = """\
# Error codes

Look up the code that a log, a report or `ClientError.code` shows. Each entry says what the code
means, what the client gets, the usual cause and the cure. The same entries on the command line:

    python -m twisted_hangup code HPE_INVALID_HEADER_TOKEN

To have the bytes themselves explained, give them as a file, or a line of the
[error log](logs.md) on standard input:

    python -m twisted_hangup explain packet.bin

- Codes that begin with `HPE_` are those of llhttp, the HTTP parser in Node.
- Codes that begin with `ERR_` are Node's where Node has one, else our own. What comes after
  `ERR_SSL_` is OpenSSL's name for the reason.
- Codes such as `ECONNRESET` are the operating system's errno names. Here the client hangs up. In an
  error of [`HangupAgent`](retry.md) the server does, with the same codes.

A code never changes. The same code can have several reasons: the log and the report show the
reason after the code. Text under a quoted reason applies to that reason; the text above applies to
every other reason. The status that a client gets is the default answer, and a
[handler](errors.md) can give another one. Where the bytes are [known to be something
else](#what-it-looks-like), such as the start of TLS, a report names that entry in place of the
code's.
"""

_LOOKALIKES: Final = """
## What it looks like

Some bytes are known: those of another protocol, or of a common mistake. The name is `looks_like`
in the error log and in the [metric](metrics.md) `hangup_lookalikes_total`. The console says "looks
like" and the words.

"""

#: Words that become code.
_CODE: Final = re.compile(
    r"(?<!\w)--(?:lenient [a-z-]+|[a-z][a-z0-9-]+(?: haproxy:tcp:8000| [A-Z]+\b|))"
    r"|(?:Limits|Timeouts)\.\w+"
    r"|Lenience\(\w+=\w+\)|haproxy:|cancel_on_hangup|!#[^ ,;]+"
)

#: How such words begin -> the page that has more.
_PAGES: Final = {
    "--lenient": "lenience.md",
    "Lenience": "lenience.md",
    "Limits": "limits.md",
    "Timeouts": "limits.md",
    "haproxy:": "balancer.md",
    "cancel_on_hangup": "cancel.md",
}

#: Options of other programs.
_OTHERS: Final = ("--cacert", "--http2-prior-knowledge")

_RFC: Final = re.compile(r"RFC (\d+), section ([\d.]*\d)")


def page() -> str:
    """The whole page."""
    return "".join(
        (
            _HEAD,
            *_index(),
            *(line for heading, codes in GROUPS.items() for line in _group(heading, codes)),
            _LOOKALIKES,
            ", ".join(f"[{name}](#{name})" for name in LOOKALIKES),
            ".\n",
            *map(_lookalike, LOOKALIKES.values()),
        )
    )


def _index() -> Iterator[str]:
    """A table of all codes by group."""
    yield "\n| code | what it means | the client gets |\n|---|---|---|\n"
    for heading, codes in GROUPS.items():
        yield f"| **[{heading}](#{heading.lower().replace(' ', '-').replace('/', '')})** | | |\n"
        for code in codes:
            one = _entry(code)
            gets = re.split("[,:;]| from", one.answer)[0]
            yield f"| [`{code}`](#{anchor_of(code)}) | {_markdown(one.meaning)} | {gets} |\n"


def _group(heading: str, codes: Iterable[str]) -> Iterator[str]:
    yield f"\n## {heading}\n"
    for code in codes:
        one = _entry(code)
        meaning = _capitalized(_markdown(one.meaning))
        yield f"\n### {_escaped(code)}\n\n{meaning}. The client gets {one.answer}.\n"
        yield _rule(one.rule) + _remedy(one.remedy)
        if one.example:
            yield (
                "\n**Example.**\n\n```text\n"
                + "".join(f"{line}\n" for line in one.example)
                + "```\n"
            )
        for variant in one.variants:
            reasons = ", ".join(f'"{_escaped(reason)}"' for reason in variant.reasons)
            whose = " of a response" if variant.about == "response" else ""
            text = _rule(variant.rule) + _remedy(variant.remedy)
            yield f"\n**Reason{whose}: {reasons}.**\n{text}"


def _entry(code: str) -> Entry:
    one = entry_named(code)
    assert one is not None
    return one


def _lookalike(lookalike: Lookalike) -> str:
    words = f"It looks like {_escaped(lookalike.words)}."
    return f"\n### {lookalike.name}\n\n{words}\n{_remedy(lookalike.remedy)}"


def _rule(rule: Rule | None) -> str:
    if rule is None:
        return ""
    source = _RFC.sub(r"[\g<0>](https://www.rfc-editor.org/rfc/rfc\1.html#section-\2)", rule.source)
    return f"\n{_capitalized(_markdown(rule.text))}." + (f" {source}." if source else "") + "\n"


def _remedy(remedy: Remedy | None) -> str:
    if remedy is None:
        return ""
    cause, cure = map(_markdown, remedy)
    return f"\n**Cause.** {cause}\n\n**Cure.** {cure}\n"


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _markdown(text: str) -> str:
    """*text* as it is, with names of options and settings as code, and links to their pages."""
    pieces: list[str] = []
    end = 0
    for match in _CODE.finditer(text):
        pieces += _escaped(text[end : match.start()]), _code(match[0])
        end = match.end()
    return "".join([*pieces, _escaped(text[end:])])


def _code(words: str) -> str:
    """*words* as code that is a link, where there is a page."""
    page = next((page for start, page in _PAGES.items() if words.startswith(start)), None)
    if page is None and words.startswith("--") and words not in _OTHERS:
        page = f"command-line.md#{words.split()[0]}"
    ticks = "``" if "`" in words else "`"
    code = f"{ticks}{words}{ticks}"
    return code if page is None else f"[{code}]({page})"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*\[\]#|])", r"\\\1", text).replace("<", "&lt;")


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201  # it is a command
